"""Views of two roles: an encoder of each, or one for both; the features of both for readouts."""

import json
import re
from pathlib import Path

import pytest
import torch

from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.subjects import SubjectArguments
from viewgen.errors import DataError, IncompleteError, ModelError, UsageError
from viewgen.images import to_model
from viewgen.networks.files import read_header, save_model
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.settings import Settings, setting
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen.views.branched import load_image_encoder
from viewgen.views.entry import ViewEntry
from viewgen.views.source import Views
from viewgen_pipelines.cache import cache
from viewgen_train.distributed import World
from viewgen_train.dry_run import describe
from viewgen_train.evaluate import evaluate
from viewgen_train.export import export_encoder
from viewgen_train.gradients import drop_idle_gradients
from viewgen_train.plan import TrainOptions, make_plan
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")
FIRST, REST = Role(name="first", channels=(0,)), Role(name="rest", channels=(1, 2))
LOW, HIGH = Role(name="low"), Role(name="high")
SETTINGS = {
    "assimilation": "none",
    "objective": "infonce",
    "network.width": 2,
    "projection_dim": 4,
    "batch_size": 8,
    "epochs": 1,
    "learning_rate": 0.05,
    "warm_up_epochs": 0.0,
    "knn_every": 0,
    "precision": "float32",
}


class HalvesSettings(Settings):
    """Whether the channels are in reverse order."""

    title = "halves"

    flipped: bool = setting(False, "whether the channels are in reverse order")


class Halves:
    """The image itself, twice: roles say which channels count."""

    roles = ("first", "rest")

    def __init__(self, settings, resources):
        self.flipped = settings.flipped

    def views(self, images, num_views):
        pixels = images.pixels.flip(1) if self.flipped else images.pixels
        return Views(pixels=pixels.expand(num_views, *pixels.shape))


class Bands(Halves):
    """A mean of pixels, and what it leaves."""

    roles = ("low", "high")

    def views(self, images, num_views):
        x = to_model(images.pixels)
        low = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        return Views(pixels=torch.stack([low, (x - low) / 2]))


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        for name, build, roles in (("halves", Halves, (FIRST, REST)), ("bands", Bands, (LOW, HIGH))):
            entry = ViewEntry(name=name, summary="s", settings=HalvesSettings, build=build, roles=roles)
            patch.setitem(VIEWS._registered, name, entry)
        yield


@pytest.fixture(scope="module")
def plan(tiny, tiny_root, tmp_path_factory):
    """Return a factory of plans of runs in separate folders: settings by name, and the URL of a cache."""

    def make(url=None, **settings):
        views = {"generated": "halves" if url is None else "cache"}
        options = TrainOptions(
            dataset=tiny.name,
            settings=SETTINGS | views | settings,
            cache=url,
            out=str(tmp_path_factory.mktemp("runs") / "run"),
            data_root=tiny_root,
            device="cpu",
        )
        return make_plan(options)

    return make


@pytest.fixture(scope="module")
def trained(plan):
    """A finished run."""
    found = plan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("viewgen_train.curves.draw_curves", lambda *_: None)
        train_worker(found, "cpu", checkpoint_seconds=1e9)
    return found


@pytest.fixture(scope="module")
def halves(tiny, tiny_root, tmp_path_factory, _registered):
    """A cache of views of two roles."""
    url = str(tmp_path_factory.mktemp("caches") / "halves.zarr")
    cache(tiny.name, method="halves", out=url, executor="local", data_root=tiny_root, quiet=True)
    return url


def test_a_run_in_pieces_equals_a_run_in_one(plan, trained):
    pieces = plan()
    for stop_after in (1, None):
        train_worker(pieces, "cpu", checkpoint_seconds=1e9, stop_after=stop_after)
    metrics = [(Path(one.out) / "metrics.csv").read_text().splitlines() for one in (trained, pieces)]
    assert metrics[0][0] == metrics[1][0]
    assert "knn5_top1" in metrics[0][0]
    # once, of many runs, two losses differed in their last digit: networks of one and two input channels
    for one, other in zip(*(rows[1:] for rows in metrics), strict=True):
        numbers = [[float(cell or "nan") for cell in row.split(",")] for row in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, nan_ok=True)
    a, b = (load_image_encoder(Path(one.out) / "last.safetensors") for one in (trained, pieces))
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_each_role_has_an_encoder_of_its_own_channels(plan):
    trainer = build_trainer(plan(), World(), torch.device("cpu"))
    encoder = trainer.network.encoder
    assert [encoder[role].config.in_channels for role in ("first", "rest")] == [1, 2]
    images = trainer.batch(0)
    views = trainer.views(images)
    out = trainer.outputs(views, images)
    for view, role in enumerate((FIRST, REST)):
        torch.testing.assert_close(out.z[view], encoder[role.name](role.of(views[view])))
    # the crop is the image's, not the view's
    assert torch.equal(views[0], views[1])
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    trainer.step(0)
    assert all(not torch.equal(before[name], value) for name, value in encoder.named_parameters())


def test_one_encoder_for_both_if_their_channels_allow(plan, tiny, tmp_path):
    one = plan(generated="bands", branches="shared")
    shared = build_trainer(one, World(), torch.device("cpu"))
    encoder = shared.network.encoder
    assert encoder["low"] is encoder["high"]
    separate = build_trainer(plan(generated="bands"), World(), torch.device("cpu"))
    sizes = [sum(p.numel() for p in each.parameters()) for each in (encoder, separate.network.encoder)]
    assert 2 * sizes[0] == sizes[1]
    shared.step(0)
    save_model(encoder, tmp_path / "f.safetensors", notes={"views": one.splitting.record()})
    loaded, images = load_image_encoder(tmp_path / "f.safetensors"), tiny.images(range(5))
    expected = features_of_both(loaded.branches, one.splitting, images)
    torch.testing.assert_close(loaded.embed(to_model(images)), expected)
    with pytest.raises(ModelError, match=r"cannot share one \(channels: first 1, rest 2\)"):
        build_trainer(plan(branches="shared"), World(), torch.device("cpu"))


RCL = {"reconstruction": "inpainting", "mask_side": [3, 6]}


@pytest.mark.parametrize("more", [{}, {"generated": "bands", "branches": "shared"}])
def test_views_of_each_role_are_rebuilt_by_a_decoder_of_its_own(plan, more):
    trainer = build_trainer(plan(reconstruction_view="all", **RCL, **more), World(), torch.device("cpu"))
    # normalised by their batch, without which an untrained decoder hardly depends on its input
    network, images = trainer.network.train(), trainer.batch(0)
    views = trainer.views(images)
    corrupted = trainer._corruption(views, images)
    changed = corrupted.inputs != corrupted.targets
    assert changed.flatten(2).any(dim=2).all()
    mean = corrupted.targets.mean(dim=(3, 4), keepdim=True).expand_as(corrupted.targets)
    torch.testing.assert_close(corrupted.inputs[changed], mean[changed])
    errors = network(views, corrupted=corrupted)["reconstruction"]
    for view, role in enumerate(network.roles):
        encoder, decoder = network.encoder[role.name], network.decoder[role.name]
        rebuilt = decoder(encoder.feature_map(role.of(corrupted.inputs[view])))
        expected = (rebuilt - role.of(corrupted.targets[view])).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(errors[:, view], expected)
    assert (network.decoder["low"] is network.decoder["high"]) if more else len(network.decoder.decoders) == 2


def test_a_warm_up_on_the_first_role_leaves_the_others(plan):
    trainer = build_trainer(plan(reconstruction_epochs=0.5, **RCL), World(), torch.device("cpu"))
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    metrics = trainer.step(0)
    assert metrics["gradient_of_reconstruction"] > 0
    assert "gradient_of_contrastive" not in metrics
    after = dict(trainer.network.named_parameters())
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {
        name for name in after if name.startswith(("encoder.encoders.first.backbone", "decoder"))
    }
    assert not [name for name in after if name.startswith("decoder") and "rest" in name]
    # in data-parallel processes the others have gradients of zero, on which the weight decay would act
    for value in after.values():
        value.grad = torch.zeros_like(value)
    drop_idle_gradients(trainer.network, trainer.optimiser.parameters)
    assert {name for name, value in after.items() if value.grad is not None} == moved


def test_a_reconstruction_of_roles_goes_on_after_a_stop(plan):
    whole, pieces = plan(reconstruction_epochs=0.5, **RCL), plan(reconstruction_epochs=0.5, **RCL)
    train_worker(whole, "cpu", checkpoint_seconds=1e9)
    for stop_after in (1, None):
        train_worker(pieces, "cpu", checkpoint_seconds=1e9, stop_after=stop_after)
    states = [torch.load(Path(one.out) / "checkpoint.pt")["trainer"]["decoder"] for one in (whole, pieces)]
    assert any(name.startswith("decoders.first.") for name in states[0])
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)
    encoder = load_image_encoder(Path(whole.out) / "last.safetensors")
    assert not [name for name in encoder.state_dict() if "decoder" in name]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reconstruction_view": "image"}, "reconstruction_view is 'image', which no encoder of views of"),
        (
            {"reconstruction": "colorization", "mask_side": None},
            "'colorization', and the view 'first' has some",
        ),
    ],
)
def test_what_roles_cannot_rebuild(plan, given, message):
    with pytest.raises(UsageError, match=message):
        plan(**{name: value for name, value in (RCL | given).items() if value is not None})


def features_of_both(encoder, splitting, images):
    """Return the features of each role's encoder, one behind the other."""
    with torch.no_grad():
        batch = type("Batch", (), {"pixels": torch.from_numpy(images)})()
        views = splitting.build(None).views(batch, 2).model
        roles = splitting.entry.roles
        parts = [encoder[role.name].embed(role.of(view)) for role, view in zip(roles, views, strict=True)]
    return torch.cat(parts, dim=1)


def test_readouts_use_the_features_of_both(trained, tiny, tiny_root, tmp_path):
    images = tiny.images(range(5))
    encoder = load_image_encoder(Path(trained.out) / "last.safetensors")
    assert encoder.embedding_dim == 2 * 16
    expected = features_of_both(encoder.branches, trained.splitting, images)
    torch.testing.assert_close(encoder.embed(to_model(images)), expected)
    document = evaluate(
        trained.out, settings={"epochs": 2, "num_seeds": 1}, data_root=tiny_root, device="cpu"
    )
    assert 0 <= document["top1"] <= 1
    card = export_encoder(trained.out, tmp_path / "out")
    assert card["embedding_dim"] == 32
    assert card["measured"]["top1"] == document["top1"]
    page = (tmp_path / "out/README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"images": images}
    exec(code.replace("encoder.safetensors", str(tmp_path / "out/encoder.safetensors")), names)
    torch.testing.assert_close(names["features"], expected)


def test_distances_in_a_common_space_are_refused(trained, tiny_root):
    subject = SubjectArguments(kind="training", subject=trained.out, data_root=tiny_root).open()
    with pytest.raises(DataError, match="an encoder for each of first, rest"):
        DIAGNOSTICS.resolve("alignment", "digits", {}).build().measure(subject, 0)


def test_a_cache_keeps_roles_and_trains_alike(plan, halves, tiny_root):
    spec = CacheReader(halves).spec
    assert (spec.roles, spec.num_views) == ((FIRST, REST), 2)
    found = plan(url=halves)
    assert found.roles == (FIRST, REST)
    train_worker(found, "cpu", stop_after=1)
    weights = Path(found.out) / "last.safetensors"
    assert read_header(weights)["views"] == {"name": "halves", "settings": {"flipped": False}}
    trainer = build_trainer(plan(url=halves), World(), torch.device("cpu"))
    views = trainer.views(trainer.batch(0))
    assert torch.equal(views[0], views[1]), "cropped and flipped alike"
    pairs = SubjectArguments(kind="cache", subject=halves, data_root=tiny_root).open().pairs
    assert [(pair.x, pair.y) for pair in pairs][1:] == [("first", "rest")]


def test_a_cache_with_a_gap_is_refused(plan, tiny, cache_of):
    status = torch.ones(len(tiny), dtype=torch.uint8).numpy()
    status[3] = 3
    url = cache_of(
        tiny, method="halves", config={"flipped": False}, roles=(FIRST, REST), num_views=2, status=status
    )
    with pytest.raises(IncompleteError, match="1 of 21 images have no views of the roles first, rest"):
        plan(url=url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assimilation": "A1"}, "Give --assimilation none"),
        (
            {"objective": "moco", "symmetric": True, "queue_size": 16, "key_batchnorm": "whole"},
            "in one queue",
        ),
        (
            {"generated": "expert", "branches": "shared"},
            "branches is 'shared', a setting for views of different",
        ),
        ({"generated": "expert", "branches": "separate"}, "views are interchangeable and have one encoder"),
    ],
)
def test_settings_that_do_not_fit_are_refused(plan, tiny, tiny_root, settings, message):
    given = SETTINGS | {"generated": "halves"} | settings
    with pytest.raises(UsageError, match=message):
        plan(**settings)
    with pytest.raises(UsageError, match=message):
        describe(tiny.name, settings=given, data_root=tiny_root, device="cpu")


def test_cached_views_of_roles_have_no_colours_to_change(plan, halves, tiny_cache):
    with pytest.raises(UsageError, match="choose flip or weak-crop"):
        plan(url=halves, transform="expert")
    with pytest.raises(UsageError, match="branches is 'shared', a setting for views of different roles"):
        plan(url=tiny_cache, branches="shared")


def test_a_dry_run_measures_both_encoders(tiny, tiny_root):
    given = SETTINGS | {"generated": "halves"}
    found = describe(tiny.name, settings=given, data_root=tiny_root, device="cpu")
    assert found.roles == (FIRST, REST)
    assert 'branches = "separate"' in "\n".join(found.lines())
    json.dumps(found.to_json())


def test_the_record_without_roles_is_what_it_was(tiny, spec_of):
    plain, roles = spec_of(tiny, num_views=2), spec_of(tiny, num_views=2, roles=(FIRST, REST))
    assert "roles" not in plain.to_json()
    assert type(roles).from_json(json.loads(json.dumps(roles.to_json()))) == roles
    assert roles.identity != plain.identity
    with pytest.raises(UsageError, match="expected one view of each role"):
        spec_of(tiny, num_views=3, roles=(FIRST, REST))


def test_a_source_that_needs_networks_cannot_split_for_readouts(monkeypatch, plan):
    entry = VIEWS.entry("halves")
    needy = type(entry)(
        name="halves", summary="s", settings=HalvesSettings, build=Halves, roles=(FIRST, REST),
        needs=frozenset({"training"}),
    )  # fmt: skip
    monkeypatch.setitem(VIEWS._registered, "halves", needy)
    with pytest.raises(UsageError, match="halves views needs training"):
        plan()
    assert isinstance(Choice(entry, HalvesSettings()).record(), dict)
