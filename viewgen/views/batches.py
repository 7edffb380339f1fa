"""What the steps of the view methods share: arrays in and out, and images by the group.

Networks always evaluate exactly as many images at once, and never more or fewer on request: they round
differently at different batch sizes, and a search that starts at its anchor carries a difference in the last
bit to another view.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import Models
from viewgen.views.wsearch.problem import mean_pairwise_distance, project

__all__ = ["Batch", "Step", "as_array", "as_tensor", "images_at_once", "measure", "needed", "slot_bytes"]

Batch = dict[str, NDArray[Any]]
Step = Callable[[Batch], Batch]

# Images (or codes) that pass through the networks at once, at up to 32 px.
IMAGES_AT_ONCE = {"cpu": 32, "cuda": 256}
# Tensors of an image's codes that a search holds: codes, two moments, the best, gradients, and as many
# temporaries of an update.
CODES_PER_SLOT = 8


def images_at_once(image_size: int, device: torch.device) -> int:
    """Return how many images of `image_size` px the networks evaluate at once on `device`."""
    at_once = IMAGES_AT_ONCE.get(device.type, IMAGES_AT_ONCE["cpu"])
    return max(1, min(at_once, at_once * 32**2 // image_size**2))


def slot_bytes(num_views: int, code_shape: tuple[int, ...]) -> int:
    """Return the least bytes that a search keeps of an image."""
    return CODES_PER_SLOT * num_views * math.prod(code_shape) * 4


def needed(models: Models, name: str) -> Any:
    """Return the network of kind `name`.

    Raises:
        ModelError: there is none.
    """
    network = getattr(models, name)
    if network is None:
        raise ModelError(f"the method needs a network of kind {name!r}, and none was given")
    return network


def as_array(tensor: Tensor, dtype: Any = None) -> NDArray[Any]:
    """Return a tensor as a contiguous array."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)


def as_tensor(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """Return an array as a tensor on `device`."""
    # arrays out of a shared or mapped memory are read-only, which torch does not know
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def measure(encoder: Encoder, views: Tensor, anchor_features: Tensor, at_once: int) -> Batch:
    """Return the distances of stored views `(B, V, 3, H, W)` from anchors `(B, K)` and from each other."""
    num_views = views.shape[1]
    z = project(encoder, views.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
    return {
        "distance": as_array((z - anchor_features[:, None]).norm(dim=2)),
        "mean_pairwise": as_array(mean_pairwise_distance(z).mean(dim=1)),
    }
