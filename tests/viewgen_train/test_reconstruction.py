"""RCL: decoders, the two terms and their phases, resuming, and what is refused."""

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from viewgen.errors import UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen_train.decoder import Decoder, build_decoder, image_errors
from viewgen_train.distributed import World
from viewgen_train.dry_run import describe
from viewgen_train.gradients import backbone_norms
from viewgen_train.objectives.assimilation import A1, A2, build_objective
from viewgen_train.objectives.objective import Outputs
from viewgen_train.objectives.reconstruction import Reconstruction
from viewgen_train.resolve import train_settings
from viewgen_train.sizes import check_sizes
from viewgen_train.worker import build_trainer, train_worker

pytestmark = pytest.mark.usefixtures("_no_pictures")

ALONE = {"assimilation": "none", "objective": "simclr"}
RCL = {"reconstruction": "inpainting", "reconstruction_epochs": 2.0, "gradients_every": 1}


class Constant:
    """An objective whose loss is a constant times the projections' mean."""

    num_expert, num_generated, head, any_views = 0, 2, None, False

    def loss(self, out):
        return {"loss": 3 * out.z.mean(), "other": out.z.max()}


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    ("backbone", "size", "pooled", "layers"),
    [
        ("convnet6", 64, False, 6), ("convnet6", 32, True, 6), ("resnet18", 32, False, 7),
        ("resnet18", 32, True, 11), ("resnet18", 96, False, 7), ("resnet50", 32, False, 7),
        ("convnet", 32, False, 9), ("convnet", 48, False, 9), ("convnet", 32, True, 11),
    ],
)  # fmt: skip
def test_decoders_make_images(backbone, size, pooled, layers):
    encoder = Encoder(EncoderConfig(image_size=size, backbone=backbone, width=2))
    decoder = build_decoder(encoder, pooled=pooled)
    images = torch.rand(2, 3, size, size)
    maps = encoder.feature_map(images)
    assert decoder(maps).shape == (2, 3, size, size)
    found = [one for one in decoder.modules() if isinstance(one, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    assert len(found) == layers
    torch.testing.assert_close(maps.mean(dim=(2, 3)), encoder.embed(images))
    if pooled:
        turned = maps.flip(2)  # another map with the same pooled features
        decoder.eval()
        torch.testing.assert_close(decoder(turned), decoder(maps))


def test_a_side_that_no_doubling_reaches_is_refused():
    encoder = Encoder(EncoderConfig(image_size=96, width=2))
    with pytest.raises(UsageError, match=r"pooled features to images of 96 px.*decoder_input=map"):
        build_decoder(encoder, pooled=True)


def test_errors_of_images():
    rebuilt, targets = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    targets[1] = 2
    assert image_errors(rebuilt, targets, None, "mse").tolist() == [1, 4]
    assert image_errors(rebuilt, targets, None, "rms").tolist() == [1, 2]
    torch.testing.assert_close(image_errors(rebuilt, targets, None, "l2"), torch.tensor([48.0, 192.0]).sqrt())
    weights = torch.zeros(2, 1, 4, 4)
    weights[:, :, 0] = 1
    targets[:, :, 1:] = 100  # does not count
    assert image_errors(rebuilt, targets, weights, "mse").tolist() == [1, 4]
    assert image_errors(rebuilt, targets, weights, "l2")[0] == pytest.approx(math.sqrt(12))


def test_a_linear_decoder_reaches_the_error_of_principal_components():
    random = torch.Generator().manual_seed(0)
    data = torch.randn(400, 6, generator=random, dtype=torch.float64)
    data = data * torch.tensor([3.0, 2.0, 1.5, 0.5, 0.3, 0.2], dtype=torch.float64)
    data = data - data.mean(dim=0)
    values = torch.linalg.svdvals(data) ** 2 / len(data)
    down = (0.1 * torch.randn(6, 2, generator=random, dtype=torch.float64)).requires_grad_()
    torch.manual_seed(0)
    decoder = Decoder(nn.Sequential(nn.Conv2d(2, 6, 1, bias=False)).double(), pooled=True)
    search = torch.optim.LBFGS([down, *decoder.parameters()], max_iter=200, line_search_fn="strong_wolfe")
    apart = torch.randn(400, 2, 2, 2, generator=random, dtype=torch.float64)
    apart = apart - apart.mean(dim=(2, 3), keepdim=True)  # the pooled features know nothing of it

    def error():
        search.zero_grad()
        maps = (data @ down)[:, :, None, None] + apart
        found = image_errors(decoder(maps), data.view(-1, 6, 1, 1), None, "mse").mean()
        found.backward()
        return found

    search.step(error)
    # the decoder's images are rounded to float32
    assert error().item() == pytest.approx(float(values[2:].sum()) / 6, rel=1e-3)


def test_the_loss_in_both_phases():
    objective = Reconstruction(Constant(), weight=10, contrastive_weight=0.5, warm_up=0.25)
    z = torch.full((2, 4, 3), 2.0, requires_grad=True)
    rebuilt = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    early = objective.loss(Outputs(z=z, reconstruction=rebuilt, progress=0.2499))
    assert early["loss"].item() == 25
    assert torch.autograd.grad(early["loss"], z, allow_unused=True)[0] is None
    late = objective.loss(Outputs(z=z, reconstruction=rebuilt, progress=0.25))
    assert late["loss"].item() == 25 + 0.5 * 6
    assert {name: late[name].item() for name in ("contrastive_loss", "reconstruction_loss", "other")} == {
        "contrastive_loss": 6, "reconstruction_loss": 2.5, "other": 2,
    }  # fmt: skip
    # what learned views climb on is the objective's loss alone
    assert objective.loss(Outputs(z=z, progress=0.0))["loss"].item() == 6
    objective.whole_graph = True
    joined = objective.loss(Outputs(z=z, reconstruction=rebuilt, progress=0.0))
    assert joined["loss"].item() == 25
    assert torch.equal(torch.autograd.grad(joined["loss"], z)[0], torch.zeros_like(z))


def test_the_scale_of_the_loss_is_the_objectives():
    """The optimised loss is scale·w·L_c + λ·L_r, and the logged term is the second of these."""
    given = {"loss_scale": 4.0, "contrastive_weight": 0.5}
    settings = train_settings("digits", ALONE | RCL | given)
    objective = build_objective(settings)
    assert isinstance(objective, Reconstruction)
    objective.base = Constant()
    z, rebuilt = torch.full((2, 4, 3), 2.0), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    found = objective.loss(Outputs(z=z, reconstruction=rebuilt, progress=1.0))
    assert found["weighted_reconstruction"].item() == 25
    assert 4.0 * found["loss"].item() == 4.0 * 0.5 * 6 + 25
    assert objective.warm_up == 2 / settings.optimiser.epochs


@pytest.mark.parametrize(
    ("chosen", "kind"), [({"assimilation": "A1", "objective": "moco"}, A1), ({"assimilation": "A2"}, A2)]
)
def test_it_wraps_assimilation(chosen, kind):
    objective = build_objective(train_settings("digits", chosen | RCL))
    assert isinstance(objective, Reconstruction)
    assert isinstance(objective.base, kind)
    assert (objective.num_expert, objective.num_generated) == (
        objective.base.num_expert, objective.base.num_generated,
    )  # fmt: skip


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_weights_of_zero(make_tiny_plan, tmp_path, weight):
    """Without weight it is the plain training bit for bit; without the objective's the head stays."""
    plain = make_tiny_plan(out=tmp_path / "plain", **ALONE)
    given = {"reconstruction": "inpainting", "reconstruction_weight": weight}
    if weight:
        given["contrastive_weight"] = 0.0
    other = make_tiny_plan(out=tmp_path / "other", **ALONE, **given)
    before = build_trainer(other, World(), torch.device("cpu")).network.encoder.state_dict()
    for plan in (plain, other):
        train_worker(plan, "cpu", checkpoint_seconds=1e9)
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("plain", "other"))
    if not weight:
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        return
    head = [name for name in second if name.startswith("projector")]
    assert head
    assert all(torch.equal(second[name], before[name]) for name in head)
    assert not torch.equal(second["backbone.conv1.weight"], before["backbone.conv1.weight"])


@pytest.mark.parametrize("chosen", [ALONE, {"assimilation": "A2", "objective": "moco"}])
def test_pieces_equal_a_whole_across_the_switch(make_tiny_plan, tmp_path, chosen):
    more = {"queue_size": 16, "key_batchnorm": "whole"} if "moco" in chosen.values() else {}
    plan = make_tiny_plan(out=tmp_path / "whole", **chosen, **RCL, **more)
    start = build_trainer(plan, World(), torch.device("cpu")).network.encoder.state_dict()
    train_worker(plan, "cpu", checkpoint_seconds=1e9)
    pieces = make_tiny_plan(out=tmp_path / "pieces", **chosen, **RCL, **more)
    for stop_after in (3, 5, None):
        torch.manual_seed(stop_after or 0)
        train_worker(pieces, "cpu", checkpoint_seconds=1e9, stop_after=stop_after)
        if stop_after == 3:  # of 4 steps of the warm-up
            found = load_file(tmp_path / "pieces/last.safetensors")
            assert all(torch.equal(found[name], start[name]) for name in found if "projector" in name)
    assert (tmp_path / "whole/metrics.csv").read_text() == (tmp_path / "pieces/metrics.csv").read_text()
    states = [torch.load(tmp_path / name / "checkpoint.pt")["trainer"] for name in ("whole", "pieces")]
    assert states[0]["decoder"]
    for name, value in states[0]["decoder"].items():
        assert torch.equal(value, states[1]["decoder"][name]), name
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "pieces"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any("decoder" in name for name in first)
    table = rows(tmp_path / "whole")
    assert [bool(row["gradient_of_contrastive"]) for row in table] == [False, False, True, True]
    assert all(float(row["gradient_of_reconstruction"]) > 0 for row in table)
    for row in table:
        assert float(row["weighted_reconstruction"]) == pytest.approx(
            10 * float(row["reconstruction_loss"]), rel=1e-4
        )
    assert float(table[-1]["loss"]) == pytest.approx(
        float(table[-1]["contrastive_loss"]) + float(table[-1]["weighted_reconstruction"]), rel=1e-4
    )


def test_the_logged_gradients_are_those_of_the_scaled_loss():
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(image_size=8, backbone="convnet", width=2))
    objective = Reconstruction(Constant(), weight=10, contrastive_weight=0.5, loss_scale=4.0)
    features = encoder.embed(torch.rand(6, 3, 8, 8))
    rebuilt = features.square().mean(dim=1)[None]
    losses = objective.loss(Outputs(z=features[None], reconstruction=rebuilt, progress=1.0))
    found = backbone_norms(SimpleNamespace(encoder=encoder), objective, losses, 1.0)
    optimised, error = 4.0 * losses["loss"], 10 * rebuilt.mean()
    terms = {"gradient_of_contrastive": optimised - error, "gradient_of_reconstruction": error}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, list(encoder.backbone.parameters()), retain_graph=True)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        torch.testing.assert_close(found[name], norm)


def test_a_run_of_another_task_is_another_run(make_tiny_plan):
    names = [{"reconstruction": task} for task in ("none", "inpainting", "autoencoding")]
    names += [{"reconstruction": "inpainting", "reconstruction_weight": 5.0}]
    documents = [make_tiny_plan(**ALONE, **given).document()["config"] for given in names]
    assert "reconstruction" not in documents[0]
    assert len({str(one) for one in documents}) == len(documents)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"reconstruction": "inpainting", "reconstruction_epochs": 60.0},
            "reconstruction_epochs is 60 of 60",
        ),
        ({"reconstruction_epochs": 1.0}, "reconstruction is 'none'"),
        ({"reconstruction": "inpainting", "reconstruction_weight": -1.0}, "reconstruction_weight is -1.0"),
        (
            {"reconstruction": "inpainting", "reconstruction_weight": 0.0, "contrastive_weight": 0.0},
            "contrastive_weight is given and has no effect",
        ),
        *(
            (
                {"reconstruction": "inpainting", "reconstruction_weight": 0.0} | more,
                "reconstruction_weight is 0",
            )
            for more in (
                {"contrastive_weight": 0.5},
                {"mask_count": [1, 2]},
                {"reconstruction_epochs": 1.0},
                {"decoder_input": "pooled"},
                {"gradients_every": 5},
            )
        ),
        (
            {"reconstruction": "inpainting", "contrastive_weight": 0.0, "reconstruction_epochs": 1.0},
            "reconstruction_epochs is given and has no effect, because contrastive_weight is 0",
        ),
        ({"reconstruction": "inpainting", "mask_side": [0, 4]}, "mask_side is \\(0, 4\\)"),
        ({"reconstruction": "inpainting", "mask_side": [5, 4]}, "low ≤ high"),
        ({"reconstruction": "inpainting", "mask_count": [0, 4]}, "mask_count is \\(0, 4\\)"),
        ({"reconstruction": "autoencoding", "mask_count": [1, 2]}, "reconstruction is 'autoencoding'"),
        ({"reconstruction": "inpainting", "objective": "cpc"}, "embeds patches"),
        (
            {"reconstruction": "inpainting", "contrastive_weight": 0.0, "ifm_epsilon": 0.1},
            "IFM and hard negatives change nothing",
        ),
        ({"reconstruction": "jigsaw"}, "expected 'none', 'inpainting'"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(UsageError, match=message):
        train_settings("digits", {"assimilation": "none"} | given)


def test_masks_larger_than_the_views_are_refused_before_a_step(plan_of):
    """By a training, its dry run and an experiment's checks, whose one function this is."""
    masked = {"expert.mask_probability": 0.5, "expert.mask_side": [6, 40]}
    for settings in (masked, {"reconstruction": "inpainting", "mask_side": [6, 40]}):
        resolved = train_settings("digits", ALONE | settings)
        check_sizes(resolved, 64, 64)
        with pytest.raises(UsageError, match=r"mask_side is \[6, 40\], and the views have 32 px"):
            check_sizes(resolved, 32, 32)
        with pytest.raises(UsageError, match=r"mask_side is \[6, 40\], and the views have 32 px"):
            plan_of(dataset="digits", settings=ALONE | settings)
        with pytest.raises(UsageError, match=r"mask_side is \[6, 40\], and the views have 32 px"):
            describe("digits", settings=ALONE | settings)


def test_bad_images(plan_of):
    with pytest.raises(UsageError, match=r"mask_side is \[10, 40\].* have 32 px"):
        plan_of(
            dataset="digits",
            settings=ALONE | {"reconstruction": "inpainting", "mask_side": [10, 40]},
        )
    with pytest.raises(UsageError, match="images of digits are grey; choose inpainting"):
        plan_of(dataset="digits", settings=ALONE | {"reconstruction": "colorization"})


def test_patches_are_rebuilt_at_their_size(plan_of):
    patches = ALONE | {"generated": "patches", "reconstruction": "inpainting"}
    assert plan_of(dataset="digits", settings=patches)[0].view_size == 16
    with pytest.raises(UsageError, match=r"mask_side is \[10, 20\], and the views have 16 px"):
        plan_of(dataset="digits", settings=patches | {"mask_side": [10, 20]})
    with pytest.raises(UsageError, match=r"'image', and the images have 32 px, patches views 16 px"):
        plan_of(dataset="digits", settings=patches | {"reconstruction_view": "image"})
