"""Gradients of a loss with a reconstruction: norms of both terms', and the weights that get none."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from viewgen.networks.encoder import Encoder
from viewgen_train.network import ContrastiveNetwork
from viewgen_train.objectives.reconstruction import Reconstruction

__all__ = ["backbone_norms", "drop_idle_gradients"]


def backbone_norms(
    network: ContrastiveNetwork, objective: Reconstruction, losses: Mapping[str, Tensor], progress: float
) -> dict[str, Tensor]:
    """Return the norms of the gradients of both terms of the scaled loss on the backbone, by metric.

    The terms are w·L_c times the scale of the loss, and λ·L_r.

    Args:
        network: network behind the losses, whose graph is kept.
        objective: objective with the reconstruction.
        losses: result of its `loss`.
        progress: share of the training that is done; in the warm-up L_c has no gradient.
    """
    assert isinstance(network.encoder, Encoder)
    weights = list(network.encoder.backbone.parameters())
    terms = {"gradient_of_reconstruction": losses["weighted_reconstruction"]}
    if objective.contrasts(progress):
        weight = objective.loss_scale * objective.contrastive_weight
        terms["gradient_of_contrastive"] = weight * losses["contrastive_loss"]
    found = {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
        found[name] = torch.stack(squares).sum().sqrt()
    return found


def drop_idle_gradients(network: ContrastiveNetwork, parameters: Iterable[nn.Parameter]) -> None:
    """Drop the gradients of all weights but those of backbone and decoder.

    Where the objective's loss does not count they are zeros in data-parallel processes, and the weight decay
    would still act.

    Args:
        network: the trained network.
        parameters: all trained weights.
    """
    assert isinstance(network.encoder, Encoder)
    assert network.decoder is not None
    trained = (network.encoder.backbone, network.decoder)
    kept = {id(weight) for part in trained for weight in part.parameters()}
    for weight in parameters:
        if id(weight) not in kept:
            weight.grad = None
