"""Flows of colours: invertible networks that change the three channels of every pixel by themselves.

A block takes one channel as x₁ and the other two as x₂; each channel is x₁ in turn.

- additive (volume-preserving, NICE): y₂ = x₂ + F(x₁), y₁ = x₁ + G(y₂); the log-determinant is 0.
- affine (RealNVP): y₁ = x₁, y₂ = x₂ ⊙ exp(s) + t with s = 2·tanh(F(x₁) / 2) and t = G(x₁); the
  log-determinant is the sum of s.

F and G are 1×1 convolutions. Their last layers start at zero, so that a new flow is the identity.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    section 4.2 and appendix B.5, https://arxiv.org/abs/2005.10243
    NICE: Non-linear Independent Components Estimation, Dinh, Krueger and Bengio, 2014,
    https://arxiv.org/abs/1410.8516
    Density estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2016, https://arxiv.org/abs/1605.08803

Shape legend: B images, H, W space.
"""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from viewgen.networks.config import NetworkConfig
from viewgen.settings import setting
from viewgen.views.color_settings import Space

__all__ = ["Flow", "FlowConfig"]

Triple = tuple[float, float, float]
# bound of |s|, the logarithm of a scale
LARGEST_LOG_SCALE = 2.0


class FlowConfig(NetworkConfig):
    """Shape of a flow, and the normalisation of its input."""

    title: ClassVar[str] = "the flow's shape"

    image_size: int = setting(..., "side of the images it was trained on, in pixels", ge=1, le=2**16)
    space: Space = setting(..., "colour space of its input")
    coupling: Literal["additive", "affine"] = setting(
        "additive", "blocks that preserve volume (additive, NICE) or not (affine, RealNVP)"
    )
    num_blocks: int = setting(6, "blocks; each of the three channels is x₁ in turn", ge=1, le=12)
    hidden: int = setting(32, "channels of the two hidden layers of F and G", ge=1, le=64)
    mean: Triple = setting((0.0, 0.0, 0.0), "mean of each channel of the colour space")
    deviation: Triple = setting((1.0, 1.0, 1.0), "standard deviation of each of these channels")


def _pointwise(channels_in: int, channels_out: int, hidden: int) -> nn.Sequential:
    """Return a network of 1×1 convolutions whose output is zero at first."""
    last = nn.Conv2d(hidden, channels_out, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(channels_in, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), last
    )


class _Coupling(nn.Module):
    """A block in which channel `first` is x₁.

    Args:
        first: index of the channel.
        hidden: channels of the hidden layers of F and G.
    """

    def __init__(self, first: int, hidden: int) -> None:
        super().__init__()
        self.order = [first, *(channel for channel in range(3) if channel != first)]
        self.back = [self.order.index(channel) for channel in range(3)]
        self.f = _pointwise(1, 2, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y, `(B, 3, H, W)`, and the log-determinant of each pixel, `(B, H, W)`."""
        y1, y2, log_det = self.change(*x[:, self.order].split([1, 2], dim=1))
        return torch.cat([y1, y2], dim=1)[:, self.back], log_det

    def inverse(self, y: Tensor) -> Tensor:
        """Return x of y, `(B, 3, H, W)`."""
        x1_x2 = self.undo(*y[:, self.order].split([1, 2], dim=1))
        return torch.cat(x1_x2, dim=1)[:, self.back]

    @abstractmethod
    def change(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return y₁ `(B, 1, H, W)`, y₂ `(B, 2, H, W)` and the log-determinant of each pixel."""

    @abstractmethod
    def undo(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """Return x₁ and x₂ of y₁ and y₂."""


class _Additive(_Coupling):
    def __init__(self, first: int, hidden: int) -> None:
        super().__init__(first, hidden)
        self.g = _pointwise(2, 1, hidden)

    def change(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y2 = x2 + self.f(x1)
        return x1 + self.g(y2), y2, torch.zeros_like(x1[:, 0])

    def undo(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        x1 = y1 - self.g(y2)
        return x1, y2 - self.f(x1)


class _Affine(_Coupling):
    def __init__(self, first: int, hidden: int) -> None:
        super().__init__(first, hidden)
        self.g = _pointwise(1, 2, hidden)

    def _log_scale(self, x1: Tensor) -> Tensor:
        scaled: Tensor = LARGEST_LOG_SCALE * torch.tanh(self.f(x1) / LARGEST_LOG_SCALE)
        return scaled

    def change(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = self._log_scale(x1)
        return x1, x2 * s.exp() + self.g(x1), s.sum(dim=1)

    def undo(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        return y1, (y2 - self.g(y1)) * (-self._log_scale(y1)).exp()


COUPLINGS: dict[str, type[_Coupling]] = {"additive": _Additive, "affine": _Affine}


class Flow(nn.Module):
    """g: channels of a pixel → channels of a pixel, invertible.

    Attributes:
        config: shape, and normalisation of the input.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        coupling = COUPLINGS[config.coupling]
        self.blocks = nn.ModuleList(coupling(place % 3, config.hidden) for place in range(config.num_blocks))
        for name in ("mean", "deviation"):
            values = torch.tensor(getattr(config, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)

    def normalised(self, channels: Tensor) -> Tensor:
        """Return channels of the colour space, `(B, 3, H, W)`, with mean 0 and deviation 1 over the data."""
        return (channels - self.mean) / self.deviation

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised channels `(B, 3, H, W)` to those of the views, of the same shape."""
        return self.with_log_det(x)[0]

    def with_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return g(x), `(B, 3, H, W)`, and the log-determinant of each pixel's Jacobian, `(B, H, W)`."""
        log_det = torch.zeros_like(x[:, 0])
        for block in self.blocks:
            x, more = block(x)
            log_det = log_det + more
        return x, log_det

    def inverse(self, y: Tensor) -> Tensor:
        """Map channels of views `(B, 3, H, W)` back to normalised channels."""
        for block in reversed(self.blocks):
            assert isinstance(block, _Coupling)
            y = block.inverse(y)
        return y
