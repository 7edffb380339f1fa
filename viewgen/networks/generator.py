"""The protocol of a generator: codes in, images out, and codes to start from.

Inversion, perturbation and search depend on this protocol only, not on any network. `GENERATORS` names the
kinds of generators that a weights file can hold: the entry's settings are the network's shape, its `build`
makes the network from them, and the file holds the network's state dict.

Shape legend: B images, C, H, W channels and space.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from viewgen.errors import DataError
from viewgen.registry import Entry, Registry

__all__ = ["GENERATORS", "Generator", "SamplingGenerator", "class_labels", "code_unit", "registered_name"]

# A file that names no kind of generator is of the first.
GENERATORS: Registry[Entry] = Registry(
    "generator", "viewgen.generators", {"stylegan2": "viewgen.networks.stylegan2.codes"}
)


class Generator(Protocol):
    """Codes → images.

    Attributes:
        code_shape: shape of one image's code, of any number of dimensions.
        image_size: side of the images in pixels.
        channels: C.
        num_classes: number of classes that condition the codes' start, otherwise 0.
        code_scale: standard deviation of each coordinate of a code, with shape `code_shape`; the unit of σ
            and of the steps of a search.
    """

    @property
    def code_shape(self) -> tuple[int, ...]: ...

    @property
    def image_size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def code_scale(self) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor:
        """Map codes `(B, *code_shape)` to images `(B, C, H, W)`, nominally in [−1, 1].

        Differentiable, as `start` is, also several times after one call (``retain_graph``).
        """
        ...

    def start(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return codes to refine, `(B, *code_shape)`: those of an inverter, or the mean; differentiable.

        Args:
            images: model images `(B, C, H, W)`.
            labels: class indices `(B,)`, where the generator has classes; −1 for an image without a label.
        """
        ...


@runtime_checkable
class SamplingGenerator(Generator, Protocol):
    """A generator with a prior from which images can be sampled.

    Attributes:
        noise_dim: width of the prior's noise.
    """

    @property
    def noise_dim(self) -> int: ...

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map standard normal noise, `(B, noise_dim)`, to images `(B, C, H, W)`."""
        ...


def code_unit(generator: Generator) -> float:
    """Return the root mean square of the generator's `code_scale`, the unit of the lengths of steps."""
    return float(generator.code_scale.square().mean().sqrt())


def class_labels(labels: Tensor, num_classes: int) -> Tensor | None:
    """Return the labels that condition a generator's codes, or None for a generator without classes.

    Args:
        labels: labels of the images, `(B, *label_shape)`, int64; −1 where an image has none.
        num_classes: number of the generator's classes, 0 for none.

    Raises:
        DataError: a label is not one of the generator's classes.
    """
    if not num_classes:
        return None
    if labels.ndim != 1:
        raise DataError(
            f"the generator is conditional on {num_classes} classes; the labels of these images have shape "
            f"{tuple(labels.shape[1:])}, expected one class each"
        )
    if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(
            f"the generator is conditional on {num_classes} classes; these images have labels "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    return labels


def registered_name(network: object) -> str | None:
    """Return the name of the entry whose settings class is that of the network's shape; None without one."""
    config = type(getattr(network, "config", None))
    return next((name for name in GENERATORS.names if GENERATORS.entry(name).settings is config), None)
