"""From the projections of a step's views to its loss, as a training's configuration says."""

import torch
from torch import Tensor, nn

from viewgen_train.config import TrainConfig
from viewgen_train.objectives import losses

__all__ = ["Predictor", "assimilation_loss"]


class Predictor(nn.Module):
    """SimSiam's predictor: a bottleneck of a quarter of the width.

    Args:
        dim: width of the projections.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(1, dim // 4)
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, projections: Tensor) -> Tensor:
        """Map projections `(B, D)` to predictions `(B, D)`."""
        predictions: Tensor = self.layers(projections)
        return predictions


def assimilation_loss(z: Tensor, predictions: Tensor | None, config: TrainConfig) -> Tensor:
    """Return the loss of a step.

    Args:
        z: projections `(K, N, D)` of the `config.num_expert` expert views and then of the
            `config.num_generated` generated views of the same N images; unit vectors unless the loss is
            SimSiam's.
        predictions: of the projections, `(K, N, D)`, where the loss is SimSiam's.
        config: says which loss.

    Returns:
        the loss times `config.loss_scale`, `()`.
    """
    return config.loss_scale * _loss(z, predictions, config)


def _loss(z: Tensor, predictions: Tensor | None, config: TrainConfig) -> Tensor:
    first, others = z[0], range(1, len(z))
    if config.assimilation in ("none", "A1"):
        # A1 with several generated views is the mean of A1 with each
        return torch.stack([_pair_loss(z, predictions, 0, other, config) for other in others]).mean()
    second, generated = z[1], z[2:]
    if config.assimilation == "A2":
        return losses.a2(first, second, generated, config.temperature, config.alpha)
    if config.assimilation == "A2-simclr":
        return losses.a2_simclr(first, second, generated, config.temperature, config.alpha)
    if config.assimilation == "A2-full":
        only_expert = config.full_anchors == "expert"
        return losses.a2_full(
            first, second, generated, config.temperature, "expert" if only_expert else "all"
        )
    assert predictions is not None
    return losses.a2_simsiam(first, second, predictions[0], predictions[1], predictions[2:], config.alpha)


def _pair_loss(z: Tensor, predictions: Tensor | None, one: int, other: int, config: TrainConfig) -> Tensor:
    if config.simsiam:
        assert predictions is not None
        return losses.simsiam(z[one], z[other], predictions[one], predictions[other])
    loss = losses.simclr if config.loss == "simclr" else losses.info_nce
    return loss(z[one], z[other], config.temperature)
