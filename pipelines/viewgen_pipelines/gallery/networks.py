"""The networks that made a cache, for computations of its pages: frames between codes, distances of views."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viewgen.errors import MissingFileError
from viewgen.store import CacheSpec

if TYPE_CHECKING:
    from viewgen.networks.files import Models

__all__ = ["NUM_FRAMES", "Networks", "find_networks"]

NUM_FRAMES = 9


class Networks:
    """Generator and encoder, where available; they (and torch) are loaded on first use.

    Args:
        paths: kind → weights file.
    """

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths = paths
        self._models: Models | None = None
        self._lock = threading.Lock()

    def frames(
        self, anchor: NDArray[np.float32], view: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Draw g((1 − t)·anchor + t·view) for t = 0 … 1.

        Args:
            anchor: code of the inversion, of shape `code_shape` of the generator.
            view: code of the view, of the same shape.

        Returns:
            Frames, uint8 `(NUM_FRAMES, C, H, W)`, and their distances from the first frame in the encoder's
            space, `(NUM_FRAMES,)`, or None without an encoder.
        """
        import torch

        from viewgen.networks.batched import render

        with self._lock, torch.inference_mode():
            models = self._loaded()
            assert models.generator is not None
            t = torch.linspace(0, 1, NUM_FRAMES).view(-1, *(1,) * anchor.ndim)
            codes = torch.lerp(torch.from_numpy(anchor)[None], torch.from_numpy(view)[None], t)
            images = render(models.generator, codes, NUM_FRAMES)
            distances = None if models.encoder is None else self._pairwise(images)[0]
            return images.numpy(), distances

    def project(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the encoder's unit vectors of images `(B, 3, H, W)`, `(B, K)`."""
        import torch

        from viewgen.networks.batched import images_at_once, project

        with self._lock, torch.inference_mode():
            encoder = self._loaded().encoder
            assert encoder is not None
            at_once = images_at_once(images.shape[-1], torch.device("cpu"))
            z: NDArray[np.float32] = project(encoder, torch.from_numpy(images), at_once).numpy()
            return z

    def pairwise_distances(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the distances between images `(V, 3, H, W)` in the encoder's space, `(V, V)`."""
        import torch

        with self._lock, torch.inference_mode():
            return self._pairwise(torch.from_numpy(views))

    def _pairwise(self, images: Any) -> NDArray[np.float32]:
        import torch

        from viewgen.networks.batched import project

        encoder = self._loaded().encoder
        assert encoder is not None
        z = project(encoder, images, len(images))
        # not by cdist's matrix product, which loses the small distances
        distances: NDArray[np.float32] = torch.linalg.vector_norm(z[:, None] - z[None], dim=2).numpy()
        return distances

    def load(self) -> None:
        """Load the available networks now rather than on first use."""
        with self._lock:
            if self.paths:
                self._loaded()

    def _loaded(self) -> "Models":
        from viewgen.networks.files import load_models

        if self._models is None:
            self._models = load_models(self.paths)
        return self._models


def find_networks(spec: CacheSpec, models_dir: str | None) -> Networks:
    """Find the generator and the encoder that made a cache, identified by their digests.

    Args:
        spec: specification of the cache.
        models_dir: folder of a `viewgen pretrain` run; the data set's own networks are tried too.
    """
    found = {kind: _find(kind, spec, models_dir) for kind in ("generator", "encoder")}
    return Networks({kind: path for kind, path in found.items() if path is not None})


def _find(kind: str, spec: CacheSpec, models_dir: str | None) -> Path | None:
    wanted = spec.models.get(kind)
    if wanted is None:
        return None
    from viewgen.networks.files import file_digest
    from viewgen.networks.weights import find_models

    for folder in {models_dir, None}:
        try:
            path = find_models(str(spec.dataset.get("name")), {kind}, models_dir=folder)[kind]
        except MissingFileError:
            continue
        if file_digest(path) == wanted:
            return path
    return None
