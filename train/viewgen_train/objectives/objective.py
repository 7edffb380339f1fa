"""Interface of objectives: a loss of the network's outputs on a step's views.

Shape legend: K views, N images of the whole step (over all processes), P patches of an image, D projection
dimension, F feature dimension, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from torch import Tensor, nn

__all__ = [
    "Allocated",
    "Combinator",
    "Head",
    "Objective",
    "Outputs",
    "PairObjective",
    "Widths",
    "weighted_mean",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Head behind the backbone, as required by an objective.

    Attributes:
        projector: kind of projector, of `viewgen.networks.encoder.EncoderConfig`.
        predictor: True if a predictor follows the projector.
        predictor_width: hidden width of the predictor, in multiples of the projections' width.
        unit: True if projections are normalised to unit length.
        momentum: decay per step of the target network's moving average; None for no target network.
        final_momentum: decay at the end of the training, approached on a cosine; None for a constant decay.
        one_sided: True if only the first view passes through the trained network, and only the others
            through the target network. Outputs of the views left out are NaN.
        key_groups: number of parts of a batch with batch statistics of their own in the target network.
        shuffled: True if the trained network normalises in as many parts, to which other images belong.
        patches: number of patches per side that an image is embedded in; 0 for the whole image.
        norm: normalisation of the backbone, ``"batch"`` or ``"layer"``.
        jigsaw: g of the jigsaw branch (`viewgen_train.jigsaw`), cells along each side; 0 for no branch.
    """

    projector: Literal["mlp", "simsiam", "barlow", "byol", "nnclr", "linear"] = "mlp"
    predictor: bool = False
    predictor_width: float = 0.25
    unit: bool = True
    momentum: float | None = None
    final_momentum: float | None = None
    one_sided: bool = False
    key_groups: int = 1
    shuffled: bool = False
    patches: int = 0
    norm: Literal["batch", "layer"] = "batch"
    jigsaw: int = 0

    @property
    def any_projector(self) -> bool:
        """Whether the training's `projector` may take the place of this one; others are the objective's."""
        return self.projector in ("mlp", "simsiam")


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Widths of the network's outputs.

    Attributes:
        features: feature dimension F.
        projections: projection dimension D.
        classes: class attribute of the images → number of classes, in the order of `Outputs.labels`.
    """

    features: int
    projections: int
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """Outputs of the network on a step's views, expert views first, gathered over all processes.

    Attributes:
        z: projections, `(K, N, D)`.
        p: predictions, `(K, N, D)`, if the head has a predictor.
        target: projections of the target network, `(K, N, D)`, if the head has a momentum.
        features: features of the backbone, `(K, N, F)`, if the objective's entry needs them.
        patches: features of the patches, `(K, N, P, F)`, if the objective's entry needs them.
        patch_projections: their projections, `(K, N, P, D)`, likewise.
        images: untransformed model images, `(N, C, H, W)`, if the objective's entry needs them.
        views: model images of the views, `(K, N, C, H, W)`, if the objective's entry needs them.
        weights: weights of the generated views, `(m, N)`, if the training weights them by a score.
        reconstruction: errors of rebuilt views, `(R, N)`, if the training has a reconstruction.
        jigsaw: projections of the images' patches, `(1, N, D)`, if the head has a jigsaw branch.
        labels: classes of the images, int64 `(N, A)`, if the objective's entry needs them.
        progress: share of the training that is done, in [0, 1).
    """

    z: Tensor
    p: Tensor | None = None
    target: Tensor | None = None
    features: Tensor | None = None
    patches: Tensor | None = None
    patch_projections: Tensor | None = None
    images: Tensor | None = None
    views: Tensor | None = None
    weights: Tensor | None = None
    reconstruction: Tensor | None = None
    jigsaw: Tensor | None = None
    labels: Tensor | None = None
    progress: float = 0.0

    @property
    def pair_weights(self) -> Tensor | None:
        """Weights of the pairs of an objective of two views, `(N,)`, mean over their generated views."""
        return None if self.weights is None else self.weights.mean(dim=0)

    def of_views(self, views: slice) -> Self:
        """Return the outputs of some of the views, without weights, as tensors that share memory.

        The memory layout of a copy would differ, and with it the rounding of matrix products.
        """
        return replace(self._mapped(lambda tensor: tensor[views]), weights=None)

    def detach(self) -> Self:
        """Return the outputs without gradients."""
        apart = {name: getattr(self, name) for name in ("images", "reconstruction", "jigsaw")}
        detached: dict[str, Any] = {name: None if v is None else v.detach() for name, v in apart.items()}
        return replace(self._mapped(Tensor.detach), **detached)

    def _mapped(self, change: "_Change") -> Self:
        apart = ("images", "weights", "reconstruction", "jigsaw", "labels", "progress")
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in apart}
        changed: dict[str, Any] = {name: None if v is None else change(v) for name, v in found.items()}
        return replace(self, **changed)


class _Change(Protocol):
    def __call__(self, tensor: Tensor, /) -> Tensor: ...


class Objective(Protocol):
    """A loss. If it is a `torch.nn.Module`, its state is trained and checkpointed.

    Attributes:
        num_expert: number of expert views per image in a step.
        num_generated: number of generated views per image in a step.
        head: required head of the network.
    """

    num_expert: int
    num_generated: int
    head: Head

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return ``{"loss": …}``, a scalar `()`, and further metrics by name."""
        ...

    def after_step(self, out: Outputs) -> None:
        """Update state from a step's outputs, without gradients, after the optimiser's step."""
        ...


@runtime_checkable
class Allocated(Protocol):
    """An objective with state whose shapes depend on the network."""

    def allocate(self, widths: Widths) -> None:
        """Create that state, once, before the training; random numbers come from torch's global generator."""
        ...


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of losses `(..., N)`, weighted by `(N,)` where there are weights, scalar `()`."""
    return losses.mean() if weights is None else (losses * weights).mean()


class PairObjective:
    """Base class of objectives of two views, on which A1 and A2 are built.

    Attributes:
        temperature: temperature τ of the similarities; 1 without a temperature.
        any_views: True if the loss takes any number of views; A2 then passes the generated views too.
    """

    num_expert = 0
    num_generated = 2
    head = Head()
    temperature = 1.0
    any_views: ClassVar[bool] = False

    def after_step(self, out: Outputs) -> None:
        """Do nothing: the objective has no state."""


class Combinator(nn.Module):
    """An objective that wraps another and shares its state.

    Args:
        base: the wrapped objective.
        num_expert: number of expert views per image in a step.
        num_generated: number of generated views per image in a step.
    """

    def __init__(self, base: Any, num_expert: int, num_generated: int) -> None:
        super().__init__()
        self.base: Any = base
        self.num_expert, self.num_generated, self.head = num_expert, num_generated, base.head
        self.any_views = getattr(base, "any_views", False)

    def allocate(self, widths: Widths) -> None:
        """Create the base's state."""
        if isinstance(self.base, Allocated):
            self.base.allocate(widths)
