"""MoCo, BYOL, NNCLR and CPC in a training: resuming, warm-up, groups of batch statistics, patches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from viewgen.errors import ModelError, UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen_train.distributed import World
from viewgen_train.network import build_network, group_shuffle
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.processes import check_workers
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")
CPU = torch.device("cpu")
MOCO = {"objective": "moco", "queue_size": 19, "key_groups": 2, "target_momentum": 0.9}
METHODS = {
    "moco": MOCO,
    "moco-a2": MOCO | {"assimilation": "A2", "symmetric": True, "optimiser": "lars"},
    "byol": {"objective": "byol", "optimiser": "adamw", "predictor_schedule": "constant"},
    "nnclr": {"objective": "nnclr", "queue_size": 9, "assimilation": "A1"},
    "cpc": {"objective": "cpc", "patches": 3, "first_offset": 1, "last_offset": 2, "context_blocks": 1},
}


def given(name):
    return (
        {"assimilation": "none", "context_width": 4} | METHODS[name]
        if name == "cpc"
        else {"assimilation": "none"} | METHODS[name]
    )


@pytest.mark.parametrize("name", ["moco-a2", "byol", "nnclr", "cpc"])
def test_a_run_in_pieces_equals_a_run_in_one(make_tiny_plan, tmp_path, name):
    """Queue, target, predictor and context are in the checkpoint, bit for bit."""
    plans = [
        replace(make_tiny_plan(out=tmp_path / part, epochs=2, **given(name)), measures=False)
        for part in ("whole", "pieces")
    ]
    train_worker(plans[0], "cpu", checkpoint_seconds=1e9)
    for stop_after in (3, None):
        train_worker(plans[1], "cpu", checkpoint_seconds=1e9, stop_after=stop_after)
    states = [torch.load(Path(plan.out) / "checkpoint.pt", weights_only=True)["trainer"] for plan in plans]
    weights = [(Path(plan.out) / "last.safetensors").read_bytes() for plan in plans]
    metrics = [(Path(plan.out) / "metrics.csv").read_text() for plan in plans]
    assert metrics[0] == metrics[1]
    assert weights[0] == weights[1]
    kept = {"moco": {"objective", "target"}, "byol": {"target", "predictor"}, "nnclr": {"objective"},
            "cpc": {"objective"}}[name.partition("-")[0]]  # fmt: skip
    for part in kept:
        assert states[0][part]
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), key


@pytest.mark.parametrize("name", ["moco", "nnclr", "cpc"])
def test_the_state_begins_with_the_seed_and_not_with_the_process(make_tiny_plan, name):
    states = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        trainer = build_trainer(make_tiny_plan(seed=seed, **given(name)), World(), CPU)
        states.append([value.clone() for value in trainer.objective.state_dict().values() if value.ndim])
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(states[0], states[2], strict=True) if a.ndim > 1)


def test_the_target_follows_during_the_warm_up(make_tiny_plan):
    """The learning rate rises from 0; the moving average has no warm-up."""
    trainer = build_trainer(make_tiny_plan(warm_up_epochs=2.0, **given("moco")), World(), CPU)
    network = trainer.network
    for step in range(2):
        slow = [parameter.clone() for parameter in network.target.parameters()]
        rate = trainer.step(step)["learning_rate"]
        assert rate < 0.05
        for old, new, fast in zip(
            slow, network.target.parameters(), network.encoder.parameters(), strict=True
        ):
            torch.testing.assert_close(new, 0.9 * old + 0.1 * fast)
    moved = [a - b for a, b in zip(network.target.parameters(), network.encoder.parameters(), strict=True)]
    assert max(float(difference.detach().abs().max()) for difference in moved) > 0


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_target_is_the_closed_form_of_a_moving_average(make_settings, decay):
    """θ_k = mᵏθ₀ + (1 − m)·Σ m^{k−i}·φ_i: m = 0 copies, m = 1 freezes."""
    network = moco_network(make_settings, key_batchnorm="whole")
    network.head = replace(network.head, momentum=decay)
    weight, slow = next(iter(network.encoder.parameters())), next(iter(network.target.parameters()))
    first, fast = slow.detach().clone(), []
    for _ in range(4):
        with torch.no_grad():
            weight.normal_()
        fast.append(weight.detach().clone())
        network.follow()
    expected = decay**4 * first + (1 - decay) * sum(decay ** (3 - i) * one for i, one in enumerate(fast))
    torch.testing.assert_close(slow.detach(), expected)
    if decay in (0.0, 1.0):
        assert torch.equal(slow, fast[-1] if decay == 0 else first)


def test_target_and_queue_go_on_while_the_reconstruction_is_the_whole_loss(make_tiny_plan):
    given_here = given("moco") | {"reconstruction": "autoencoding", "reconstruction_epochs": 2.0}
    trainer = build_trainer(make_tiny_plan(**given_here), World(), CPU)
    network, queue = trainer.network, trainer.objective.base.queue
    slow = [parameter.clone() for parameter in network.target.parameters()]
    before = queue.keys.clone()
    trainer.step(0)
    for old, new, fast in zip(slow, network.target.parameters(), network.encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * fast)
    changed = (queue.keys != before).any(dim=1)
    assert int(changed.sum()) == 8  # the keys of the batch


def moco_network(make_settings, **settings):
    found = make_settings(assimilation="none", objective="moco", queue_size=20, **settings)
    torch.manual_seed(3)
    network = build_network(found, build_objective(found).head, 8, CPU).train()
    for parameter in network.target.parameters():
        parameter.mul_(1.3)
    return network


def images(count=8):
    random = torch.Generator().manual_seed(0)
    return (
        torch.rand(2, count, 3, 8, 8, generator=random) * 2 - torch.linspace(0, 2, count)[:, None, None, None]
    )


def test_groups_have_batch_statistics_of_their_own(make_settings):
    x = images()
    order = group_shuffle(torch.rand(8, generator=torch.Generator().manual_seed(1)), 2)
    found = moco_network(make_settings, key_groups=2, symmetric=True)(x, order)
    whole = moco_network(make_settings, key_batchnorm="whole", symmetric=True)
    for name, rows in (("z", torch.arange(8)), ("target", order)):
        for group in (rows[0::2], rows[1::2]):
            alone = whole(x[:, group])[name]
            torch.testing.assert_close(found[name][group], alone, atol=1e-5, rtol=1e-4)
    together = whole(x)
    assert float((found["target"] - together["target"]).abs().max()) > 1e-3
    split = moco_network(make_settings, key_groups=2, key_batchnorm="split", symmetric=True)(x)
    torch.testing.assert_close(split["z"], together["z"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(split["target"][0::2], whole(x[:, 0::2])["target"], atol=1e-5, rtol=1e-4)


def test_a_shuffle_puts_one_of_every_g_images_into_each_group():
    numbers = torch.rand(24, generator=torch.Generator().manual_seed(0))
    order = group_shuffle(numbers, 4)
    assert sorted(order.tolist()) == list(range(24))
    groups = [set((order[first::4] // 4).tolist()) for first in range(4)]
    assert groups == [set(range(6))] * 4
    assert order.tolist() != list(range(24))
    # half of the batch has half of the shuffle, as on another process
    torch.testing.assert_close(group_shuffle(numbers[12:], 4) + 12, order[12:])


def test_a_one_sided_network_leaves_out_what_its_loss_does_not_need(make_settings):
    x = images()
    network = moco_network(make_settings, key_batchnorm="whole")
    out = network(x)
    assert bool(out["z"][:, 1].isnan().all())
    assert bool(out["target"][:, 0].isnan().all())
    both = moco_network(make_settings, key_batchnorm="whole", symmetric=True, batchnorm="separate")(x)
    torch.testing.assert_close(out["z"][:, 0], both["z"][:, 0])
    torch.testing.assert_close(out["target"][:, 1], both["target"][:, 1])
    assert int(network.encoder.backbone.bn1.num_batches_tracked) == 1


def test_what_has_no_gradient_and_what_does_not_divide_is_refused(make_tiny_plan, make_settings):
    plan = make_tiny_plan(**MOCO, assimilation="A1", generated="viewmaker")
    with pytest.raises(UsageError, match=r"viewmaker views learn from the gradient.*symmetric=true"):
        build_trainer(plan, World(), CPU)
    # of A2 the generated views are keys in any case
    plan = make_tiny_plan(**MOCO, assimilation="A2", generated="viewmaker", symmetric=True)
    with pytest.raises(UsageError, match="choose A1 with symmetric=true, or choose another --objective"):
        build_trainer(plan, World(), CPU)
    settings = make_settings(**given("moco"))
    assert check_workers(settings, None, 4) == 4
    with pytest.raises(UsageError, match="does not divide into 2 groups of batch statistics"):
        check_workers(settings, None, 8)


def test_a_queue_holds_both_keys_of_a_batch(make_tiny_plan):
    plan = make_tiny_plan(**MOCO | {"queue_size": 16}, symmetric=True, assimilation="none")
    assert plan.settings.objective.settings.queue_size == 16
    with pytest.raises(UsageError, match="queue_size is 15, shorter than a batch of 8 images with two keys"):
        make_tiny_plan(**MOCO | {"queue_size": 15}, symmetric=True, assimilation="none")


def test_views_that_learn_climb_the_loss_before_the_queue_knows_its_keys(make_tiny_plan, monkeypatch):
    plan = make_tiny_plan(**MOCO, symmetric=True, assimilation="A1", generated="viewmaker")
    trainer = build_trainer(plan, World(), CPU)
    keys = trainer.objective.base.queue.keys
    before, seen = keys.clone(), []
    monkeypatch.setattr(trainer.generated, "after_step", lambda *_: seen.append(keys.clone()) or {})
    trainer.step(0)
    assert torch.equal(seen[0], before)
    assert not torch.equal(keys, before)


def test_patches_are_crops_that_overlap_by_half():
    torch.manual_seed(0)
    config = EncoderConfig(image_size=8, width=2, projection_dim=4, patches=3, norm="layer")
    encoder = Encoder(config)
    x = torch.randn(2, 3, 8, 8)
    crops = [x[:, :, 2 * r : 2 * r + 4, 2 * c : 2 * c + 4] for r in range(3) for c in range(3)]
    expected = torch.stack([encoder.backbone(crop) for crop in crops], dim=1)
    torch.testing.assert_close(encoder.embed_patches(x), expected)
    torch.testing.assert_close(encoder.embed(x), expected.mean(dim=1))
    # of layer normalisation an image does not depend on the others
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]))
    with pytest.raises(ModelError, match="4 patches per side do not fill images of 8 px"):
        config.replace(patches=4)
    with pytest.raises(ModelError, match="square images whose side is a multiple of 4"):
        encoder.embed_patches(torch.randn(2, 3, 10, 10))


@pytest.mark.parametrize(
    ("projector", "widths"),
    [("mlp", [6, 4]), ("byol", [6, 4]), ("simsiam", [6, 6, 4]), ("nnclr", [6, 6, 4]), ("linear", [4])],
)
def test_projectors_have_their_layers(projector, widths):
    hidden = None if projector == "linear" else 6
    config = EncoderConfig(
        image_size=8, width=2, projection_dim=4, projector=projector, projector_hidden=hidden
    )
    layers = [layer for layer in Encoder(config).projector if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in layers] == widths
    assert layers[0].in_features == 16
