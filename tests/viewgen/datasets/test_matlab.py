"""MATLAB files that are bombs, or damaged anywhere: refused before SciPy takes them for true."""

import contextlib
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from viewgen.datasets import matlab
from viewgen.datasets.matlab import read_structures
from viewgen.errors import CorruptDataError

sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile import Bounded

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"
CELL, STRUCTURE, TEXT, FLOAT64 = 1, 2, 4, 6


def element(kind: int, content: bytes, size: int | None = None) -> bytes:
    padded = content + bytes(-len(content) % 8)
    return struct.pack("<II", kind, len(content) if size is None else size) + padded


def array(kind: int, shape: tuple[int, ...], *contents: bytes) -> bytes:
    flags, sides = struct.pack("<II", kind, 0), struct.pack(f"<{len(shape)}i", *shape)
    return element(14, element(6, flags) + element(5, sides) + element(1, b"") + b"".join(contents))


def compressed(variable: bytes) -> bytes:
    packed = zlib.compress(variable, 1)
    return struct.pack("<II", 15, len(packed)) + packed


MANY = 10**9
BOMBS = {
    "text without characters": array(TEXT, (1, MANY), element(16, b"")),
    "numbers without bytes": array(FLOAT64, (MANY, MANY), element(2, b"")),
    "cells": array(CELL, (MANY, 1)),
    "structures without fields": array(
        STRUCTURE, (1, MANY), element(5, struct.pack("<i", 8)), element(1, b"")
    ),
    "structures": array(
        STRUCTURE, (1, MANY), element(5, struct.pack("<i", 8)), element(1, b"a".ljust(8, b"\0"))
    ),
    "a matrix of few numbers": array(5, (MANY, MANY)),
    "a negative side": array(FLOAT64, (-1, -MANY), element(2, bytes(8))),
    "axes": array(FLOAT64, (1,) * 1000, element(2, bytes(8))),
    "cells in cells": array(CELL, (1, 1)) * 100_000 + element(14, b""),
    # SciPy would end the process
    "numbers of no kind": array(FLOAT64, (1, 1), element(255, bytes(8))),
    "letters of no kind": array(TEXT, (1, 7), element(8, b"point 0")),
    "letters without axes": array(TEXT, (), element(16, b"p")),
    "no array": element(9, bytes(8)),
    "an end within a variable": element(14, b"", 2**31),
    "an end within numbers": array(FLOAT64, (1, 1), element(9, b"", 2**31)),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_an_array_claims_is_not_believed(tmp_path: Path, bomb: str, packed: bool) -> None:
    file = tmp_path / "x.mat"
    file.write_bytes(HEADER + (compressed(BOMBS[bomb]) if packed else BOMBS[bomb]))
    with Bounded(), pytest.raises(CorruptDataError, match=r"x\.mat"):
        read_structures(file)


def test_what_inflates_too_far_is_refused_before_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matlab, "MOST_BYTES", 2 << 20)
    file = tmp_path / "x.mat"
    large = array(FLOAT64, (1, 1200 << 10), element(2, bytes(1200 << 10)))
    for variables in (compressed(large + bytes(20 << 20)), compressed(large) * 2):
        file.write_bytes(HEADER + variables)
        with Bounded(), pytest.raises(CorruptDataError, match="inflates to more than 2 MiB"):
            read_structures(file)
    file.write_bytes(HEADER + bytes(2 << 20))
    with pytest.raises(CorruptDataError, match="more than 2 MiB"):
        read_structures(file)


@pytest.mark.parametrize(
    "start", [b"", b"\0\0\0\0", HEADER[:124] + struct.pack("<H", 0x200) + b"IM", HEADER[:100]]
)
def test_other_versions_are_refused(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "x.mat"
    file.write_bytes(start if len(start) != 4 else start + HEADER[4:])
    with pytest.raises(CorruptDataError, match="no header"):
        read_structures(file)


def saved(compress: bool) -> bytes:
    written = io.BytesIO()
    inner = np.empty((1, 2), [("id", object), ("name", object)])
    for place in range(2):
        inner[0, place] = (place, f"point {place}")
    variables = {"RELEASE": {"points": inner, "z": np.array([1 + 2j, 3]), "cell": np.array([1, "b"], object)}}
    savemat(written, variables, do_compression=compress)
    return written.getvalue()


FILES = {compress: saved(compress) for compress in (False, True)}


@pytest.mark.parametrize("compress", [False, True])
def test_a_sound_file_is_read(tmp_path: Path, compress: bool) -> None:
    (tmp_path / "x.mat").write_bytes(FILES[compress])
    found = read_structures(tmp_path / "x.mat")["RELEASE"]
    assert [point.id for point in found.points] == [0, 1]
    assert found.points[1].name == "point 1"
    assert found.z.tolist() == [1 + 2j, 3]
    assert found.cell.tolist() == [1, "b"]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), compress=st.booleans())
def test_a_file_changed_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compress: bool
) -> None:
    content = bytearray(FILES[False])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(128, len(content) - 4))
        value = data.draw(st.sampled_from([0, 1, 2, 8, 14, 15, 255, 2**16, 2**31 - 1, 2**32 - 1]))
        content[place : place + 4] = struct.pack("<I", value)
    file = tmp_path_factory.getbasetemp() / "changed.mat"
    file.write_bytes(bytes(content[:128]) + compressed(bytes(content[128:])) if compress else content)
    with Bounded(), contextlib.suppress(CorruptDataError):
        read_structures(file)
