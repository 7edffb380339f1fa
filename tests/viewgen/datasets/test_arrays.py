"""NumPy files that claim what they do not have, or have more than there is room for."""

import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from viewgen.datasets.arrays import opened_arrays, read_array
from viewgen.errors import CorruptDataError, DataError, OutOfMemoryError

sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile import Bounded

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def array_file(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def claiming(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """Return an array's file whose header is all of it."""
    out = io.BytesIO()
    about = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, about)
    return out.getvalue() + b"123"


def archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, data in members.items():
            packed.writestr(f"{name}.npy", data)
    return out.getvalue()


def read(content: bytes, key: str = "x") -> np.ndarray:
    with opened_arrays(io.BytesIO(content), "it") as arrays:
        return read_array(arrays, key, "it")


def test_a_sound_array_is_read() -> None:
    np.testing.assert_array_equal(read(archive(x=array_file(VALUES), y=b"")), VALUES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(x=claiming((10**12, 8, 8, 3))), "x claims 192,000,000,000,000 bytes and has 131"),
        (archive(x=claiming((10**30, 8))), "x claims 8,0"),
        (archive(x=claiming((200,))), "x claims 200 bytes and has 131"),
        (archive(x=claiming((2,), "|O")), "holds objects"),
        (archive(x=claiming((-1,))), "damaged"),
        (archive(x=b"\x93NUMPY\x03\0" + bytes(100)), "version"),
        (archive(x=b""), "damaged"),
        (b"", "no .npz file"),
        (b"no file of arrays", "no .npz file"),
    ],
)
def test_damage_and_claims_are_refused(content: bytes, message: str) -> None:
    with Bounded(), pytest.raises(CorruptDataError, match=message):
        read(content)


def test_an_archive_of_a_million_members_is_refused() -> None:
    header = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 6, 0, 0, 0, 1, *[0] * 4, 0, 0) + b"x"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 10**6 * len(header), 0, 0)
    with Bounded(), pytest.raises(CorruptDataError, match="a directory of 47000000 bytes"):
        read(header * 10**6 + end)


def test_an_array_alone_is_not_read() -> None:
    with Bounded(), pytest.raises(DataError, match="one array without a name"):
        read(claiming((10**12,)))


def test_what_does_not_fit_into_memory_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    content = archive(x=array_file(VALUES))
    monkeypatch.setattr("viewgen.memory.available_bytes", lambda: VALUES.nbytes - 1)
    with pytest.raises(OutOfMemoryError, match=r"x needs 0\.0 GiB of memory"):
        read(content)
    monkeypatch.setattr("viewgen.memory.available_bytes", lambda: 0)  # not known
    np.testing.assert_array_equal(read(content), VALUES)


def test_memory_that_is_short_is_no_damage(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(MemoryError), open(tmp_path / "x.npz", "rb") as file, opened_arrays(file, "x.npz"):
        raise MemoryError


def test_objects_are_named_as_such(tmp_path):
    np.savez(tmp_path / "x.npz", labels=np.array(["cat", "dog"] * 400, dtype=object))
    with (
        open(tmp_path / "x.npz", "rb") as file,
        pytest.raises(CorruptDataError, match="labels holds objects of Python"),
        opened_arrays(file, "x.npz") as arrays,
    ):
        read_array(arrays, "labels", "x.npz")
