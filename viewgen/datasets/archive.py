"""Archives read member by member, with caps: nothing is extracted, no path in an archive reaches the disk."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from viewgen.errors import CorruptDataError, StorageError, ViewgenError
from viewgen.files import open_regular

__all__ = [
    "TarMember",
    "check_directory",
    "damage_as_error",
    "open_zip",
    "read_maybe_gzip",
    "read_zip_member",
    "tar_members",
]

COPY_BYTES = 1 << 20
# the textures have 5,700 members, Tiny ImageNet's directory has 12 MB
MOST_MEMBERS = 20_000
MOST_DIRECTORY_BYTES = 24_000_000


@contextmanager
def damage_as_error(path: Path) -> Iterator[None]:
    """Convert the decoders' exceptions for damaged input to CorruptDataError with the archive's name."""
    try:
        yield
    except ViewgenError:
        raise
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        gzip.BadGzipFile,
        EOFError,
        NotImplementedError,
    ) as error:
        raise CorruptDataError(
            f"{path} is damaged: {error or type(error).__name__}. Delete it and run again to fetch it anew."
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


class Readable(Protocol):
    """A source of bytes."""

    def read(self, size: int = ..., /) -> bytes | None: ...


class _CappedReader(io.RawIOBase):
    """A readable stream that refuses to deliver more than `cap` bytes: a decompression bomb ends here."""

    def __init__(self, stream: Readable, cap: int, path: Path) -> None:
        self._stream, self._left, self._cap, self._path = stream, cap, cap, path

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1)) or b""
        self._left -= len(data)
        if self._left < 0:
            raise CorruptDataError(
                f"{self._path} unpacks to more than {self._cap} bytes; it is not what it should be"
            )
        return data


class TarMember:
    """A regular file in a tar stream, to be read once, in order."""

    def __init__(self, name: str, num_bytes: int, stream: IO[bytes], archive: Path) -> None:
        self.name, self.num_bytes, self._stream, self._archive = name, num_bytes, stream, archive

    def read(self, num_bytes: int | None = None) -> bytes:
        """Return exactly `num_bytes` (by default all) bytes, or raise CorruptDataError."""
        wanted = self.num_bytes if num_bytes is None else num_bytes
        with damage_as_error(self._archive):
            data = self._stream.read(wanted)
        if len(data) != wanted:
            raise CorruptDataError(f"{self._archive} ends within {self.name}")
        return data


def tar_members(path: Path, wanted: Mapping[str, int], *, cap: int) -> Iterator[TarMember]:
    """Yield the `wanted` members of a .tar.gz, in the archive's order, and stop after the last.

    Args:
        path: the archive.
        wanted: member name → largest permitted size in bytes.
        cap: largest total size in bytes of everything unpacked, including skipped members.

    Raises:
        CorruptDataError: damaged, truncated, over a cap, or a wanted member is missing or no regular file.
    """
    missing = set(wanted)
    with damage_as_error(path), gzip.open(path) as unpacked:
        capped = _CappedReader(unpacked, cap, path)
        with tarfile.open(fileobj=capped, mode="r|") as archive:
            for count, entry in enumerate(archive):
                if count >= MOST_MEMBERS:
                    raise CorruptDataError(f"{path} has more than {MOST_MEMBERS} members")
                name = entry.name.removeprefix("./")
                if name not in missing:
                    continue
                if not entry.isreg() or entry.issparse():
                    raise CorruptDataError(f"{path}: {name} is not a regular file")
                if entry.size > wanted[name]:
                    raise CorruptDataError(
                        f"{path}: {name} has {entry.size} bytes, at most {wanted[name]} expected"
                    )
                stream = archive.extractfile(entry)
                assert stream is not None
                missing.remove(name)
                yield TarMember(name, entry.size, stream, path)
                if not missing:
                    return
    raise CorruptDataError(f"{path} has no {', '.join(sorted(missing))}")


def open_zip(path: Path, most_directory_bytes: int = MOST_DIRECTORY_BYTES) -> zipfile.ZipFile:
    """Open a .zip archive; its directory is read into memory, so that one beyond the bound is refused.

    Raises:
        CorruptDataError: the directory is larger.
        BadZipFile, OSError: it cannot be read.
    """
    with open_regular(path) as file:
        check_directory(file, str(path), most_directory_bytes)
    return zipfile.ZipFile(path)


def check_directory(file: IO[bytes], name: str, most_bytes: int = MOST_DIRECTORY_BYTES) -> None:
    """Refuse a .zip archive with a directory of more bytes, which opening it would read into memory.

    Raises:
        CorruptDataError: the directory is larger.
    """
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is not None and end[zipfile._ECD_SIZE] > most_bytes:  # type: ignore[attr-defined]
        raise CorruptDataError(
            f"{name} has a directory of {end[zipfile._ECD_SIZE]} bytes, "  # type: ignore[attr-defined]
            f"expected at most {most_bytes}; nobody made it for this"
        )


def read_zip_member(archive: zipfile.ZipFile, name: str, *, cap: int) -> bytes:
    """Return one member of a .zip; CorruptDataError if it is missing, damaged or larger than `cap` bytes."""
    path = Path(archive.filename or "archive")
    try:
        entry = archive.getinfo(name)
    except KeyError as error:
        raise CorruptDataError(f"{path} has no {name}") from error
    with damage_as_error(path):
        if entry.file_size > cap or entry.flag_bits & 1:
            raise CorruptDataError(
                f"{path}: {name} is encrypted or has {entry.file_size} bytes, at most {cap} expected"
            )
        # The size in the directory may lie; reading one byte more than the cap tells.
        with archive.open(entry) as stream:
            data = stream.read(cap + 1)
        if len(data) != entry.file_size:
            raise CorruptDataError(f"{path}: {name} has {len(data)} bytes, its entry says {entry.file_size}")
    return data


def read_maybe_gzip(path: Path, *, cap: int) -> bytes:
    """Return at most `cap` bytes of a plain or gzip file (recognised by its first two bytes)."""
    with damage_as_error(path), open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Readable = gzip.GzipFile(fileobj=raw) if packed else raw
        chunks = []
        capped = _CappedReader(stream, cap, path)
        while chunk := capped.read(COPY_BYTES):
            chunks.append(chunk)
    return b"".join(chunks)
