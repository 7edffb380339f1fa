"""The specification: identity, axes, arrays."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewgen.errors import CorruptDataError, UsageError
from viewgen.store import ANCHOR_W_PLUS, W_PLUS, CacheSpec, Column, default_shard_images


def test_json_round_trip_keeps_everything(make_spec):
    spec = make_spec(
        config={"tuple": (1, 2), "float": 0.1, "none": None},
        arrays=("w_plus", "anchor_w_plus"),
        latent_shape=(8, 512),
        label_shape=(3,),
        versions={"torch": "2.13"},
    )
    assert CacheSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"method": "wperturb"},
        {"num_images": 22},
        {"num_views": 3},
        {"shard_images": 7},
        {"height": 8},
        {"config": {"epsilon_boundary": 0.30000000000000004, "optimiser": {"lr": 0.01}}},
        {"models": {"generator": "sha256:12"}},
        {"dataset": {"name": "digits", "split": "test", "digest": "sha256:00"}},
        {"label_shape": (3,)},
        {"arrays": ("w_plus",), "latent_shape": (8, 512)},
    ],
)
def test_every_difference_is_another_identity(make_spec, change):
    assert make_spec(**change).identity != make_spec().identity


def test_versions_and_key_order_are_not_part_of_the_identity(make_spec):
    config = {"optimiser": {"lr": 0.01}, "epsilon_boundary": 0.3}
    assert make_spec(versions={"torch": "2.13"}, config=config).identity == make_spec().identity


@given(num_images=st.integers(1, 200), shard_images=st.integers(1, 50))
def test_shards_partition_the_rows(make_spec, num_images, shard_images):
    spec = make_spec(num_images=num_images, shard_images=shard_images)
    rows = [row for shard in range(spec.num_shards) for row in spec.shard_rows(shard)]
    assert rows == list(range(num_images))
    with pytest.raises(UsageError):
        spec.shard_rows(spec.num_shards)


@given(
    side=st.sampled_from([8, 32, 64, 96, 128, 256]),
    num_views=st.integers(1, 16),
    shard_images=st.integers(1, 600),
)
def test_inner_chunks_divide_the_shard_and_come_near_400_kilobytes(make_spec, side, num_views, shard_images):
    spec = make_spec(height=side, width=side, num_views=num_views, shard_images=shard_images)
    views = spec.array_layout()["views"]
    assert shard_images % views.chunk_rows == 0
    # no other divisor is nearer
    distance = abs(math.log(views.chunk_rows * views.row_bytes / 400_000))
    for rows in range(1, shard_images + 1):
        if shard_images % rows == 0:
            assert distance <= abs(math.log(rows * views.row_bytes / 400_000)) + 1e-9


def test_the_layout_of_the_usual_cache(make_spec):
    spec = make_spec(num_images=50_000, num_views=8, height=32, width=32, shard_images=512)
    views = spec.array_layout()["views"]
    assert (views.shape, views.dtype, views.chunk_rows) == ((50_000, 8, 3, 32, 32), np.uint8, 16)
    assert views.axes == ("image", "view", "channel", "y", "x")
    assert views.object_path(3) == "views/c.3.0.0.0.0"
    assert list(spec.array_layout())[1:] == [
        "source_index",
        "label",
        "distance",
        "steps",
        "inversion_error",
        "status",
    ]


@pytest.mark.parametrize(
    ("side", "num_views", "expected"), [(32, 8, 512), (64, 8, 508), (256, 8, 16), (2048, 8, 1)]
)
def test_default_shards_stay_below_50_megabytes(side, num_views, expected):
    images = default_shard_images(3 * side * side, num_views)
    assert images == 1 << (expected.bit_length() - 1)
    assert images == 1 or images * num_views * 3 * side * side <= 50_000_000


@pytest.mark.parametrize(
    "change", [{"num_images": 0}, {"shard_images": 0}, {"arrays": ("views",)}, {"arrays": ("w_plus",)}]
)
def test_impossible_specifications_are_refused(make_spec, change):
    with pytest.raises(UsageError):
        make_spec(**change)


def test_an_unknown_or_missing_key_is_corrupt(make_spec):
    document = make_spec().to_json()
    with pytest.raises(CorruptDataError, match="misspelt"):
        CacheSpec.from_json(document | {"misspelt": 1})
    del document["seed"]
    with pytest.raises(CorruptDataError, match="seed"):
        CacheSpec.from_json(document)


def test_columns_of_the_format_are_named_and_others_described(make_spec):
    angle = Column(name="angle", per_view=True)
    box = Column(name="box", per_view=True, dtype="<i2", shape=(4,))
    spec = make_spec(columns=(angle, W_PLUS, box), latent_shape=(8, 512))
    assert spec.arrays == ("w_plus",)
    assert spec.columns == (W_PLUS, angle, box)
    document = spec.to_json()
    assert document["arrays"] == ["w_plus"]
    assert [column["name"] for column in document["columns"]] == ["angle", "box"]
    assert CacheSpec.from_json(json.loads(json.dumps(document))) == spec
    assert spec == make_spec(columns=(angle, box), arrays=("w_plus",), latent_shape=(8, 512))
    assert spec.identity != make_spec(columns=(angle, W_PLUS), latent_shape=(8, 512)).identity


def test_named_columns_keep_the_identity_that_they_have_in_caches_of_version_0_1_0(make_spec):
    assert "columns" not in make_spec().to_json()
    by_name = make_spec(arrays=("anchor_w_plus", "w_plus"), latent_shape=(8, 512))
    assert make_spec(columns=(ANCHOR_W_PLUS, W_PLUS), latent_shape=(8, 512)).to_json() == by_name.to_json()
    assert by_name.identity == ("sha256:9a4788ca2cb0658c51439f5b281bfc507bf1d8c1d35bd02858c9adb276c379fc")


def test_columns_lie_as_they_are_declared(make_spec):
    columns = (
        Column(name="angle", per_view=True),
        Column(name="swap", dtype="<u1"),
        Column(name="box", per_view=True, dtype="<i2", shape=(4,)),
        Column(name="latent_map", codes=True, dtype="<f2"),
        Column(name="latent_maps", codes=True, per_view=True),
    )
    layouts = make_spec(columns=columns, latent_shape=(4, 2, 2)).array_layout()
    assert {name: layouts[name].shape for name in list(layouts)[-5:]} == {
        "angle": (21, 2),
        "swap": (21,),
        "box": (21, 2, 4),
        "latent_map": (21, 4, 2, 2),
        "latent_maps": (21, 2, 4, 2, 2),
    }
    assert layouts["box"].axes == ("image", "view", "entry_0")
    assert layouts["latent_maps"].axes == ("image", "view", "code_0", "code_1", "code_2")
    assert [layouts[name].dtype.str for name in ("swap", "box", "latent_map")] == ["|u1", "<i2", "<f2"]
    assert math.isnan(layouts["angle"].fill)
    assert [layouts[name].fill for name in ("swap", "box", "latent_map")] == [0, -1, 0]
    assert [layouts[name].chunk_rows is None for name in ("angle", "swap", "box", "latent_map")] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize(
    "facts",
    [
        {"name": "views"},
        {"name": "commits"},
        {"name": "Angle"},
        {"name": "a/b"},
        {"name": "angle", "dtype": ">f4"},
        {"name": "angle", "dtype": "object"},
        {"name": "angle", "dtype": "<U4"},
        {"name": "angle", "shape": (0,)},
        {"name": "angle", "shape": (2,), "codes": True},
    ],
)
def test_impossible_columns_are_refused(facts):
    with pytest.raises(UsageError):
        Column(**facts)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": (Column(name="code", codes=True),)},
        {"columns": (Column(name="angle"), Column(name="angle", per_view=True))},
        {"columns": (Column(name="w_plus"),)},
        {"columns": (W_PLUS,), "latent_shape": ()},
    ],
)
def test_columns_that_do_not_fit_a_cache_are_refused(make_spec, change):
    with pytest.raises(UsageError):
        make_spec(**change)
