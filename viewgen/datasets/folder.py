"""``folder:PATH``: pictures sorted into one directory per class.

Either PATH/CLASS/… (one split, ``train``) or PATH/train/CLASS/… with PATH/test/CLASS/… or PATH/val/CLASS/…
beside it. Classes are the directory names of the train split, sorted; images are sorted by class, then path.
``folder:PATH?size=64`` scales the shorter side of every picture to 64 pixels and cuts out the centre; without
it all pictures must be square and of one size. ``?test=0.2&val=0.1`` holds out these shares of each class,
chosen by the files' names (`viewgen.datasets.shares`). Pictures that cannot be used are listed with their
reasons, and the folder is refused; ``?damaged=skip`` leaves them out instead. PATH may be a URL that fsspec
knows, such as ``s3://bucket/photos``: its pictures are then copied to the data folder
(`viewgen.datasets.copied`).
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.copied import copied_folder, sizes_at_url, spread
from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import Blocks, Labelling, decoded_folder, load_decoded
from viewgen.datasets.files import is_url
from viewgen.datasets.pictures import (
    MAX_FILE_BYTES,
    PICTURE_SUFFIXES,
    decode_blocks,
    decode_picture,
    picture_size,
)
from viewgen.datasets.shares import divide
from viewgen.errors import (
    CorruptDataError,
    DataError,
    MissingFileError,
    StorageError,
    UsageError,
    ViewgenError,
)
from viewgen.files import open_regular, unless_absent
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "MAX_IMAGE_SIZE", "FolderSettings", "fingerprint", "picture_files", "read_picture"]

MAX_IMAGE_SIZE = 1024
MOST_LISTED = 10_000


class FolderSettings(Settings):
    """Folder and size of the pictures."""

    title: ClassVar[str] = "folder"
    path: str = setting("", "folder or URL of the pictures")
    size: int | None = setting(None, "side in pixels to which pictures are scaled and cropped")
    damaged: Literal["refuse", "skip"] = setting(
        "refuse", "pictures that cannot be used: refuse the folder, or leave them out"
    )
    test: float = setting(0.0, "share of each class that is held out as the test split", ge=0, lt=1)
    val: float = setting(0.0, "share of each class that is held out as the val split", ge=0, lt=1)

    @property
    def name(self) -> str:
        """Canonical name of the data set."""
        chosen = [f"size={self.size}"] * bool(self.size) + ["damaged=skip"] * (self.damaged == "skip")
        chosen += [f"{split}={share:g}" for split, share in (("test", self.test), ("val", self.val)) if share]
        path = self.path.rstrip("/") if is_url(self.path) else Path(self.path).expanduser().resolve()
        return f"folder:{path}" + ("?" + "&".join(chosen) if chosen else "")


def load(settings: FolderSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split, decoding it on first use and again when a file was added, removed or changed.

    Raises:
        UsageError: no path, or an impossible size.
        MissingFileError: there is no such directory.
        DataError: no pictures, an empty class, or sizes that differ.
        CorruptDataError: pictures cannot be decoded; the message lists them with reasons.
    """
    image_size, name = settings.size, settings.name
    split, class_names, files = _listed(settings, split, _checked(settings, root, download))
    source = {"size": image_size, "classes": list(class_names), "listing": fingerprint(files)}
    return load_decoded(
        name,
        split,
        decoded_folder(root, "folder", name, split),
        source,
        lambda: _blocks(files, class_names, image_size, skip=settings.damaged == "skip"),
        num_images=len(files),
    )


def _listed(
    settings: FolderSettings, split: str, path: Path
) -> tuple[str, tuple[str, ...], list[tuple[Path, int]]]:
    """Return the canonical name of a split of a folder, the class names, and the files with their labels."""
    directories = _split_directories(path)
    shares = [name for name in ("test", "val") if getattr(settings, name)]
    if "test" in shares and "test" in directories:
        raise UsageError(
            f"?test={settings.test:g} would divide pictures of {directories['train']}, beside which there is "
            f"{directories['test']}; leave it out, or name a folder without that one"
        )
    known = [*directories, *(name for name in shares if name not in directories)]
    split = canonical_split(settings.name, split, known, {} if "val" in known else {"val": "test"})
    class_names = _class_directories(directories["train"])
    whole = _pictures(directories.get(split, directories["train"]), class_names, allow_empty=split == "test")
    if not shares or (split in directories and split != "train"):
        return split, class_names, whole
    files = divide(whole, directories["train"], test=settings.test, val=settings.val)[split]
    if not files:
        raise DataError(
            f"split {split!r} of {settings.name} is empty: no class has enough pictures for a share of "
            f"{getattr(settings, split):g}; add pictures, or give a larger share"
        )
    return split, class_names, files


def raw_sizes(settings: FolderSettings, split: str, most: int, root: Path) -> list[tuple[int, int]]:
    """Return width and height of the files themselves, of at most `most` pictures spread over the split.

    Pictures that cannot be opened are left out. Those at a URL are copied only if all are asked for.
    """

    def listed(path: Path) -> list[Path]:
        return [file for file, _ in _listed(settings, split, path)[2]]

    _check_settings(settings)
    if is_url(settings.path):
        found = sizes_at_url(settings.path.rstrip("/"), root, most, listed)
        if found is not None:
            return found
    files = spread(listed(_checked(settings, root, download=True)), most)
    return [size for file in files if (size := picture_size(file)) is not None]


def resized_name(settings: FolderSettings, image_size: int) -> str:
    """Return the name of the same pictures at another size."""
    return settings.replace(size=image_size).name


def _refuse_download(root: Path) -> list[Path]:
    raise UsageError("folder:PATH is read from your disk; there is nothing to download")


def _checked(settings: FolderSettings, root: Path, download: bool) -> Path:
    """Return the folder on the disk, copied there if it is at a URL and may be."""
    _check_settings(settings)
    if is_url(settings.path):
        return copied_folder(settings.path.rstrip("/"), root, download=download)
    path = Path(settings.path).expanduser().resolve()
    if not path.is_dir():
        raise MissingFileError(f"there is no directory {path}; expected {path}/CLASS/picture.png")
    return path


def _check_settings(settings: FolderSettings) -> None:
    if settings.size is not None and not 8 <= settings.size <= MAX_IMAGE_SIZE:
        raise UsageError(f"?size= takes 8 to {MAX_IMAGE_SIZE} pixels, got {settings.size}")
    if settings.test + settings.val >= 1:
        raise UsageError(
            f"?test={settings.test:g}&val={settings.val:g} leave nothing to train on; expected less than 1 "
            "in sum"
        )
    if not settings.path:
        raise UsageError("folder: needs a path, for example folder:/data/flowers")


def _split_directories(path: Path) -> dict[str, Path]:
    if not any(entry.is_dir() for entry in _visible(path / "train")):
        return {"train": path}
    held_out = next((folder for folder in (path / "test", path / "val") if folder.is_dir()), None)
    return {"train": path / "train", **({"test": held_out} if held_out else {})}


def _visible(path: Path) -> list[Path]:
    try:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(f"cannot list {path}: {error.strerror}") from error
    return sorted(entries, key=lambda entry: entry.name)


def _class_directories(path: Path) -> tuple[str, ...]:
    names = tuple(entry.name for entry in _visible(path) if entry.is_dir())
    if not names:
        loose = sum(entry.suffix.lower() in PICTURE_SUFFIXES for entry in _visible(path))
        found = f"{loose} pictures lie in it without a class directory" if loose else "it is empty"
        raise DataError(f"{path} has no class directories: {found}; expected {path}/CLASS/picture.png")
    return names


def _pictures(path: Path, class_names: tuple[str, ...], *, allow_empty: bool) -> list[tuple[Path, int]]:
    strangers = set(_class_directories(path)) - set(class_names)
    if strangers:
        raise DataError(f"{path} has the class {min(strangers)!r}, which the train split has not")
    files: list[tuple[Path, int]] = []
    for label, name in enumerate(class_names):
        found = picture_files(path / name)
        if not found and not allow_empty:
            suffixes = " ".join(sorted(PICTURE_SUFFIXES))
            raise DataError(
                f"class directory {path / name} holds no pictures ({suffixes}); fill or remove it"
            )
        files += [(file, label) for file in sorted(found, key=lambda file: file.relative_to(path).as_posix())]
    if not files:
        raise DataError(f"{path} holds no pictures")
    return files


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures below a folder; one that cannot be listed is an error, not an empty one."""
    found = []
    try:
        for parent, _, names in os.walk(folder, onerror=unless_absent):
            files = (Path(parent, name) for name in names if not name.startswith("."))
            found += [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()]
    except OSError as error:
        raise StorageError(f"cannot list {error.filename or folder}: {error.strerror}") from error
    return found


def fingerprint(files: list[tuple[Path, int]]) -> str:
    """Return a digest of the paths, labels, sizes and times of pictures."""
    found = hashlib.sha256()
    for file, label in files:
        status = file.stat()
        found.update(
            f"{label}\0{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
        )
    return found.hexdigest()


def _blocks(
    files: list[tuple[Path, int]], class_names: tuple[str, ...], image_size: int | None, *, skip: bool
) -> Blocks:
    problems: dict[Path, ViewgenError] = {}
    first, first_shape = _first_picture(files, image_size)
    _, first_height, first_width = first_shape

    def decode(entry: tuple[Path, int]) -> NDArray[np.uint8] | None:
        try:
            return usable(entry[0])
        except (CorruptDataError, DataError) as error:
            problems[entry[0]] = error
            return None

    def usable(file: Path) -> NDArray[np.uint8]:
        image = read_picture(file, image_size)
        _, height, width = image.shape
        if height != width or (height, width) != (first_height, first_width) or height > MAX_IMAGE_SIZE:
            raise DataError(
                f"{file} is {width}×{height} pixels, {first} {first_width}×{first_height}: pictures must "
                f"be square, of one size, at most {MAX_IMAGE_SIZE}. Add ?size=N to the name, as in "
                "folder:PATH?size=64, to scale the shorter side to N and cut out the centre."
            )
        return image

    yield from decode_blocks(files, decode)
    found = [problems[file] for file, _ in files if file in problems]
    if found and not skip:
        raise _all_problems(found)
    if found:
        logging.getLogger("viewgen").warning("left out: %s", _all_problems(found))
    labels = [label for file, label in files if file not in problems]
    return Labelling(np.array(labels, np.int64), class_names)


def _first_picture(files: list[tuple[Path, int]], image_size: int | None) -> tuple[Path, tuple[int, ...]]:
    """Return the first picture that can be decoded, which sets the size of all, and its shape."""
    problems: list[ViewgenError] = []
    for file, _ in files:
        try:
            return file, read_picture(file, image_size).shape
        except (CorruptDataError, DataError) as error:
            problems.append(error)
    raise _all_problems(problems)


def _all_problems(problems: list[ViewgenError]) -> ViewgenError:
    """Return one error that lists the problems of all pictures."""
    if len(problems) == 1:
        return problems[0]
    lines = [f"  {problem}" for problem in problems[:MOST_LISTED]]
    if len(problems) > MOST_LISTED:
        lines.append(f"  … and {len(problems) - MOST_LISTED} more")
    damaged = any(isinstance(problem, CorruptDataError) for problem in problems)
    advice = "repair or remove them, or add ?damaged=skip to the name of the data set to leave them out"
    text = "\n".join([f"{len(problems)} pictures cannot be used; {advice}:", *lines])
    return CorruptDataError(text) if damaged else DataError(text)


def read_picture(file: Path, image_size: int | None) -> NDArray[np.uint8]:
    """Read a picture as RGB, `(3, H, W)`, scaled and cropped to a size if one is given.

    Raises:
        CorruptDataError, DataError: it cannot be decoded, or is no 8-bit picture.
        StorageError: the file cannot be read.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise CorruptDataError(f"{file} has more than {MAX_FILE_BYTES} bytes; that is no picture")
        with open_regular(file) as opened:
            data = opened.read()
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from error
    return decode_picture(data, str(file), image_size)


ENTRY = DatasetEntry(
    name="folder",
    summary="pictures sorted into one folder per class",
    settings=FolderSettings,
    build=load,
    info=DatasetInfo(
        name="folder:PATH",
        image_size=None,
        num_classes=None,
        num_images={},
        source="pictures, PATH/CLASS/",
        licence="yours",
    ),
    is_present=lambda root: None,
    download=_refuse_download,
    raw_sizes=raw_sizes,
    resized_name=resized_name,
)
