"""Pictures of a folder at a URL, copied to the disk once, and again where they changed.

    ROOT/copies/KEY/files/…      the pictures, under their own paths
                    copied.json  path → text that changed when the picture did

One listing of the URL tells what is new, changed or gone.
"""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from viewgen.datasets.lock import directory_lock
from viewgen.datasets.pictures import MAX_FILE_BYTES, PICTURE_SUFFIXES
from viewgen.documents import read_object
from viewgen.errors import CorruptDataError, DataError, MissingFileError, StorageError, ViewgenError
from viewgen.files import write_atomically
from viewgen.progress import Progress
from viewgen.redaction import public_url
from viewgen.store.storage import Storage, open_storage

__all__ = ["copied_folder"]

NUM_THREADS = 16
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
    copy = root / "copies" / hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    if not download:
        if not (known := _known(copy)) or "" in known.values():
            raise MissingFileError(f"the pictures below {public_url(url)} are not copied to {root} yet")
        return copy / "files"
    storage = open_storage(url)
    stamps = {path: stamp for path, stamp in storage.stamps().items() if _is_picture(path)}
    if not stamps:
        raise MissingFileError(
            f"there are no pictures below {public_url(url)}; expected {public_url(url)}/CLASS/picture.png"
        )
    if strange := [path for path in stamps if _leads_out(path)]:
        raise DataError(f"{public_url(url)} has the path {strange[0]!r}, which is no name of a file here")
    with directory_lock(copy):
        try:
            _update(storage, stamps, copy)
        except ViewgenError:  # some are errors of the system too
            raise
        except OSError as error:
            raise StorageError(f"cannot write the copy in {copy}: {error.strerror}") from error
    return copy / "files"


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
