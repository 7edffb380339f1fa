"""Gradients of a loss with a reconstruction: norms of both terms', and the weights that get none."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from viewgen.networks.branches import Branches
from viewgen.networks.encoder import Encoder
from viewgen_train.decoder import Decoders
from viewgen_train.network import ContrastiveNetwork
from viewgen_train.objectives.reconstruction import Reconstruction

__all__ = ["backbone_norms", "drop_idle_gradients"]


def backbone_norms(
    network: ContrastiveNetwork, objective: Reconstruction, losses: Mapping[str, Tensor], progress: float
) -> dict[str, Tensor]:
    """Return the norms of the gradients of both terms of the scaled loss on the backbones, by metric.

    The terms are w·L_c times the scale of the loss, and λ·L_r.

    Args:
        network: network behind the losses, whose graph is kept.
        objective: objective with the reconstruction.
        losses: result of its `loss`.
        progress: share of the training that is done; in the warm-up L_c has no gradient.
    """
    weights = [weight for part in _backbones(network.encoder) for weight in part.parameters()]
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
    """Drop the gradients of all weights but those of decoders and of the backbones before them.

    Where the objective's loss does not count they are zeros in data-parallel processes, and the weight decay
    would still act.

    Args:
        network: the trained network.
        parameters: all trained weights.
    """
    encoder, decoder = network.encoder, network.decoder
    assert decoder is not None
    trained = [decoder, *_backbones(encoder, decoder.roles if isinstance(decoder, Decoders) else None)]
    kept = {id(weight) for part in trained for weight in part.parameters()}
    for weight in parameters:
        if id(weight) not in kept:
            weight.grad = None


def _backbones(encoder: Encoder | Branches, roles: Iterable[str] | None = None) -> list[nn.Module]:
    """Return the backbones of some roles, by default of all; a shared one once."""
    if isinstance(encoder, Encoder):
        return [encoder.backbone]
    found = {id(encoder[role]): encoder[role] for role in (encoder.roles if roles is None else roles)}
    return [part.backbone for part in found.values()]
