"""The documented cache format is the one that is written: the document's own reader and tables, tried out."""

import re
from pathlib import Path

import numpy as np
import pytest

from viewgen.store import CacheReader, open_storage

PAGE = (Path(__file__).parents[2] / "docs/cache-format.md").read_text()


@pytest.fixture(scope="module")
def read_views():
    """Return the reader that the page prints."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "cache-format.md", "exec"), names)
    return names["read_views"]


@pytest.mark.parametrize("shard_images", [8, 4096])
def test_the_plain_reader_reads_what_viewgens_reader_reads(
    read_views, make_spec, write_cache, tmp_path, shard_images
):
    # 3 × 64 × 64 pixels make several chunks of a shard
    spec = make_spec(height=64, width=64, num_images=100, shard_images=shard_images)
    status = np.tile([1, 2, 3, 1], 25)
    write_cache(open_storage(str(tmp_path / "c.zarr")), spec, status=status)
    found = [read_views(tmp_path / "c.zarr", shard) for shard in range(spec.num_shards)]
    reader = CacheReader(str(tmp_path / "c.zarr"))
    np.testing.assert_array_equal(np.concatenate([views for views, _ in found]), reader.views(reader.rows))
    np.testing.assert_array_equal(np.concatenate([indices for _, indices in found]), reader.source_index)


def test_the_table_of_arrays_is_the_one_that_is_written(make_spec):
    spec = make_spec(latent_shape=(8, 512), arrays=("w_plus", "anchor_w_plus"))
    layouts = spec.array_layout()
    table = re.findall(
        r"^\| `(\w+)`(?: \(optional\))? \| (\w+) \| (\(.*?\)).*? \| ([a-z0-9_, ]+) \| (\S+) \|$",
        PAGE,
        re.MULTILINE,
    )
    assert {row[0] for row in table} == layouts.keys()
    sizes = {"N": 21, "V": 2, "C": 3, "H": 4, "W": 4, "L": 8, "D": 512}
    for name, dtype, shape, axes, fill in table:
        layout = layouts[name]
        assert layout.dtype.name == dtype
        assert layout.shape == tuple(sizes[letter] for letter in re.findall("[A-Z]", shape))
        assert layout.axes == tuple(axes.split(", "))[: len(layout.shape)]
        assert np.isnan(layout.fill) if fill == "NaN" else layout.fill == int(fill.replace("−", "-"))
