"""Downloads that are atomic, resumable and verified.

A file arrives as ``NAME.part`` and takes its name only once its size and checksum are right. A cut connection
or a killed process leaves the part behind; the next try asks for the rest of it.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.addresses import check_redirect
from viewgen.datasets.lock import directory_lock
from viewgen.errors import CorruptDataError, MissingFileError, StorageError, ViewgenError
from viewgen.progress import Progress

__all__ = ["RemoteFile", "fetch", "locate", "obtain", "verify"]

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = (10, 60)
MAX_CUTS = 5
RETRY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file on the web.

    Attributes:
        name: file name in the data root.
        urls: official address first, then mirrors.
        num_bytes: its exact size.
        md5: its checksum, hexadecimal. MD5 is what the authors of these data sets publish.
    """

    name: str
    urls: tuple[str, ...]
    num_bytes: int
    md5: str

    def advice(self, directory: Path) -> str:
        """Say where to get the file by hand and where to put it."""
        return (
            f"Download {self.urls[0]} ({self.num_bytes / 1e6:.1f} MB, md5 {self.md5}) on a machine that can, "
            f"put it at {directory / self.name}, and run again."
        )


class _TransferError(Exception):
    """One address did not deliver; the text says why."""


def locate(file: RemoteFile, directories: Iterable[Path]) -> Path | None:
    """Return the first of `directories` / name that is a file, or None."""
    return next((path for path in (folder / file.name for folder in directories) if path.is_file()), None)


def obtain(file: RemoteFile, directories: tuple[Path, ...], *, download: bool) -> Path:
    """Return the verified path of `file`; a file in none of `directories` is fetched into the first one.

    Raises:
        MissingFileError: it is not there and `download` is off or the network failed.
        CorruptDataError: its size or checksum is wrong.
    """
    path = locate(file, directories)
    if path is not None:
        verify(file, path)
        return path
    if not download:
        raise MissingFileError(f"{file.name} is not at {directories[0]}. {file.advice(directories[0])}")
    return fetch(file, directories[0])


def verify(file: RemoteFile, path: Path) -> None:
    """Raise CorruptDataError unless the file at `path` has the right size and checksum."""
    size = path.stat().st_size
    if size != file.num_bytes:
        found, expected = f"{size} bytes", f"{file.num_bytes}"
    elif (md5 := _md5(path)) != file.md5:
        found, expected = f"md5 {md5}", file.md5
    else:
        return
    raise CorruptDataError(
        f"{path} is not the official file: it has {found}, expected {expected}. Delete it. "
        + file.advice(path.parent)
    )


def fetch(file: RemoteFile, directory: Path) -> Path:
    """Download `file` into `directory`, resuming an earlier attempt, and return its path.

    Raises:
        MissingFileError: no address could be reached; says which file, which URL and where to put it.
        CorruptDataError: what arrived has another checksum; nothing is kept.
        StorageError: the directory cannot be written.
    """
    path = directory / file.name
    with directory_lock(directory):
        if path.is_file():
            verify(file, path)
            return path
        part = path.with_name(f"{path.name}.part")
        failures: list[ViewgenError | _TransferError] = []
        for url in file.urls:
            try:
                _complete(file, url, part)
                os.replace(part, path)
                return path
            except (_TransferError, CorruptDataError) as error:
                failures.append(error)
            except OSError as error:
                raise StorageError(f"cannot write {part}: {error.strerror or error}") from error
    corrupt = [error for error in failures if isinstance(error, CorruptDataError)]
    if corrupt:
        raise corrupt[0]
    reasons = "; ".join(str(error) for error in failures)
    raise MissingFileError(f"{file.name} could not be downloaded ({reasons}). {file.advice(directory)}")


def _complete(file: RemoteFile, url: str, part: Path) -> None:
    """Bring `part` to the full, verified file."""
    resumed = part.exists()
    _transfer_all(file, url, part)
    if _md5(part) != file.md5 and resumed:
        # What an earlier try left may be of another file; only a whole transfer tells.
        part.unlink()
        _transfer_all(file, url, part)
    found = _md5(part)
    if found != file.md5:
        part.unlink()
        raise CorruptDataError(
            f"{url} delivered md5 {found}, expected {file.md5}: damaged on the way, or replaced. "
            f"Nothing was kept. {file.advice(part.parent)}"
        )


def _transfer_all(file: RemoteFile, url: str, part: Path) -> None:
    cuts = 0
    with Progress().bar(f"downloading {file.name}", file.num_bytes, unit="B") as bar:
        while (have := part.stat().st_size if part.exists() else 0) != file.num_bytes:
            if have > file.num_bytes:
                part.unlink()
                continue
            try:
                _transfer(file, url, part, have, bar.update)
            except _TransferError as error:
                arrived = part.stat().st_size if part.exists() else 0
                cuts += 1
                if arrived <= have or cuts > MAX_CUTS:
                    kept = f", {arrived} of {file.num_bytes} bytes kept for the next try" if arrived else ""
                    raise _TransferError(f"{error}{kept}") from error
                time.sleep(RETRY_SECONDS)


def _transfer(file: RemoteFile, url: str, part: Path, have: int, report: Callable[[int], None]) -> None:
    """Ask `url` for the bytes from `have` on and append them; raise _TransferError if it ends early."""
    import requests
    import urllib3

    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS, hooks={"response": _check_redirect}
        ) as response:
            if response.status_code not in (200, 206):
                if response.status_code == 416 and have:
                    part.unlink()
                raise _TransferError(f"{url} answered {response.status_code} {response.reason}")
            if response.status_code == 200:
                have = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise _TransferError(f"{url} answered with another range than asked for")
            with open(part, "r+b" if have else "wb") as out:
                out.seek(have)
                for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                    have += len(chunk)
                    if have > file.num_bytes:
                        raise _TransferError(f"{url} sends more than the expected {file.num_bytes} bytes")
                    out.write(chunk)
                    report(have)
                out.flush()
                os.fsync(out.fileno())
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _TransferError(f"{url}: {_reason(error)}") from error
    if have != file.num_bytes:
        raise _TransferError(f"{url} ended after {have} of {file.num_bytes} bytes")


def _check_redirect(response: Any, *_: object, **__: object) -> None:
    if "location" in response.headers:
        try:
            check_redirect(response.url, response.headers["location"])
        except StorageError as error:
            raise _TransferError(str(error)) from error


def _reason(error: Exception) -> str:
    """Return the innermost reason of a failed request, without the pools and retries wrapped around it."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    inner = getattr(inner, "reason", None) or inner
    return f"{type(inner).__name__}: {str(inner).rpartition('): ')[2] or inner}"


def _md5(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
