"""The encoder against two independent readers: zarr-python and tensorstore."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from viewgen.errors import CorruptDataError
from viewgen.store.encoding import (
    crc32c,
    decode_object,
    encode_object,
    object_bytes,
    row_offsets,
)
from viewgen.store.metadata import array_metadata
from viewgen.store.spec import ArrayLayout


@st.composite
def arrays(draw):
    """Draw a layout and the contents of its array."""
    dtype = np.dtype(draw(st.sampled_from(["<u1", "<i4", "<i8", "<f4"])))
    row_shape = tuple(draw(st.lists(st.integers(1, 4), max_size=4)))
    shard_rows = draw(st.integers(1, 12))
    divisors = [rows for rows in range(1, shard_rows + 1) if shard_rows % rows == 0]
    layout = ArrayLayout(
        name="a",
        shape=(draw(st.integers(1, 30)), *row_shape),
        dtype=dtype,
        axes=("image", *(f"axis_{i}" for i in range(len(row_shape)))),
        shard_rows=shard_rows,
        chunk_rows=draw(st.sampled_from([None, *divisors])),
        fill=draw(st.sampled_from([0, 3] + [math.nan] * (dtype.kind == "f") + [-1] * (dtype.kind == "i"))),
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    # every bit pattern, NaN payloads and fill values among them
    return layout, generator.integers(0, 256, math.prod(layout.shape) * dtype.itemsize, np.uint8).view(
        dtype
    ).reshape(layout.shape)


def write_array(folder: Path, layout: ArrayLayout, contents: np.ndarray) -> None:
    (folder / "a").mkdir()
    (folder / "a/zarr.json").write_bytes(array_metadata(layout))
    for shard, first in enumerate(range(0, len(contents), layout.shard_rows)):
        data = encode_object(layout, contents[first : first + layout.shard_rows])
        (folder / layout.object_path(shard)).write_bytes(data)


@settings(max_examples=60, deadline=None)
@given(arrays())
def test_zarr_and_tensorstore_read_the_array_bit_exactly(drawn):
    layout, contents = drawn
    with tempfile.TemporaryDirectory() as folder:
        write_array(Path(folder), layout, contents)
        read_by_zarr = zarr.open_array(f"{folder}/a", mode="r")
        assert read_by_zarr.metadata.dimension_names == layout.axes
        by_zarr = np.asarray(read_by_zarr[...])
        kvstore = {"driver": "file", "path": f"{folder}/a"}
        by_tensorstore = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    for found in (by_zarr, by_tensorstore):
        assert found.shape == contents.shape
        assert found.dtype == contents.dtype
        assert found.tobytes() == contents.tobytes()


@settings(max_examples=30, deadline=None)
@given(arrays())
def test_a_full_shard_has_the_bytes_that_zarr_python_writes(drawn):
    layout, contents = drawn
    rows = np.resize(contents, (layout.shard_rows, *layout.row_shape))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").mkdir()
        full = ArrayLayout(
            name="a",
            shape=rows.shape,
            dtype=layout.dtype,
            axes=layout.axes,
            shard_rows=layout.shard_rows,
            chunk_rows=layout.chunk_rows,
            fill=layout.fill,
        )
        (Path(folder) / "a/zarr.json").write_bytes(array_metadata(full))
        with zarr.config.set({"array.write_empty_chunks": True}):
            zarr.open_array(f"{folder}/a", mode="r+")[...] = rows
        written = (Path(folder) / full.object_path(0)).read_bytes()
    assert written == encode_object(full, rows)


@settings(max_examples=60, deadline=None)
@given(arrays())
def test_decode_is_the_inverse_and_rows_lie_at_their_offsets(drawn):
    layout, contents = drawn
    rows = contents[: layout.shard_rows]
    data = encode_object(layout, rows)
    assert len(data) == object_bytes(layout, len(rows))
    assert decode_object(layout, data, len(rows), "a").tobytes() == rows.tobytes()
    for row, offset in enumerate(row_offsets(layout, np.arange(len(rows)))):
        assert data[offset : offset + layout.row_bytes] == rows[row].tobytes()


@settings(max_examples=60, deadline=None)
@given(arrays(), st.data())
def test_every_flipped_bit_and_every_truncation_is_an_error(drawn, data):
    layout, contents = drawn
    rows = contents[: layout.shard_rows]
    encoded = bytearray(encode_object(layout, rows))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CorruptDataError):
        decode_object(layout, bytes(encoded[:cut]), len(rows), "a")
    encoded[cut] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptDataError):
        decode_object(layout, bytes(encoded), len(rows), "a")


def test_crc32c_has_the_check_value_of_its_standard():
    # RFC 3720, B.4, and the catalogue's check value of CRC-32C
    assert crc32c(b"123456789") == (0xE3069283).to_bytes(4, "little")
    assert crc32c(bytes(32)) == (0x8A9136AA).to_bytes(4, "little")
