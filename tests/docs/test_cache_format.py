"""The documented cache format is the one that is written: the document's own reader and tables, tried out."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from viewgen.roles import Role
from viewgen.store import CacheReader, Column, open_storage, verify_cache

PAGE = (Path(__file__).parents[2] / "docs/cache-format.md").read_text()


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """Return the page's reader and writer."""
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "cache-format.md", "exec"), names)
    return names


@pytest.mark.parametrize("shard_images", [8, 4096])
def test_the_plain_reader_reads_what_viewgens_reader_reads(
    names, make_spec, write_cache, tmp_path, shard_images
):
    # 3 × 64 × 64 pixels make several chunks of a shard
    spec = make_spec(height=64, width=64, num_images=100, shard_images=shard_images)
    status = np.tile([1, 2, 3, 1], 25)
    write_cache(open_storage(str(tmp_path / "c.zarr")), spec, status=status)
    found = [names["read_views"](tmp_path / "c.zarr", shard) for shard in range(spec.num_shards)]
    reader = CacheReader(str(tmp_path / "c.zarr"))
    np.testing.assert_array_equal(np.concatenate([views for views, _ in found]), reader.views(reader.rows))
    np.testing.assert_array_equal(np.concatenate([indices for _, indices in found]), reader.source_index)


@pytest.mark.parametrize("shard_images", [8, 12, 4096])
def test_viewgen_reads_what_the_plain_writer_writes(names, tmp_path, shard_images):
    generator = np.random.default_rng(0)
    # chunks of 400 kB hold four rows
    views = generator.integers(0, 256, (29, 8, 3, 64, 64), dtype=np.uint8)
    sources, labels = generator.permutation(100)[:29], generator.integers(0, 10, 29)
    dataset = {"name": "mine", "split": "train", "digest": "sha256:00"}
    url = str(tmp_path / "mine.zarr")
    names["write_cache"](url, views, sources, labels, dataset, "mine", shard_images)

    report = verify_cache(url)
    assert report.ok, report.faults
    reader = CacheReader(url, check="digest")
    np.testing.assert_array_equal(reader.views(np.arange(29)), views)
    np.testing.assert_array_equal(reader.source_index, sources)
    np.testing.assert_array_equal(reader.labels, labels)
    group = zarr.open_group(url, mode="r")
    np.testing.assert_array_equal(group["views"][:], views)
    np.testing.assert_array_equal(group["label"][:], labels)
    found = [names["read_views"](url, shard)[0] for shard in range(-(-29 // shard_images))]
    np.testing.assert_array_equal(np.concatenate(found), views)


def test_the_keys_of_the_specification_are_those_that_are_written(make_spec):
    table = PAGE[PAGE.index("`spec` has these keys") : PAGE.index("## Arrays")]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} == {
        *make_spec().to_json(),
        *make_spec(columns=(Column(name="angle"),)).to_json(),
        *make_spec(roles=(Role(name="luma"), Role(name="chroma")), num_views=2).to_json(),
    }


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
