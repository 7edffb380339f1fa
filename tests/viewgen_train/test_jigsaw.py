"""The jigsaw branch: its patches, its head, MoCo's loss with and without it, a training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from viewgen.errors import UsageError
from viewgen.views.draws import ImageDraws
from viewgen.views.expert_settings import ExpertConfig
from viewgen.views.source import Images
from viewgen_train.distributed import World
from viewgen_train.jigsaw import JigsawHead, JigsawPatches, check_jigsaw
from viewgen_train.objectives.moco import MoCo, MoCoSettings, moco
from viewgen_train.objectives.objective import Outputs, Widths
from viewgen_train.resolve import train_settings
from viewgen_train.worker import build_trainer

CPU = torch.device("cpu")
BRANCH = {
    "assimilation": "none",
    "objective": "moco",
    "queue_size": 20,
    "key_batchnorm": "whole",
    "jigsaw_weight": 0.5,
    "jigsaw_grid": 2,
}


def unit(*shape, seed):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, 5, generator=random, dtype=torch.float64), dim=-1)


def objective(**settings):
    found = MoCo(MoCoSettings(temperature=0.3, queue_size=6, **settings))
    found.allocate(Widths(features=3, projections=5))
    found.queue.keys = unit(6, seed=9)
    return found


def test_the_loss_is_that_of_both_queries():
    out = Outputs(z=unit(2, 4, seed=0), target=unit(2, 4, seed=1), jigsaw=unit(1, 4, seed=2))
    plain = moco(out.z[0], out.target[1], unit(6, seed=9), 0.3)
    jigsaw = moco(out.jigsaw[0], out.target[1], unit(6, seed=9), 0.3)
    for weight in (0.25, 1.0):
        losses = objective(jigsaw_weight=weight).loss(out)
        torch.testing.assert_close(losses["loss"], (1 - weight) * plain + weight * jigsaw)
        torch.testing.assert_close(losses["contrastive_loss"], plain)
    without = objective()
    assert without.head.jigsaw == 0
    assert without.loss(Outputs(z=out.z, target=out.target)) == {"loss": plain}


def test_patches_are_parts_of_their_cells_in_uniform_order():
    """Images whose cells have one value each, up to the crop, which is turned off."""
    value = torch.arange(4, dtype=torch.uint8).reshape(2, 2).repeat_interleave(8, 0).repeat_interleave(8, 1)
    index = torch.arange(1500)
    pixels = (60 * value).expand(1500, 3, 16, 16)
    patches = JigsawPatches(2, ExpertConfig(flip_probability=0.0))
    patches._crop = patches._crop.replace(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    found = patches(Images(pixels=pixels, source_index=index, draws=ImageDraws(1, index)))
    assert found.shape == (1500, 4, 3, 6, 6), "three quarters of a cell"
    cells = ((found.mean(dim=(2, 3, 4)) + 1) * 127.5 / 60).round().long()
    assert torch.equal(cells.sort(dim=1).values, torch.arange(4).expand(1500, 4))
    torch.testing.assert_close(found.amin(dim=(2, 3, 4)), found.amax(dim=(2, 3, 4)))
    orders = (cells * torch.tensor([64, 16, 4, 1])).sum(dim=1)
    _, counts = np.unique(orders.numpy(), return_counts=True)
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-4


def test_the_crop_keeps_at_least_six_tenths():
    crop = JigsawPatches(3, ExpertConfig(crop_scale=(0.2, 1.0), jitter_probability=0.8))._crop
    assert crop.crop_scale == (0.6, 1.0)
    assert (crop.jitter_probability, crop.grayscale_probability) == (0.0, 0.0), "patches keep their colours"


def test_a_head_knows_the_places_of_the_patches():
    torch.manual_seed(0)
    head = JigsawHead(6, 4, 9)
    features = torch.randn(5, 9, 6)
    z = head(features)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    parts = [head.of_patch(features[:, place]) for place in range(9)]
    torch.testing.assert_close(z, F.normalize(head.joint(torch.cat(parts, dim=1)), dim=1))
    assert not torch.allclose(z, head(features.flip(1)))


def test_a_training_with_the_branch_is_resumed(make_tiny_plan, tmp_path):
    def trainer():
        return build_trainer(make_tiny_plan(**BRANCH), World(), CPU)

    whole, first, second = trainer(), trainer(), trainer()
    metrics = [whole.step(step) for step in range(3)]
    found = metrics[0]
    assert float(found["loss"]) == pytest.approx(
        0.5 * float(found["contrastive_loss"]) + 0.5 * float(found["jigsaw_loss"]), abs=1e-5
    )
    assert float(found["i_nce"]) == pytest.approx(np.log(21) - float(found["contrastive_loss"]), abs=1e-5)
    for step in range(2):
        first.step(step)
    state = first.state()
    assert "joint.weight" in state["jigsaw"]
    second.network.encoder.load_state_dict(first.network.encoder.state_dict())
    second.optimiser.restore(state["optimiser"])
    second.network.target.load_state_dict(state["target"])
    second.network.jigsaw.load_state_dict(state["jigsaw"])
    second.objective.load_state_dict(state["objective"])
    again = second.step(2)
    assert float(again["loss"]) == pytest.approx(float(metrics[2]["loss"]), abs=1e-6)
    heads = (whole.network.jigsaw, trainer().network.jigsaw)
    moved = [a - b for a, b in zip(*(head.parameters() for head in heads), strict=True)]
    assert min(float(one.detach().abs().max()) for one in moved) > 0, "the head is trained"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"assimilation": "A2"}, "assimilation A2"),
        ({"ifm_epsilon": 0.1}, "IFM"),
        ({"hardness": 1.0}, "hard negatives"),
        ({"reconstruction": "inpainting"}, "a reconstruction"),
        ({"generated": "frequency"}, "views of different roles"),
        ({"backbone": "convnet6"}, "the backbone convnet6"),
    ],
)
def test_what_would_ignore_the_branch_is_refused(given, told):
    with pytest.raises(UsageError, match=f"not defined beside {told}"):
        train_settings("cifar10", BRANCH | {"queue_size": 128} | given)


def test_impossible_branches_are_refused():
    given = BRANCH | {"queue_size": 128}
    with pytest.raises(UsageError, match="takes images of 16 px or a smaller grid"):
        check_jigsaw(train_settings("cifar10", given), 15)
    check_jigsaw(train_settings("cifar10", {"assimilation": "none", "objective": "moco"}), 2)
    with pytest.raises(UsageError, match="set symmetric=false"):
        train_settings("cifar10", given | {"symmetric": True})
    with pytest.raises(UsageError, match="jigsaw_grid is given and has no effect"):
        train_settings("cifar10", given | {"jigsaw_weight": 0.0})
