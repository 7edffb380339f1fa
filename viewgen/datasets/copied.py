"""Pictures of a folder at a URL, copied to the disk once, and again where they changed.

    ROOT/copies/KEY/files/…      the pictures, under their own paths
                    copied.json  path → text that changed when the picture did

One listing of the URL tells what is new, changed or gone. The sizes of some pictures are told from their
first bytes, without a copy.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from viewgen.datasets.lock import directory_lock
from viewgen.datasets.pictures import MAX_FILE_BYTES, PICTURE_SUFFIXES, picture_size
from viewgen.documents import read_object
from viewgen.errors import CorruptDataError, DataError, MissingFileError, StorageError, ViewgenError
from viewgen.files import write_atomically
from viewgen.progress import Progress
from viewgen.redaction import public_url
from viewgen.store.storage import Storage, open_storage

__all__ = ["copied_folder", "sizes_at_url", "spread"]

NUM_THREADS = 16
HEADER_BYTES = 1 << 16
MOST_LISTING_BYTES = 1 << 30


def copied_folder(url: str, root: Path, *, download: bool = True) -> Path:
    """Return a local copy of the pictures below a URL, brought up to date.

    Args:
        url: folder of an fsspec file system, with the credentials of the environment.
        root: data folder.
        download: False to take the copy as it is.

    Raises:
        MissingFileError: there are no pictures, or no whole copy of them without a download.
        StorageError: the URL cannot be read, or the copy not be written.
        DataError: a path leads out of the folder, or a file is too large for a picture.
    """
    copy = _place(url, root)
    if not download:
        if not (known := _known(copy)) or "" in known.values():
            raise MissingFileError(f"the pictures below {public_url(url)} are not copied to {root} yet")
        return copy / "files"
    storage = open_storage(url)
    stamps = storage.stamps(_is_picture)
    _check(list(stamps), url)
    with directory_lock(copy):
        try:
            _update(storage, stamps, copy)
        except ViewgenError:  # some are errors of the system too
            raise
        except OSError as error:
            raise StorageError(f"cannot write the copy in {copy}: {error.strerror}") from error
    return copy / "files"


def sizes_at_url(
    url: str, root: Path, most: int, choose: Callable[[Path], list[Path]]
) -> list[tuple[int, int]] | None:
    """Return width and height of pictures below a URL that are not copied.

    Args:
        url: folder of an fsspec file system.
        root: data folder.
        most: largest number of pictures, spread over the chosen ones.
        choose: function of a folder that has their paths as empty files; returns those of the pictures.

    Returns:
        Sizes of those that have one; None where there is a copy, or no more pictures than `most`.

    Raises:
        MissingFileError, DataError, StorageError: as `copied_folder`.
    """
    storage = open_storage(url)
    paths = [path for path in storage.paths() if _is_picture(path)]
    _check(paths, url)
    if len(paths) <= most or _known(_place(url, root)):
        return None
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for parent in {(folder / path).parent for path in paths}:
                parent.mkdir(parents=True, exist_ok=True)
            for path in paths:
                (folder / path).touch()
            chosen = [path.relative_to(folder).as_posix() for path in spread(choose(folder), most)]
        except ViewgenError as error:
            raise type(error)(str(error).replace(name, public_url(url))) from None
        except OSError as error:
            raise StorageError(f"cannot lay out the names below {public_url(url)}: {error}") from error
    found = storage.map_parallel(lambda path: _size(storage, path), chosen)
    return [size for size in found if size is not None]


def spread(files: list[Path], most: int) -> list[Path]:
    """Return at most `most` of the files, from all over them."""
    count = min(len(files), most)
    return [files[place * len(files) // count] for place in range(count)]


def _size(storage: Storage, path: str) -> tuple[int, int] | None:
    """Return width and height of a picture, which few formats tell behind the first bytes."""
    start = storage.read_range(path, 0, HEADER_BYTES)
    return picture_size(start) or picture_size(storage.read_range(path, 0, MAX_FILE_BYTES))


def _place(url: str, root: Path) -> Path:
    return root / "copies" / hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _check(paths: list[str], url: str) -> None:
    """Refuse a URL without pictures, and one with names that are none here."""
    if not paths:
        raise MissingFileError(
            f"there are no pictures below {public_url(url)}; expected {public_url(url)}/CLASS/picture.png"
        )
    if strange := [path for path in paths if _leads_out(path)]:
        raise DataError(f"{public_url(url)} has the path {strange[0]!r}, which is no name of a file here")


def _known(copy: Path) -> dict[str, str]:
    """Return path → stamp of what was copied; the stamp is empty where that did not end."""
    try:
        return read_object(copy / "copied.json", most_bytes=MOST_LISTING_BYTES)
    except (FileNotFoundError, CorruptDataError):
        return {}


def _copy(storage: Storage, path: str, target: Path) -> None:
    data = storage.read_range(path, 0, MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"{storage.url}/{path} has more than {MAX_FILE_BYTES >> 20} MiB, too much for a picture"
        )
    write_atomically(target, data)


def _leads_out(path: str) -> bool:
    """Say whether a path is no plain one below its folder, such as ``/a``, ``a//b`` or ``../a``."""
    return not {"", ".", ".."}.isdisjoint(path.split("/")) or "\\" in path or ":" in path


def _is_picture(path: str) -> bool:
    place = PurePosixPath(path)
    hidden = any(part.startswith(".") for part in place.parts if part != "..")
    return place.suffix.lower() in PICTURE_SUFFIXES and not hidden


def _update(storage: Storage, stamps: dict[str, str], copy: Path) -> None:
    """Copy what is new or changed, and delete what is gone; the listing is written last."""
    files, listing = copy / "files", copy / "copied.json"
    known = _known(copy)
    if not known:
        shutil.rmtree(files, ignore_errors=True)  # of a damaged listing
    if known == stamps:
        return
    wanted = [path for path, stamp in stamps.items() if known.get(path) != stamp]
    # whatever may be on the disk is named; a later run copies again, or deletes, what has no stamp
    begun = {path: known[path] if known.get(path) == stamps.get(path) else "" for path in {*known, *stamps}}
    write_atomically(listing, json.dumps(begun).encode())
    for path in known.keys() - stamps.keys():
        (files / path).unlink(missing_ok=True)
        _remove_empty((files / path).parent, files)
    with (
        ThreadPoolExecutor(NUM_THREADS) as threads,
        Progress().bar(f"copying pictures of {storage.url}", len(wanted), unit="pictures") as bar,
    ):
        copied = threads.map(lambda path: _copy(storage, path, files / path), wanted)
        for done, _ in enumerate(copied, 1):
            bar.update(done)
    write_atomically(listing, json.dumps(stamps).encode())


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder, and those above it up to `top`, as far as they are empty: each would be a class."""
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
