"""Storage in memory, on S3 and at any other URL that fsspec supports."""

import errno
import hashlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from viewgen.addresses import check_options, check_url, guarded_client
from viewgen.errors import CorruptDataError, MissingFileError, StorageError, nearest_name
from viewgen.redaction import public_url, redacted
from viewgen.store.storage import PROBE, ObjectExistsError, Storage, most_bytes

__all__ = ["FsspecStorage"]

# Stores whose PUT is atomic and takes "only if absent" as a condition of the request itself.
_CONDITIONAL_PUT = {"s3", "s3a", "gs", "gcs"}
_FOLDERLESS = {*_CONDITIONAL_PUT, "memory", "abfs", "az"}
_IN_PROCESS_WRITES = threading.Lock()
# Waits between the attempts at a conditional PUT that meets another one under way (HTTP status 409).
_CONFLICT_SECONDS = (0.1, 0.3, 1.0, 3.0)


class FsspecStorage(Storage):
    """An fsspec file system.

    Create-only writes are conditional PUTs on S3 and Google Cloud Storage, and use a lock for ``memory://``.
    A conflict (409) is tried again; whoever is told that the object exists, or nothing, reads it back.
    On other file systems (and on S3-compatible ones that ignore the condition) they are a check followed by a
    PUT, which two writers can race. On file systems that write in place (sftp, hdfs, …) a killed writer can
    leave a partial object, which its digest reveals.

    Raises:
        StorageError: the protocol is unknown, its package is missing, it refuses the options, or the URL is
            one of those that `addresses` refuses.
    """

    parallel_reads = 32

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None) -> None:
        self.url = public_url(url)
        protocol = url.partition("://")[0]
        check_url(url)
        check_options(storage_options or {})
        client = {"get_client": guarded_client} if protocol in ("http", "https") else {}
        try:
            self._fs, root = url_to_fs(url, **(client | (storage_options or {})))
        except ImportError as error:
            package = "pip install 'viewgen[s3]'" if protocol in ("s3", "s3a") else str(error)
            raise StorageError(f"{protocol}:// needs a package that is not installed: {package}") from error
        except ValueError as error:
            if protocol in fsspec.available_protocols():
                raise self._error("open", "", error) from None
            near = nearest_name(protocol, ["file", "memory", "s3", "gs", "abfs"])
            raise StorageError(
                f"unknown protocol {protocol!r} in {self.url}{near}; give a path, file://, memory://, s3:// "
                "or another URL that fsspec knows"
            ) from None
        except Exception as error:
            raise self._error("open", "", error) from None
        self._root = root.rstrip("/")
        protocols = self._fs.protocol
        self._protocols = {protocols} if isinstance(protocols, str) else set(protocols)
        if not self._root and self._protocols & _CONDITIONAL_PUT:
            raise StorageError(f"{self.url} names no bucket; expected {protocol}://bucket/folder/views.zarr")

    def read(self, path: str) -> bytes:
        if (most := most_bytes(path)) is not None:
            return self.read_document(path, most)
        with self._clear_errors("read", path):
            return bytes(self._fs.cat_file(self._place(path)))

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._clear_errors("read", path):
            try:
                return bytes(self._fs.cat_file(self._place(path), start=start, end=start + length))
            except OSError as error:
                # a range that begins behind the end is an error on S3 and empty elsewhere
                if "range is not satisfiable" in str(error):
                    return b""
                raise

    def write_new(self, path: str, data: bytes) -> None:
        conditional = bool(self._protocols & _CONDITIONAL_PUT)
        lock = nullcontext() if conditional else _IN_PROCESS_WRITES
        try:
            with self._clear_errors("write", path), lock:
                if self.size(path) is not None:
                    raise FileExistsError(path)
                self._create(path, data, conditional)
        except StorageError as error:
            # a request whose answer was lost may have done its work: sent again, it met what it had written;
            # given up, it may have written it
            if not conditional or not self._holds(path, data, unless_told=error):
                raise

    def _create(self, path: str, data: bytes, conditional: bool) -> None:
        """Put an object that must not exist; a conflict with another such request is tried again."""
        condition = {"mode": "create"} if conditional else {}
        for wait in (*_CONFLICT_SECONDS, None):
            try:
                self._put(path, lambda place: self._fs.pipe_file(place, data, **condition))
                return
            except OSError as error:
                if wait is None or not _is_conflict(error):
                    raise
                time.sleep(wait * random.uniform(0.5, 1.5))

    def refuses_existing(self) -> bool:
        if not self._protocols & _CONDITIONAL_PUT:
            return "memory" in self._protocols
        path = f"{PROBE}-{secrets.token_hex(6)}"
        self.write(path, b"first")
        try:
            with self._clear_errors("write", path):
                self._create(path, b"second", conditional=True)
        except ObjectExistsError:
            return True
        finally:
            self.delete(path)
        return False

    def _holds(self, path: str, data: bytes, unless_told: StorageError) -> bool:
        """Return True if an object has exactly these bytes; raise an error if that cannot be told.

        That the object exists then says nothing of who wrote it, and is not what is raised.
        """
        try:
            return self.size(path) == len(data) and self.read(path) == data
        except (StorageError, MissingFileError) as error:
            if isinstance(unless_told, ObjectExistsError):
                raise StorageError(
                    f"{self.url}/{path} exists, and it cannot be told who wrote it: {error}"
                ) from None
            raise unless_told from None

    def write(self, path: str, data: bytes) -> None:
        with self._clear_errors("write", path):
            self._put(path, lambda place: self._fs.pipe_file(place, data))

    def size(self, path: str) -> int | None:
        with self._clear_errors("read", path):
            self._fs.invalidate_cache(self._place(path))
            try:
                size = self._info(path)["size"]
            except FileNotFoundError:
                return None
            if size is None:
                raise StorageError(f"{self.url}/{path}: its server does not tell its size")
            return int(size)

    def fingerprint(self, path: str) -> str:
        with self._clear_errors("read", path):
            self._fs.invalidate_cache(self._place(path))
            return _mark(self._info(path))

    def stamps(self, wanted: Callable[[str], bool] = bool) -> dict[str, str]:
        return {path: _mark(about) for path, about in sorted(self._listing("", wanted).items())}

    def paths(self, prefix: str = "") -> list[str]:
        with self._clear_errors("list", prefix):
            return sorted(self._below(prefix, self._find(prefix)))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        with self._clear_errors("list", prefix):
            listing = self._listing(prefix)
            # a server may tell no size of a page that it makes
            return {
                path: int(about["size"]) for path, about in listing.items() if about.get("size") is not None
            }

    def _listing(self, prefix: str, wanted: Callable[[str], bool] = bool) -> dict[str, dict[str, Any]]:
        """Return path → what the file system says of each wanted object below a folder.

        One listing tells it on most; the index of an HTTP server has names only, and each is asked for.
        """
        with self._clear_errors("list", prefix):
            found = self._find(prefix)
            below = self._below(prefix, found).items()
            listing = {path: found[place] for path, place in below if wanted(path)}
        bare = [path for path, about in listing.items() if about.get("size") is None]
        for path, about in zip(bare, self.map_parallel(self._about, bare), strict=True):
            listing[path] = about
        return {path: about for path, about in listing.items() if about}

    def _about(self, path: str) -> dict[str, Any]:
        """Return what the file system says of one object; nothing if it is absent."""
        with self._clear_errors("read", path), suppress(FileNotFoundError):
            return self._info(path)
        return {}

    def _info(self, path: str) -> dict[str, Any]:
        """Return what the file system says of one object; FileNotFoundError if it is absent.

        That of HTTP says "not found" whatever the server answered; only 404 and 410 are meant so.
        """
        try:
            return dict(self._fs.info(self._place(path)))
        except FileNotFoundError as error:
            cause = error.__cause__
            if cause is None or not self._protocols & {"http", "https"}:
                raise
            if getattr(cause, "status", None) in (404, 410):
                raise
            raise cause from None

    def _find(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return place → what a new listing says, of all objects below a folder.

        Stores without folders list all at once. Elsewhere fsspec's own walk would leave out a folder that
        cannot be listed.
        """
        top = self._place(prefix)
        self._fs.invalidate_cache(top)
        kind, found = type(self._fs), dict[str, dict[str, Any]]()
        own = (
            kind._find is not AsyncFileSystem._find
            if issubclass(kind, AsyncFileSystem)
            else kind.find is not AbstractFileSystem.find
        )
        if own:
            return dict(self._fs.find(top, detail=True))
        pending = [top]
        while pending:
            folder = pending.pop()
            with suppress(FileNotFoundError):
                for about in self._fs.ls(folder, detail=True):
                    place = about["name"].rstrip("/")
                    if about["type"] != "directory":
                        found[about["name"]] = about
                    elif len(place) > len(folder):
                        pending.append(place)
        return found

    def _below(self, prefix: str, places: Iterable[str]) -> dict[str, str]:
        """Return path → place of the places below a folder."""
        folder = self._place(prefix).rstrip("/") + "/"
        start = len(self._fs._strip_protocol(self._root)) + 1
        return {place[start:]: place for place in places if place.startswith(folder)}

    def entries(self) -> list[str]:
        with self._clear_errors("list", ""):
            self._fs.invalidate_cache(self._root)
            try:
                places = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return sorted(name for p in places if (name := p.rstrip("/")[len(self._root) + 1 :]))

    def delete(self, path: str) -> None:
        with self._clear_errors("delete", path), suppress(FileNotFoundError):
            self._fs.rm_file(self._place(path))

    def delete_tree(self, prefix: str) -> None:
        with self._clear_errors("delete", prefix), suppress(FileNotFoundError):
            self._fs.invalidate_cache(self._place(prefix))
            self._fs.rm(self._place(prefix), recursive=True)

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _put(self, path: str, put: Callable[[str], object]) -> None:
        place = self._place(path)
        try:
            put(place)
        except FileNotFoundError:
            if self._protocols & _FOLDERLESS:
                raise
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            put(place)

    @contextmanager
    def _clear_errors(self, verb: str, path: str) -> Iterator[None]:
        """Convert any exception of a file system to one message without credentials."""
        try:
            yield
        except (StorageError, MissingFileError, CorruptDataError):
            raise
        except FileNotFoundError as error:
            if verb == "write":
                raise StorageError(
                    f"cannot write {self.url}/{path}: the bucket or folder does not exist; create it first"
                ) from error
            raise MissingFileError(f"{self.url}/{path} does not exist") from error
        except Exception as error:
            if isinstance(error, FileExistsError) or "PreconditionFailed" in str(error):
                raise ObjectExistsError(
                    f"{self.url}/{path} exists already and must not be replaced"
                ) from None
            raise self._error(verb, path, error) from None

    def _error(self, verb: str, path: str, error: Exception) -> StorageError:
        code = getattr(error, "errno", None)
        reason = str(error) or type(error).__name__
        if isinstance(error, PermissionError) or code in (errno.EACCES, errno.EPERM):
            reason = f"permission denied ({reason}); check the credentials and the bucket's policy"
        place = f"{self.url}/{path}".rstrip("/")
        return StorageError(f"cannot {verb} {place}: {type(error).__name__}: {redacted(reason)}")


def _mark(about: dict[str, Any]) -> str:
    """Return a digest of what a file system says of an object, without what reading the object changes."""
    # of SFTP and SMB, "time" is that of the last access; of HTTP, "url" may be signed anew for each request
    ignored = {"url"} | ({"time"} if "mtime" in about else set())
    kept = {key: value for key, value in about.items() if key not in ignored and "access" not in key.lower()}
    return hashlib.sha256(str(kept).encode("utf-8", "surrogateescape")).hexdigest()


def _is_conflict(error: OSError) -> bool:
    """Return True for HTTP status 409: another conditional request for the same object was under way."""
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == 409 or any(
        code in str(error) for code in ("ConditionalRequestConflict", "OperationAborted")
    )
