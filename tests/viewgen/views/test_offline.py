"""View sources as steps of a cache: what they take and give; a view depends on (seed, image, view) alone."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from viewgen.errors import ModelError, UsageError
from viewgen.images import to_model, to_storage
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.files import Models
from viewgen.status import Status
from viewgen.views import VIEWS
from viewgen.views.augmentation import NUM_UNIFORMS, expert_views
from viewgen.views.draws import ImageDraws
from viewgen.views.entry import Resources
from viewgen.views.expert import ExpertConfig
from viewgen.views.offline import Batch, Step, offline_step
from viewgen.views.wboundary import WBoundaryConfig
from viewgen.views.wperturb import WPerturbConfig
from viewgen.views.wsearch.settings import WSearchConfig

CONFIGS = {
    "wsearch": WSearchConfig(max_steps=12, patience=4, spread_share=0.95),
    "wboundary": WBoundaryConfig(),
    "wperturb": WPerturbConfig(),
    "expert": ExpertConfig(),
    "invert": InvertConfig(max_steps=6, perceptual="discriminator"),
}
NUM_VIEWS = {"wsearch": 3, "wboundary": 3, "wperturb": 3, "expert": 3, "invert": 1}
PER_IMAGE = ("views", "distance", "steps", "inversion_error", "status")


def make_step(
    models: Models,
    name: str,
    config: Any = None,
    *,
    num_views: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
) -> Step:
    """Return the step of a cache's worker, which has the networks that the entry needs, and no others."""
    entry = VIEWS.entry(name)
    unneeded = dict.fromkeys({"generator", "discriminator", "inverter", "encoder"} - entry.needs)
    resources = Resources(models=dataclasses.replace(models, **unneeded), batch_size=batch_size)
    source = entry.build(config or CONFIGS[name], resources)
    return offline_step(source, resources, seed=seed, num_views=num_views or NUM_VIEWS[name])


def run(models: Models, name: str, batch: Batch, **options: Any) -> Batch:
    """Make the views of a batch, which has codes where the entry needs inversions."""
    if "inversions" not in VIEWS.entry(name).needs:
        batch = {key: array for key, array in batch.items() if not key.startswith("anchor_")}
    return make_step(models, name, **options)(batch)


def taken(batch: Batch, rows: list[int]) -> Batch:
    return {name: array[rows] for name, array in batch.items()}


@pytest.fixture(scope="module")
def outputs(small_models: Models, image_batch: Batch) -> dict[str, Batch]:
    return {name: run(small_models, name, image_batch) for name in CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_types(outputs, image_batch, name):
    out, views = outputs[name], NUM_VIEWS[name]
    expected = {
        "views": (np.uint8, (12, views, 3, 8, 8)),
        "distance": (np.float32, (12, views)),
        "steps": (np.int32, (12,)),
        "inversion_error": (np.float32, (12,)),
        "status": (np.uint8, (12,)),
        "mean_pairwise": (np.float32, (12,)),
        "anchor_distance": (np.float32, (12,)),
        "w_plus": (np.float32, (12, views, 4, 32)),
        "anchor_w_plus": (np.float32, (12, 4, 32)),
    }
    assert set(PER_IMAGE) <= out.keys() <= expected.keys()
    assert {column.name for column in VIEWS.entry(name).columns} <= out.keys()
    for key, array in out.items():
        assert (array.dtype, array.shape) == expected[key], key
    if "inversions" in VIEWS.entry(name).needs:
        assert np.array_equal(out["inversion_error"], image_batch["anchor_error"])


def test_the_optimised_methods_above_take_steps_and_refill_slots(outputs):
    for name in ("wsearch", "invert"):
        steps = outputs[name]["steps"]
        assert steps.max() == CONFIGS[name].max_steps
    assert len(set(outputs["wsearch"]["steps"])) > 2


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_batches_give_equal_bits(small_models, image_batch, outputs, name):
    again = run(small_models, name, image_batch)
    assert all(np.array_equal(again[key], outputs[name][key], equal_nan=True) for key in again)


@pytest.mark.parametrize("name", CONFIGS)
@settings(deadline=None, max_examples=6, derandomize=True)
@given(data=st.data())
def test_an_image_gets_the_same_views_in_any_company(small_models, image_batch, outputs, name, data):
    """Any batch size, order, subset (as after a resume) and composition of shards."""
    rows = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True))
    cut = data.draw(st.integers(0, len(rows)))
    for shard in (rows[:cut], rows[cut:]):
        if shard:
            batch_size = data.draw(st.sampled_from([None, 1, 2, 5, 40]))
            found = run(small_models, name, taken(image_batch, shard), batch_size=batch_size)
            for key in found:
                assert np.array_equal(found[key], outputs[name][key][shard], equal_nan=True), key


@settings(deadline=None, max_examples=4, derandomize=True)
@given(data=st.data())
def test_a_search_from_the_anchor_itself_does_not_depend_on_its_company(small_models, image_batch, data):
    """The noise start amplifies a rounding error to another view within some thirty steps."""
    config = CONFIGS["wsearch"].replace(start="noise", max_steps=40)

    def search(rows: list[int], batch_size: int | None) -> Batch:
        return run(small_models, "wsearch", taken(image_batch, rows), config=config, batch_size=batch_size)

    rows = data.draw(st.lists(st.integers(0, 11), min_size=2, max_size=12, unique=True))
    together = search(rows, data.draw(st.sampled_from([None, 1, 5])))
    alone = search(rows[:1], data.draw(st.sampled_from([None, 1, 5])))
    assert all(np.array_equal(alone[key], together[key][:1], equal_nan=True) for key in alone)


@pytest.mark.parametrize("name", ["wsearch", "wboundary", "wperturb", "expert"])
def test_the_views_of_an_image_differ(outputs, name):
    for views in outputs[name]["views"]:
        assert len({view.tobytes() for view in views}) == 3


@pytest.mark.parametrize("name", ["wsearch", "wboundary", "wperturb", "expert"])
def test_another_seed_or_image_id_gives_other_views(small_models, image_batch, outputs, name):
    two = taken(image_batch, [0, 1])
    reseeded = run(small_models, name, two, seed=1)
    renamed = run(small_models, name, {**two, "source_index": two["source_index"] + 1000})
    for other in (reseeded, renamed):
        different = other["views"] != outputs[name]["views"][:2]
        assert different.reshape(6, -1).any(axis=1).sum() >= 5  # an expert view may be left as it is


@pytest.mark.parametrize("name", ["wperturb", "expert"])
def test_a_view_does_not_depend_on_how_many_follow(small_models, image_batch, outputs, name):
    more = run(small_models, name, image_batch, num_views=5)
    assert np.array_equal(more["views"][:, :3], outputs[name]["views"])


@pytest.mark.parametrize("name", ["wsearch", "wboundary", "wperturb", "expert"])
def test_distances_are_those_of_the_stored_views(small_models, image_batch, outputs, name):
    out = outputs[name]
    with torch.no_grad():
        if name == "expert":
            anchors = to_model(image_batch["image"])
        else:
            codes = torch.from_numpy(image_batch["anchor_w_plus"])
            anchors = to_model(to_storage(small_models.generator.synthesis(codes)))
        f0 = small_models.encoder(anchors)
        z = small_models.encoder(to_model(out["views"].reshape(-1, 3, 8, 8))).unflatten(0, (12, 3))
    # float32 networks at another batch size
    np.testing.assert_allclose(out["distance"], (z - f0[:, None]).norm(dim=2), atol=1e-5)
    pairwise = torch.stack([torch.pdist(row).mean() for row in z])
    np.testing.assert_allclose(out["mean_pairwise"], pairwise, atol=1e-5)


def test_the_anchor_is_the_reconstruction_or_the_image(small_models, image_batch, outputs):
    config = CONFIGS["wsearch"].replace(anchor="image")
    out = run(small_models, "wsearch", image_batch, config=config)
    with torch.no_grad():
        f0 = small_models.encoder(to_model(image_batch["image"]))
        z = small_models.encoder(to_model(out["views"].reshape(-1, 3, 8, 8))).unflatten(0, (12, 3))
        codes = torch.from_numpy(image_batch["anchor_w_plus"])
        f1 = small_models.encoder(to_model(to_storage(small_models.generator.synthesis(codes))))
    np.testing.assert_allclose(out["distance"], (z - f0[:, None]).norm(dim=2), atol=1e-5)
    np.testing.assert_allclose(out["anchor_distance"], (f1 - f0).norm(dim=1), atol=1e-5)
    assert np.array_equal(out["anchor_distance"], outputs["wsearch"]["anchor_distance"])
    assert not np.array_equal(out["views"], outputs["wsearch"]["views"])


def test_views_are_the_images_of_their_codes(small_models, outputs):
    for name in ("wsearch", "wperturb"):
        codes = torch.from_numpy(outputs[name]["w_plus"]).flatten(0, 1)
        with torch.no_grad():
            images = to_storage(small_models.generator.synthesis(codes)).numpy()
        off = np.abs(images.astype(int) - outputs[name]["views"].reshape(images.shape))
        assert off.max() <= 1  # a value between two levels, rounded at another batch size


def test_a_poisoned_anchor_fails_alone(small_models, image_batch, outputs):
    poisoned = {name: array.copy() for name, array in image_batch.items()}
    poisoned["anchor_w_plus"][4, 1, 7] = np.nan
    out = run(small_models, "wsearch", poisoned, batch_size=5)
    others = np.arange(12) != 4
    assert out["status"][4] == Status.FAILED
    for key in PER_IMAGE:
        assert np.array_equal(out[key][others], outputs["wsearch"][key][others]), key


def test_the_noise_of_wperturb_has_standard_deviation_sigma_in_every_layer(small_models, image_batch):
    config = WPerturbConfig(sigma=0.2, truncation=1.0)
    out = run(small_models, "wperturb", image_batch, config=config, num_views=40)
    offset = out["w_plus"] - image_batch["anchor_w_plus"][:, None]
    for layer in range(4):
        # standard error over 12·40·32 numbers: 0.6 %
        assert offset[:, :, layer].std() == pytest.approx(0.2, rel=0.03)
    assert abs(offset.mean()) < 0.005
    layers = np.corrcoef(offset.transpose(2, 0, 1, 3).reshape(4, -1))
    assert np.abs(layers - np.eye(4)).max() < 0.04  # 5 standard errors


def test_no_noise_gives_the_reconstruction(small_models, image_batch):
    out = run(small_models, "wperturb", image_batch, config=WPerturbConfig(sigma=0), num_views=2)
    assert out["distance"].max() == 0
    assert np.array_equal(out["views"][:, 0], out["views"][:, 1])


def test_expert_views_equal_the_transform_on_addressed_numbers(image_batch, outputs):
    for row, image_id in enumerate(image_batch["source_index"]):
        uniforms = ImageDraws(0, torch.tensor([image_id])).uniform("expert", 3, NUM_UNIFORMS)[0]
        image = to_model(image_batch["image"][row : row + 1]).expand(3, -1, -1, -1)
        views = to_storage(expert_views(image, uniforms, ExpertConfig())).numpy()
        off = np.abs(views.astype(int) - outputs["expert"]["views"][row])
        assert off.max() <= 1  # a value between two levels, rounded at another batch size


def test_invert_stores_reconstruction_code_and_error(small_models, image_batch, outputs):
    out = outputs["invert"]
    with torch.no_grad():
        images = to_storage(small_models.generator.synthesis(torch.from_numpy(out["anchor_w_plus"])))
    assert np.abs(images.numpy().astype(int) - out["views"][:, 0]).max() <= 1
    error = (to_model(out["views"][:, 0]) - to_model(image_batch["image"])).square().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(out["inversion_error"], error, rtol=1e-5)
    assert np.isnan(out["distance"]).all()
    assert set(out["status"]) <= {Status.OK, Status.NOT_CONVERGED}


@pytest.mark.parametrize("name", CONFIGS)
def test_read_only_arrays_are_taken(small_models, image_batch, outputs, name):
    locked = {key: array[:2].copy() for key, array in image_batch.items()}
    for array in locked.values():
        array.flags.writeable = False
    assert np.array_equal(run(small_models, name, locked)["views"], outputs[name]["views"][:2])


def test_the_perceptual_term_changes_the_codes_and_none_takes_its_place(small_models, image_batch):
    two = taken(image_batch, [0, 1])
    codes = {}
    for perceptual in ("discriminator", "none"):
        config = InvertConfig(max_steps=3, perceptual=perceptual)
        codes[perceptual] = run(small_models, "invert", two, config=config)["anchor_w_plus"]
    assert not np.array_equal(codes["discriminator"], codes["none"])
    alone = dataclasses.replace(small_models, discriminator=None)
    with pytest.raises(UsageError, match=r"no discriminator was given.*perceptual=none"):
        run(alone, "invert", two, config=InvertConfig())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("wsearch", "generator"),
        ("wsearch", "encoder"),
        ("wperturb", "generator"),
        ("invert", "generator"),
        ("invert", "inverter"),
    ],
)
def test_a_missing_network_is_named(small_models, name, kind):
    with pytest.raises(ModelError, match=kind):
        make_step(dataclasses.replace(small_models, **{kind: None}), name)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_a_bad_sigma_is_refused(sigma):
    with pytest.raises(UsageError, match=f"sigma is {sigma}; expected"):
        WPerturbConfig(sigma=sigma)
