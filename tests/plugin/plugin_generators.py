"""Linear: images are sums of fixed waves, weighted by the code."""

import torch
from torch import Tensor, nn

from viewgen.networks.config import NetworkConfig
from viewgen.registry import Entry
from viewgen.settings import setting


class LinearConfig(NetworkConfig):
    """The network's shape."""

    title = "linear"

    image_size: int = setting(32, "side of the images in pixels", ge=8)
    code_dim: int = setting(12, "width of a code", ge=1)


class Linear(nn.Module):
    """An orthogonal basis of waves, learned by nobody."""

    channels, num_classes = 3, 0
    basis: Tensor
    code_scale: Tensor

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size, self.code_shape = config.image_size, (config.code_dim,)
        random = torch.Generator().manual_seed(0)
        waves = torch.randn(3 * config.image_size**2, config.code_dim, generator=random)
        self.register_buffer("basis", torch.linalg.qr(waves)[0].T.contiguous())
        self.register_buffer("code_scale", torch.full((config.code_dim,), 3.0))

    def decode(self, codes: Tensor) -> Tensor:
        """Map codes `(B, D)` to images `(B, 3, H, W)`."""
        return (codes @ self.basis).unflatten(1, (3, self.image_size, self.image_size))

    def start(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the codes of the nearest images, `(B, D)`."""
        return images.flatten(1) @ self.basis.T


ENTRY = Entry(name="linear", summary="sums of fixed waves", settings=LinearConfig, build=Linear)
