"""W-search as Han et al., 2023, describe it: Adam on a batch, which stops as a whole at its mean loss.

No trick of viewgen's engine is in here: every step has full gradients, the anchors' features are computed
again, and the slowest image of a batch keeps the others waiting. `freeze` is the one concession that anybody
would make; benchmarks time both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["SearchOutcome", "batched_loss", "freeze", "paper_search", "paper_step", "search_loss"]


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """Result of a batch.

    Attributes:
        w: codes, `(A, n, L, 512)`.
        steps: updates of the batch.
        losses: mean loss before each update, and at the stop.
    """

    w: Tensor
    steps: int
    losses: list[float]


def freeze(*networks: nn.Module) -> None:
    """Ask for no gradients of the weights."""
    for network in networks:
        network.requires_grad_(False)


def search_loss(
    views: Tensor, anchors: Tensor, *, epsilon_boundary: float, epsilon_uniformity: float, weight: float
) -> tuple[Tensor, Tensor]:
    """Eq. 2 by loops over images and pairs of views.

    Args:
        views: projections of the views, `(A, n, K)`.
        anchors: projections of the anchors, `(A, K)`.

    Returns:
        mean loss `()`, and its boundary part `()`.
    """
    num_images, num_views = views.shape[:2]
    boundary, uniformity = [], []
    for image in range(num_images):
        for k in range(num_views):
            distance = torch.linalg.vector_norm(views[image, k] - anchors[image])
            boundary.append((distance - epsilon_boundary) ** 2)
            others = [
                torch.linalg.vector_norm(views[image, k] - views[image, m])
                for m in range(num_views)
                if m != k
            ]
            uniformity.append(torch.relu(epsilon_uniformity - torch.stack(others).mean()))
    boundary_mean = torch.stack(boundary).mean()
    return boundary_mean + weight * torch.stack(uniformity).mean(), boundary_mean


def batched_loss(
    views: Tensor, anchors: Tensor, *, epsilon_boundary: float, epsilon_uniformity: float, weight: float
) -> tuple[Tensor, Tensor]:
    """Eq. 2 as anybody would batch it (`cdist`); the same numbers as `search_loss`."""
    distance = torch.linalg.vector_norm(views - anchors[:, None], dim=2)
    pairwise = torch.cdist(views, views, compute_mode="donot_use_mm_for_euclid_dist")
    mean_to_others = pairwise.sum(2) / (views.shape[1] - 1)
    boundary = ((distance - epsilon_boundary) ** 2).mean()
    return boundary + weight * torch.relu(epsilon_uniformity - mean_to_others).mean(), boundary


def paper_step(
    synthesis: Callable[[Tensor], Tensor],
    encoder: Callable[[Tensor], Tensor],
    anchor_w_plus: Tensor,
    w: Tensor,
    optimiser: torch.optim.Optimizer,
    *,
    epsilon_boundary: float,
    epsilon_uniformity: float,
    weight: float,
    stop_at: float = -1.0,
) -> tuple[float, bool]:
    """Update the codes `w`, `(A, n, L, 512)`, once, unless the batch's mean boundary loss is at `stop_at`.

    Returns:
        the loss before the update, and whether the batch has stopped.
    """
    # the anchors are encoded again at every step, as in the paper's procedure
    with torch.no_grad():
        anchors = encoder(synthesis(anchor_w_plus).clamp(-1, 1))
    views = encoder(synthesis(w.flatten(0, 1)).clamp(-1, 1)).unflatten(0, (-1, w.shape[1]))
    loss, boundary = batched_loss(
        views,
        anchors,
        epsilon_boundary=epsilon_boundary,
        epsilon_uniformity=epsilon_uniformity,
        weight=weight,
    )
    if boundary.item() <= stop_at:
        return loss.item(), True
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item(), False


def paper_search(
    synthesis: Callable[[Tensor], Tensor],
    encoder: Callable[[Tensor], Tensor],
    anchor_w_plus: Tensor,
    start: Tensor,
    *,
    learning_rate: float,
    max_steps: int,
    **settings: float,
) -> SearchOutcome:
    """Search the views of one batch of images.

    Args:
        synthesis: W⁺ codes to images.
        encoder: images to unit vectors.
        anchor_w_plus: inversions, `(A, L, 512)`.
        start: first codes of the views, `(A, n, L, 512)`.
        learning_rate: learning rate of Adam.
        max_steps: updates at most.
        settings: ε₁, ε₂, λ and the mean boundary loss that ends the search, as in `paper_step`.
    """
    w = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([w], lr=learning_rate)
    losses: list[float] = []
    for _ in range(max_steps):
        loss, stopped = paper_step(synthesis, encoder, anchor_w_plus, w, optimiser, **settings)
        losses.append(loss)
        if stopped:
            break
    return SearchOutcome(w=w.detach(), steps=len(losses) - stopped, losses=losses)
