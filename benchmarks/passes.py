"""Passes through the networks, counted where they end: at the encoder."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from viewgen.networks.encoder import Encoder

__all__ = ["Passes"]


class Passes:
    """Counts what passes through an encoder, and so through the generator before it.

    Args:
        encoder: the encoder; None for all encoders of this process.

    Attributes:
        forward, backward: images.
    """

    def __init__(self, encoder: Encoder | None = None) -> None:
        self.encoder = encoder
        self.forward = self.backward = 0

    def __enter__(self) -> "Passes":
        if self.encoder is None:
            self._handle = register_module_forward_hook(self._count)
        else:
            self._handle = self.encoder.register_forward_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _count(self, module: nn.Module, _inputs: object, output: Any) -> None:
        if not isinstance(module, Encoder):
            return
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += len(gradient)

    def per_view(self, num_views: int) -> dict[str, float]:
        """Return passes per view, of `num_views` in all."""
        forward, backward = self.forward / num_views, self.backward / num_views
        return {"forward_passes": forward, "backward_passes": backward, "passes": forward + backward}
