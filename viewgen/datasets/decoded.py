"""Decoded copies: a split's images as one uint8 ``.npy``, memory-mapped, beside its labels and digest.

    ROOT/NAME/decoded/SPLIT/images.npy   (N, 3, H, W) uint8
                            labels.npy   (N,) int64
                            about.json   digest, class names, source of the decoding

The directory appears by one rename, complete, or not at all.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.dataset import ContentDigest, ImageDataset
from viewgen.datasets.lock import directory_lock
from viewgen.documents import read_object
from viewgen.errors import CorruptDataError, DataError, StorageError, ViewgenError
from viewgen.progress import Progress

__all__ = ["Blocks", "DecodedImages", "Labelling", "decoded_folder", "load_decoded", "read_decoded"]

FORMAT = 1
SPOT_BYTES = 4096
NUM_SPOTS = 64
# class names of a large data set, and what its copy was made of
MOST_ABOUT_BYTES = 32_000_000


@dataclass(frozen=True, slots=True)
class Labelling:
    """Result of a decoder after the last image: labels `(N,)`, int64, and the class names."""

    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


# A decoder yields blocks of images (B, 3, H, W), uint8, in source order, and returns their labelling.
Blocks = Generator[NDArray[np.uint8], None, Labelling]


class DecodedImages:
    """A memory-mapped ``.npy``; opened when first read, so that it pickles as a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array: NDArray[np.uint8] | None = None

    def __reduce__(self) -> tuple[type["DecodedImages"], tuple[Path]]:
        return DecodedImages, (self.path,)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._array is None:
            self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return np.asarray(self._array[indices])


def decoded_folder(root: Path, kind: str, name: str, split: str) -> Path:
    """Return the folder of the decoded copy of a data set that is known by a path or URL."""
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return root / kind / key / split


def load_decoded(
    name: str,
    split: str,
    directory: Path,
    source: dict[str, Any],
    decode: Callable[[], Blocks],
    *,
    num_images: int,
) -> ImageDataset:
    """Open the decoded copy of a split, making it first if it is absent or was made from another source.

    Args:
        name: the data set's name.
        split: the split's name.
        directory: folder of the copy; its parent also holds the lock.
        source: JSON values on which the copy depends (archive checksum, listing, size).
        decode: generator of the images; called only if a copy has to be made.
        num_images: expected number of images; used only by the progress display.

    Raises:
        CorruptDataError: the copy was altered since, or the source is damaged.
        StorageError: the copy cannot be written.
    """
    found = read_decoded(name, split, directory, source)
    if found is not None:
        return found
    with directory_lock(directory.parent):
        found = read_decoded(name, split, directory, source)
        if found is not None:
            return found
        for stale in directory.parent.glob(".new-*"):
            shutil.rmtree(stale)
        fresh = directory.parent / f".new-{uuid4().hex}"
        try:
            fresh.mkdir()
            with Progress().bar(f"decoding {name}, {split}, once", num_images, unit="images") as bar:
                _write(fresh, split, source, decode(), bar.update)
            if directory.exists():
                shutil.rmtree(directory)
            os.rename(fresh, directory)
        except ViewgenError:
            raise
        except OSError as error:
            raise StorageError(f"cannot write the decoded images to {directory}: {error.strerror}") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    found = read_decoded(name, split, directory, source)
    assert found is not None
    return found


def read_decoded(name: str, split: str, directory: Path, source: dict[str, Any]) -> ImageDataset | None:
    """Open the decoded copy in `directory`; None if there is none of this format and source."""
    try:
        about = read_object(directory / "about.json", most_bytes=MOST_ABOUT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CorruptDataError as error:
        raise _altered(directory, str(error)) from error
    except OSError as error:
        raise StorageError(f"cannot read {directory}: {error.strerror}") from error
    images = directory / "images.npy"
    try:
        if about["format"] != FORMAT or about["source"] != source:
            return None
        if not all((directory / name).is_file() for name in ("images.npy", "labels.npy")):
            raise ValueError("images.npy or labels.npy is no file")
        # mapped first: a header that claims more than the file holds takes no memory
        labels = np.array(np.load(directory / "labels.npy", mmap_mode="r", allow_pickle=False))
        shape = np.load(images, mmap_mode="r", allow_pickle=False).shape
        intact = (
            list(shape) == about["shape"] and len(labels) == shape[0] and _check(directory) == about["check"]
        )
        digest, class_names = str(about["digest"]), tuple(about["class_names"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _altered(directory, f"{type(error).__name__}: {error}") from error
    if not intact:
        raise _altered(directory, "its bytes are not those that were written")
    return ImageDataset(
        name=name,
        split=split,
        image_size=shape[2],
        num_classes=len(class_names),
        class_names=class_names,
        pixels=DecodedImages(images),
        targets=labels,
        stored_digest=digest,
    )


def _write(
    directory: Path, split: str, source: dict[str, Any], blocks: Blocks, report: Callable[[int], None]
) -> None:
    digest = ContentDigest()
    num_images = 0
    image_shape: tuple[int, ...] = ()
    with open(directory / "images.npy", "wb") as out:
        out.write(_header((0, 3, 1, 1)))
        while True:
            try:
                block = np.ascontiguousarray(next(blocks))
            except StopIteration as end:
                labelling: Labelling = end.value
                break
            out.write(block.reshape(-1).data)
            digest.update(block)
            num_images += len(block)
            image_shape = block.shape[1:]
            report(num_images)
        if not num_images:
            raise DataError(f"split {split!r} has no images")
        if len(labelling.labels) != num_images:
            raise CorruptDataError(
                f"split {split!r} has {num_images} images but {len(labelling.labels)} labels"
            )
        out.seek(0)
        out.write(_header((num_images, *image_shape)))
        out.flush()
        os.fsync(out.fileno())
    with open(directory / "labels.npy", "wb") as out:
        np.save(out, labelling.labels.astype(np.int64), allow_pickle=False)
        out.flush()
        os.fsync(out.fileno())
    about = {
        "format": FORMAT,
        "source": source,
        "shape": [num_images, *image_shape],
        "class_names": list(labelling.class_names),
        "digest": digest.finish(labelling.labels),
        "check": _check(directory),
    }
    with open(directory / "about.json", "w", encoding="utf-8") as text:
        json.dump(about, text, indent=1)
        text.flush()
        os.fsync(text.fileno())


def _header(shape: tuple[int, ...]) -> bytes:
    """Return the ``.npy`` header of a uint8 array; NumPy pads it, so the number of rows can be set last."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    header = out.getvalue()
    assert len(header) == 128
    return header


def _check(directory: Path) -> str:
    """Return a cheap hash of the labels, the size of the images, their ends and evenly spaced samples."""
    images = directory / "images.npy"
    size = images.stat().st_size
    found = hashlib.sha256(str(size).encode())
    found.update((directory / "labels.npy").read_bytes())
    with open(images, "rb") as handle:
        for offset in np.linspace(0, max(size - SPOT_BYTES, 0), NUM_SPOTS).astype(int).tolist():
            handle.seek(offset)
            found.update(handle.read(SPOT_BYTES))
    return found.hexdigest()


def _altered(directory: Path, reason: str) -> CorruptDataError:
    return CorruptDataError(
        f"the decoded copy {directory} is damaged: {reason}. Delete that directory and run again."
    )
