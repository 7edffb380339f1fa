"""Training of learned views: its objectives, a solvable case, resumption, what it writes and refuses."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from viewgen.datasets.dataset import ImageDataset, MemoryImages
from viewgen.diagnostics.mutual_information import ArrayPairs, MIConfig, estimate_mutual_information
from viewgen.errors import DataError, UsageError
from viewgen.networks.files import load_model, save_model
from viewgen.networks.flow import Flow, FlowConfig
from viewgen.views import VIEWS
from viewgen.views.flow import FlowViewsConfig
from viewgen_pretrained.dry_run import describe_pretraining
from viewgen_pretrained.learned_views import FlowTrainer, info_nce, labelled_images, num_steps, standardised
from viewgen_pretrained.pretrain import pretrain_views, training_config
from viewgen_pretrained.quality import measure_flow
from viewgen_pretrained.settings import ViewsTrainingConfig
from viewgen_train.loop import TrainingDivergedError, run_training

CPU = torch.device("cpu")
TINY = {"width": 1, "projection_dim": 4, "batch_size": 4, "hidden": 4, "epochs": 1, "measure_steps": 0}


@pytest.fixture
def make(dataset):
    def trainer(images=dataset, **settings):
        config = ViewsTrainingConfig(**(TINY | settings))
        return FlowTrainer(images, labelled_images(images, config), config, CPU)

    return trainer


def test_info_nce_is_the_mean_of_both_directions():
    z = torch.nn.functional.normalize(torch.randn(2, 5, 3, dtype=torch.float64), dim=-1)
    total = 0.0
    for i in range(5):
        for a, b in ((z[0], z[1]), (z[1], z[0])):
            scores = [math.exp(float(a[i] @ b[j]) / 0.2) for j in range(5)]
            total -= math.log(scores[i] / sum(scores)) / 10
    assert float(info_nce(z[0], z[1], 0.2)) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(
    ("objective", "metrics"),
    [
        ("unsupervised", {"i_nce"}),
        ("semi", {"i_nce", "cross_entropy_first", "cross_entropy_rest"}),
        ("supervised", {"cross_entropy_first", "cross_entropy_rest"}),
    ],
)
def test_an_objective_trains_its_networks(make, weights_of, objective, metrics):
    trainer = make(objective=objective)
    before = weights_of(trainer)
    found = trainer.step(0)
    assert found.keys() == metrics | {"least_deviation"}
    if "i_nce" in found:
        assert float(found["i_nce"]) <= math.log(8 if objective == "semi" else 4)
    changed = {name.split(".")[1] for name, value in weights_of(trainer).items()
               if not torch.equal(value, before.get(name, value + 1))}  # fmt: skip
    networks = {"critic"} if objective != "supervised" else set()
    networks |= {"classifiers"} if objective != "unsupervised" else set()
    assert changed - {"optimiser", "critic_optimiser"} == networks | {"flow"}


def test_the_critic_climbs_and_the_flow_descends(make):
    """On one batch, without crops: either step alone moves I_NCE its own way."""
    trainer = make(objective="unsupervised", crop=1.0, critic_learning_rate=0.01, view_learning_rate=0.01)
    x, _ = trainer._batch(0)

    def i_nce():
        with torch.no_grad():
            return -float(trainer._info_nce(trainer.critic, standardised(trainer.flow(x))[0]))

    first = i_nce()
    for _ in range(5):
        fixed = standardised(trainer.flow(x))[0].detach()
        trainer._update(trainer.critic_optimiser, trainer._info_nce(trainer.critic, fixed))
    climbed = i_nce()
    assert climbed > first
    for _ in range(5):
        views, _ = standardised(trainer.flow(x))
        trainer._update(trainer.optimiser, -trainer._info_nce(trainer.critic, views))
    assert i_nce() < climbed


def test_a_scaled_channel_is_the_same_view(make):
    trainer = make(objective="unsupervised")
    x, _ = trainer._batch(0)
    scaled = 7 * x + torch.arange(3.0)[:, None, None]
    torch.testing.assert_close(standardised(scaled)[0], standardised(x)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(standardised(scaled)[1], 7 * standardised(x)[1])


def gaussian_pixels(count=4096):
    """Images of one pixel whose red is correlated with green and blue, and I(red; green, blue) in nats."""
    random = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.6, 0.5], [0.6, 1.0, 0.3], [0.5, 0.3, 1.0]])
    values = random.multivariate_normal(np.zeros(3), covariance, count)
    pixels = np.clip(np.round(128 + 40 * values), 0, 255).astype(np.uint8)
    det = np.linalg.det
    nats = 0.5 * math.log(covariance[0, 0] * det(covariance[1:, 1:]) / det(covariance))
    images = ImageDataset(
        name="pixels",
        split="train",
        image_size=1,
        num_classes=2,
        class_names=("dark", "light"),
        pixels=MemoryImages(pixels[:, :, None, None]),
        targets=(values[:, 0] > 0).astype(np.int64),
    )
    return images, nats


def channels_of(trainer):
    """Return the channels of one-pixel images, `(N, 3)`."""
    rows = np.arange(len(trainer.dataset))
    with torch.no_grad():
        return trainer.flow(trainer._channels(trainer.dataset, rows))[:, :, 0, 0]


def linearly_shared(y):
    """Return what the views would share if they were Gaussian, in nats."""
    covariance, det = np.cov(y.double().numpy().T), np.linalg.det
    return 0.5 * math.log(covariance[0, 0] * det(covariance[1:, 1:]) / det(covariance))


def test_one_linear_block_takes_away_what_gaussian_pixels_share():
    """F(x₁) = −Σ₂₁ x₁ / Σ₁₁, of two hidden units: relu(x₁) − relu(−x₁) = x₁."""
    images, nats = gaussian_pixels()
    x = torch.from_numpy(images.images(np.arange(len(images)))[:, :, 0, 0]).double()
    covariance = torch.cov(x.T)
    flow = Flow(FlowConfig(image_size=1, space="RGB", num_blocks=1, hidden=2)).double()
    first, second, last = flow.blocks[0].f[::2]
    with torch.no_grad():
        first.weight[:, 0, 0, 0] = torch.tensor([1.0, -1.0])
        second.weight[:, :, 0, 0] = torch.eye(2)
        last.weight[:, :, 0, 0] = -covariance[1:, :1] / covariance[0, 0] * torch.tensor([1.0, -1.0])
        for layer in (first, second):
            layer.bias.zero_()
        y = flow.blocks[0](x[:, :, None, None])[0][:, :, 0, 0]
    assert linearly_shared(x) == pytest.approx(nats, abs=0.02)
    assert linearly_shared(y) == pytest.approx(0.0, abs=1e-9)


def test_each_side_has_its_own_learning_rate(make):
    trainer = make(objective="semi", labels=6, view_learning_rate=3e-4, critic_learning_rate=5e-4)
    rates = {one["lr"] for one in trainer.critic_optimiser.param_groups}
    assert rates == {5e-4}
    assert {one["lr"] for one in trainer.optimiser.param_groups} == {3e-4}
    of_critic = {id(one) for group in trainer.critic_optimiser.param_groups for one in group["params"]}
    assert of_critic == {id(one) for one in trainer.critic.parameters()}
    assert not of_critic & {id(one) for group in trainer.optimiser.param_groups for one in group["params"]}


def test_gaussian_pixels_end_with_nothing_shared(make):
    """One additive block with a linear F would remove all that red shares with green and blue."""
    images, nats = gaussian_pixels()
    trainer = make(
        images, objective="unsupervised", space="RGB", crop=1.0, batch_size=128, width=4, projection_dim=8,
        hidden=8, num_blocks=3, view_learning_rate=3e-3, critic_learning_rate=1e-2, epochs=2,
    )  # fmt: skip
    assert linearly_shared(channels_of(trainer)) == pytest.approx(nats, abs=0.05), (
        "a new flow changes nothing"
    )
    for step in range(trainer.num_steps):
        torch.manual_seed(step)
        trainer.step(step)
    y = channels_of(trainer)
    assert linearly_shared(y) < 0.05
    config = MIConfig(estimator="infonce", num_steps=40, batch_size=128, num_draws=1, num_resamplings=40)
    assert estimate_mutual_information(ArrayPairs(y[:, :1], y[:, 1:]), config).nats < 0.05


def test_a_class_told_by_red_alone_reaches_the_other_channels(make):
    """What both views tell of it costs as much I_NCE as it saves cross-entropy: the sum stays at ln 2.

    A training moves the class all the same, until both tell it and share nothing else. A supervised one does
    so at once. At 256 steps each of four seeds was there, at 192 two of them.
    """
    random = np.random.default_rng(3)
    classes = random.integers(0, 2, 2048)
    pixels = random.integers(0, 256, (2048, 3, 1, 1)).astype(np.uint8)
    pixels[:, 0, 0, 0] = np.where(classes, 200, 50) + random.integers(-30, 31, 2048)
    images = ImageDataset(
        name="red", split="train", image_size=1, num_classes=2, class_names=("dark", "light"),
        pixels=MemoryImages(pixels), targets=classes,
    )  # fmt: skip
    shape = {"space": "RGB", "crop": 1.0, "batch_size": 64, "width": 4, "hidden": 8, "num_blocks": 3}
    rates = {"semi": {"critic_learning_rate": 0.01, "projection_dim": 8}, "supervised": {}}
    found = {}
    for objective, epochs in (("semi", 8), ("supervised", 3)):
        own = {"objective": objective, "epochs": epochs, "view_learning_rate": 0.01}
        trainer, rows = make(images, **shape, **own, **rates[objective]), []
        for step in range(trainer.num_steps):
            torch.manual_seed(step)
            rows.append({name: float(value) for name, value in trainer.step(step).items()})
        found[objective] = rows
    semi, supervised = found["semi"], found["supervised"]
    terms = ("i_nce", "cross_entropy_first", "cross_entropy_rest")
    sums = [sum(row[name] for name in terms) for row in semi[64:]]
    assert np.mean(sums) == pytest.approx(math.log(2), abs=0.1)
    last = {name: np.median([row[name] for row in semi[-64:]]) for name in terms}
    assert last["i_nce"] == pytest.approx(math.log(2), abs=0.2)
    for name in terms[1:]:
        alone = np.median([row[name] for row in supervised[64:]])
        assert alone < 0.02
        assert last[name] < alone + 0.05


def test_a_run_in_pieces_equals_a_run_in_one(make, weights_of, tmp_path):
    often = {"checkpoint_seconds": 0.0, "log_every": 2, "picture_seconds": 0.0}
    whole = make(epochs=1)
    run_training(whole, tmp_path / "whole", **often)
    for stop_after in (2, 3, None):
        torch.manual_seed(stop_after or 0)
        trainer = make(epochs=1)
        run_training(trainer, tmp_path / "pieces", stop_after=stop_after, **often)
    expected, found = weights_of(whole), weights_of(trainer)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    tables = [(tmp_path / one / "flow-training/metrics.csv").read_text() for one in ("whole", "pieces")]
    assert tables[0] == tables[1]
    assert [int(row["step"]) for row in csv.DictReader(tables[0].splitlines())] == [1, 3, 4]
    assert (tmp_path / "pieces/flow-training/samples.png").is_file()


def test_it_writes_a_flow_with_a_card_for_views(pictures, data_root, dataset, tmp_path):
    settings = TINY | {"labels": 6, "measure_steps": 2, "batch_size": 8, "coupling": "affine"}
    # 20 images are too few for a critic of its own; the card says what was measured
    card = pretrain_views(f"folder:{pictures}", tmp_path, data_root=str(data_root), settings=settings)
    assert json.loads((tmp_path / "flow.card.json").read_text()) == card
    assert (card["kind"], card["network"]["coupling"], card["steps"]) == ("flow", "affine", 2)
    measured = card["measured"]
    assert measured.keys() == {
        "least_deviation", "cross_entropy_first", "accuracy_first", "cross_entropy_rest", "accuracy_rest",
        "test_images",
    }  # fmt: skip
    assert (tmp_path / "flow-training/curves.png").is_file()
    entry = VIEWS.entry("flow")
    found = entry.fit(FlowViewsConfig(file=str(tmp_path / "flow.safetensors")), dataset)
    assert min(found.deviation) == pytest.approx(measured["least_deviation"], abs=1e-6)
    assert load_model(tmp_path / "flow.safetensors", "flow").config.space == "YDbDr"


def test_enough_images_have_critics_of_their_own(make, tmp_path, monkeypatch):
    """K is a quarter of few images, up to a bound of its own, and not the batch of the training."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (80, 3, 8, 8)).astype(np.uint8)
    images = ImageDataset(
        name="noise", split="train", image_size=8, num_classes=2, class_names=("a", "b"),
        pixels=MemoryImages(pixels), targets=np.arange(80) % 2,
    )  # fmt: skip
    trainer = make(images, objective="unsupervised", measure_steps=2, batch_size=8, space="RGB")
    save_model(trainer.flow, path := tmp_path / "flow.safetensors")
    for most, candidates in ((256, 20), (16, 16)):
        monkeypatch.setattr("viewgen_pretrained.quality.MAX_CANDIDATES", most)
        measured = measure_flow(trainer.flow, path, trainer, None)
        assert measured["i_nce"] == measured["i_nce_raw"], "a new flow is the identity"
        ceiling = measured["i_nce_ceiling"]
        assert measured["i_nce"] <= ceiling == pytest.approx(math.log(candidates), abs=1e-4)
        assert (
            measured["i_nce_saturated"]
            == measured["i_nce_raw_saturated"]
            == (measured["i_nce"] > ceiling - 1)
        )
        low, high = measured["i_nce_interval"]
        assert low <= measured["i_nce"] <= high


def test_labels_are_drawn_and_checked(dataset, make):
    config = ViewsTrainingConfig(labels=5)
    found = labelled_images(dataset, config)
    assert (len(found.rows), found.num_classes, found.attribute) == (5, 2, "class")
    assert labelled_images(dataset, config.replace(seed=1)).rows.tolist() != found.rows.tolist()
    assert labelled_images(dataset, ViewsTrainingConfig(objective="unsupervised")) is None
    for labels in (1, 21):
        with pytest.raises(UsageError, match=rf"labels is {labels}; expected at least one for each of the 2"):
            labelled_images(dataset, config.replace(labels=labels))
    with pytest.raises(UsageError, match="labels is given and has no effect"):
        training_config(ViewsTrainingConfig, "views", "x", {"objective": "unsupervised", "labels": 5})
    with pytest.raises(UsageError, match="space is 'YDbDb'; did you mean 'YDbDr'"):
        ViewsTrainingConfig(space="YDbDb")
    assert num_steps(ViewsTrainingConfig(batch_size=5, epochs=2), 20, 10) == 8
    assert num_steps(ViewsTrainingConfig(batch_size=5, epochs=2, objective="supervised"), 20, 10) == 4


def test_grey_images_and_collapsed_channels_are_refused(make, tmp_path):
    images, _ = gaussian_pixels(50)
    pixels = images.pixels.array
    grey = ImageDataset(
        name="grey", split="train", image_size=1, num_classes=2, class_names=("a", "b"),
        pixels=MemoryImages(pixels[:, :1].repeat(3, axis=1)), targets=images.targets,
    )  # fmt: skip
    with pytest.raises(DataError, match="Grey images have no colours to split"):
        make(grey)
    trainer = make(images, space="RGB")
    with torch.no_grad():
        trainer.flow.deviation[1] *= 1e4
    # the metrics of several steps are read together, as on a GPU; the first that failed is named
    trainer.settle_every = 3
    collapsed = r"least standard deviation of a channel is .* at step 0"
    with pytest.raises(TrainingDivergedError, match=collapsed):
        run_training(trainer, tmp_path)
    assert not (tmp_path / "flow-training/checkpoint.pt").exists()
    with torch.no_grad():
        trainer.flow.deviation[1] = torch.nan
    with pytest.raises(TrainingDivergedError, match="is nan at step 4"):
        trainer.check(4, {name: float(value) for name, value in trainer.step(4).items()})


@pytest.mark.parametrize("objective", ["semi", "supervised"])
@pytest.mark.parametrize("labels", [None, 30])
def test_classes_belong_to_their_images(make, objective, labels):
    """Red is above its mean in every image of one class, and below it in every one of the other."""
    random = np.random.default_rng(3)
    classes = random.integers(0, 2, 60)
    pixels = random.integers(0, 256, (60, 3, 4, 4)).astype(np.uint8)
    pixels[:, 0] = np.where(classes, 200, 50)[:, None, None]
    images = ImageDataset(
        name="red", split="train", image_size=4, num_classes=2, class_names=("dark", "light"),
        pixels=MemoryImages(pixels), targets=classes,
    )  # fmt: skip
    trainer = make(images, objective=objective, labels=labels, space="RGB", crop=1.0, batch_size=8)
    seen = []
    for step in range(5):
        x, targets = trainer._batch(step)
        assert torch.equal((x[-len(targets) :, 0].mean(dim=(1, 2)) > 0).long(), targets)
        seen += targets.tolist()
    assert set(seen) == {0, 1}


def test_a_dry_run_tells_settings_and_cost(pictures, data_root, tmp_path):
    found = describe_pretraining(
        "views", f"folder:{pictures}", tmp_path, data_root=str(data_root), settings=TINY | {"seed": 0}
    )
    assert found.cost.steps == 5
    assert found.cost.seconds > 0
    assert found.to_json()["settings"]["objective"] == "semi"
    assert not [*tmp_path.iterdir()]
