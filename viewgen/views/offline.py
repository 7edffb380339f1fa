"""View sources as steps from arrays to arrays: the core of a cache run, without Ray, files or hidden state.

In: ``image`` uint8 `(B, C, H, W)`, ``source_index`` int64 `(B,)`, ``label`` int64 `(B, *label_shape)`. If the
source starts from inversions, also ``anchor_w_plus`` float32 `(B, *code_shape)` and ``anchor_error`` float32
`(B,)`.

Out: ``views`` uint8 `(B, V, C, H, W)`, ``distance`` float32 `(B, V)` from the anchor in the encoder's space
(of the stored 8-bit views; NaN without an encoder), ``steps`` int32 `(B,)`, ``inversion_error`` float32
`(B,)` (mean squared error of the reconstruction, model units), ``status`` uint8 `(B,)`, ``mean_pairwise`` and
``anchor_distance`` float32 `(B,)` for the report, and the source's own columns.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.networks.batched import images_at_once, project, render
from viewgen.views.distances import view_distances
from viewgen.views.draws import ImageDraws
from viewgen.views.entry import Resources
from viewgen.views.source import Images, Status, Views, ViewSource

__all__ = ["Batch", "Step", "offline_step"]

Batch = dict[str, NDArray[Any]]
Step = Callable[[Batch], Batch]

_TYPES = {"steps": np.int32, "status": np.uint8}


def offline_step(source: ViewSource, resources: Resources, *, seed: int, num_views: int) -> Step:
    """Return the step that makes `num_views` views of each image of a batch.

    Args:
        source: view source; columns that it does not return are measured here.
        resources: resources with the networks for the distances of the views.
        seed: root of all random numbers.
        num_views: V.
    """

    def step(batch: Batch) -> Batch:
        device = resources.models.device
        index = _tensor(batch["source_index"], "cpu")
        codes = batch.get("anchor_w_plus")
        error = batch.get("anchor_error")
        images = Images(
            pixels=_tensor(batch["image"], device),
            source_index=index,
            draws=ImageDraws(seed, index),
            labels=_tensor(batch["label"], device) if "label" in batch else None,
            codes=None if codes is None else _tensor(codes, device),
            code_error=None if error is None else _tensor(error, device),
        )
        made = source.views(images, num_views)
        views = made.storage.transpose(0, 1).contiguous()
        columns = {**_defaults(images, made, num_views), **_measured(images, made, views, resources)}
        columns |= made.columns
        arrays = {name: _array(column, _TYPES.get(name)) for name, column in columns.items()}
        return {"views": _array(views), **arrays}

    return step


def _defaults(images: Images, made: Views, num_views: int) -> dict[str, Tensor]:
    """Return the columns of a source that neither searches nor inverts."""
    count = len(images)
    missing = torch.full((count,), torch.nan)
    return {
        "distance": missing[:, None].expand(count, num_views),
        "steps": torch.zeros(count),
        "inversion_error": missing if images.code_error is None else images.code_error,
        "status": torch.full((count,), int(Status.OK)) if made.status is None else made.status,
    }


def _measured(images: Images, made: Views, views: Tensor, resources: Resources) -> dict[str, Tensor]:
    """Return distances in the encoder's space, if there is an encoder and the source returns none."""
    if resources.models.encoder is None or "distance" in made.columns:
        return {}
    encoder = resources.network("encoder")
    at_once = images_at_once(encoder.config.image_size, resources.models.device)
    image_features = project(encoder, images.pixels, at_once)
    if images.codes is None or resources.models.generator is None:
        return view_distances(encoder, views, image_features, at_once)
    anchors = project(encoder, render(resources.network("generator"), images.codes, at_once), at_once)
    return {
        **view_distances(encoder, views, anchors, at_once),
        "anchor_distance": (anchors - image_features).norm(dim=1),
    }


def _tensor(array: NDArray[Any], device: torch.device | str) -> Tensor:
    # arrays out of a shared or mapped memory are read-only, which torch does not know
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _array(tensor: Tensor, dtype: Any = None) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)
