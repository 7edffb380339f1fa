"""What an objective is: a loss of the outputs of a step's views.

Shape legend: K views, N images of the whole step (over all processes), D projection dimension, F feature
dimension, C, H, W channels and space.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self

from torch import Tensor

__all__ = ["Head", "Objective", "Outputs", "PairObjective"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What an objective needs of the network behind the backbone.

    Attributes:
        projector: ``"mlp"``, two layers, or ``"simsiam"``, three with batch normalisation.
        predictor: whether a predictor follows the projector.
        unit: whether projections are unit vectors.
        momentum: share that a slowly following target network keeps of itself in a step; None for no target.
    """

    projector: Literal["mlp", "simsiam"] = "mlp"
    predictor: bool = False
    unit: bool = True
    momentum: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What the network makes of a step's views, expert views first, gathered over all processes.

    Attributes:
        z: projections, `(K, N, D)`.
        p: predictions, `(K, N, D)`, where the head has a predictor.
        target: projections of the target network, `(K, N, D)`, where the head has one.
        features: features of the backbone, `(K, N, F)`, where the objective's entry needs them.
        images: model images without transform, `(N, C, H, W)`, likewise.
        views: model images of the views, `(K, N, C, H, W)`, likewise.
    """

    z: Tensor
    p: Tensor | None = None
    target: Tensor | None = None
    features: Tensor | None = None
    images: Tensor | None = None
    views: Tensor | None = None

    def of_views(self, views: slice) -> Self:
        """Return the outputs of some of the views, as views of these tensors.

        A copy would lie otherwise in memory, and products of it would round otherwise.
        """
        return self._mapped(lambda tensor: tensor[views])

    def detach(self) -> Self:
        """Return the outputs without gradients."""
        images = None if self.images is None else self.images.detach()
        return replace(self._mapped(Tensor.detach), images=images)

    def _mapped(self, change: "_Change") -> Self:
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "images"}
        changed: dict[str, Any] = {name: None if v is None else change(v) for name, v in found.items()}
        return replace(self, **changed)


class _Change(Protocol):
    def __call__(self, tensor: Tensor, /) -> Tensor: ...


class Objective(Protocol):
    """A loss; a `torch.nn.Module` where it has state, which then trains and is checkpointed.

    Attributes:
        num_expert: expert views of each image in a step.
        num_generated: generated views of each image in a step.
        head: what it needs of the network.
    """

    num_expert: int
    num_generated: int
    head: Head

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return ``{"loss": …}``, `()`, and further metrics by name."""
        ...

    def after_step(self, out: Outputs) -> None:
        """Take note of a step's outputs, without gradients, after the optimiser's step."""
        ...


class PairObjective:
    """Base of objectives of two views of one kind, on which A1 and A2 are built.

    Attributes:
        temperature: τ of its similarities, 1 where it has none.
    """

    num_expert = 0
    num_generated = 2
    head = Head()
    temperature = 1.0

    def after_step(self, out: Outputs) -> None:
        """Do nothing: it has no state."""
