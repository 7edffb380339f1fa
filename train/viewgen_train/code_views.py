"""Generated views from the images' codes, made in the training step: W-perturb and online W-search.

Shape legend: B images, m generated views of each, L layers, D style dimension, K projection dimension.
"""

import torch
from torch import Tensor

from viewgen.diagnostics.features import evaluation_mode
from viewgen.errors import CorruptDataError
from viewgen.networks.encoder import Encoder
from viewgen.networks.stylegan2 import Generator
from viewgen.store import CacheReader
from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.wsearch.problem import boundary_uniformity_loss, clamp_to_range
from viewgen.views.wsearch.settings import WSearchConfig
from viewgen_train.batch import StepBatch
from viewgen_train.config import TrainConfig
from viewgen_train.generated_views import GeneratedViews

__all__ = ["Codes", "OnlineViews", "PerturbedViews"]


class Codes:
    """The refined codes e(x) of a cache of inversions.

    Args:
        reader: of the inversions, whose rows are source indices.
        num_images: images that are trained on.
        device: where codes go.
        memory_bytes: that may be taken to hold them.

    Attributes:
        readable: images that have a code, ascending.
        shape: of a code, `(L, D)`.
        held_bytes: memory that was taken.
    """

    def __init__(self, reader: CacheReader, num_images: int, device: torch.device, memory_bytes: int) -> None:
        self._reader, self._device = reader, device
        self.readable = reader.rows[reader.rows < num_images]
        self.shape = tuple(reader.spec.latent_shape or ())
        self._held: Tensor | None = None
        self.held_bytes = 0
        size = 4 * num_images * self.shape[0] * self.shape[1]
        if size <= memory_bytes:
            self.held_bytes = size
            self._held = torch.zeros(num_images, *self.shape, device=device)
            self._held[torch.from_numpy(self.readable).to(device)] = self._read(self.readable)
        self._is_readable = torch.zeros(num_images, dtype=torch.bool)
        self._is_readable[torch.from_numpy(self.readable)] = True

    def of(self, batch: StepBatch) -> Tensor:
        """Return codes `(B, L, D)`; zeros for images that could not be inverted."""
        rows = torch.tensor(batch.rows)
        if self._held is not None:
            return self._held.index_select(0, rows.to(self._device))
        codes = torch.zeros(len(rows), *self.shape, device=self._device)
        there = self._is_readable[rows]
        codes[there.to(self._device)] = self._read(rows[there].numpy())
        return codes

    def _read(self, rows: object) -> Tensor:
        codes = torch.from_numpy(self._reader.array("anchor_w_plus", rows))
        if not bool(torch.isfinite(codes).all()):
            raise CorruptDataError(
                f"{self._reader.url}: anchor_w_plus holds values that are not finite; check it with "
                f"`viewgen verify {self._reader.url}`, and make it again with `viewgen cache --method invert`"
            )
        return codes.to(self._device)


class PerturbedViews(GeneratedViews):
    """W-perturb, g(e(x) + σ·N(0, I)), with fresh noise in every step.

    Args:
        config: of the training.
        codes: e(x).
        generator: g, frozen.
        num_images: images that are trained on.
    """

    def __init__(self, config: TrainConfig, codes: Codes, generator: Generator, num_images: int) -> None:
        super().__init__(config, num_images)
        self.codes, self.generator = codes, generator
        self.missing[:] = True
        self.missing[codes.readable] = False

    @torch.no_grad()
    def make(self, batch: StepBatch) -> Tensor:
        """Return views of perturbed codes."""
        w = self._started(batch, self.config.sigma)
        return self._render(w)

    def _render(self, w: Tensor) -> Tensor:
        """Return images `(m, B, 3, H, W)` of codes `(m, B, L, D)`."""
        images: Tensor = self.generator.synthesis(w.flatten(0, 1)).clamp(-1, 1)
        return images.view(*w.shape[:2], *images.shape[1:])

    def _started(self, batch: StepBatch, sigma: float) -> Tensor:
        """Return codes with noise, `(m, B, L, D)`."""
        codes = self.codes.of(batch)
        noise = batch.device_normal("codes", self.config.num_generated, *codes.shape[1:])
        return codes + sigma * noise.transpose(0, 1)


class OnlineViews(PerturbedViews):
    """Online W-search: one signed-gradient step on eq. 2 against the encoder as it is (appendix F).

    Args:
        config: of the training.
        codes: e(x).
        generator: g, frozen.
        encoder: f, as it trains.
        num_images: images that are trained on.
    """

    def __init__(
        self, config: TrainConfig, codes: Codes, generator: Generator, encoder: Encoder, num_images: int
    ) -> None:
        super().__init__(config, codes, generator, num_images)
        self.encoder = encoder
        self.search = WSearchConfig(epsilon_boundary=config.epsilon_boundary)

    def make(self, batch: StepBatch) -> Tensor:
        """Return views of codes after the step."""
        start = self._started(batch, self.search.init_noise)
        with evaluation_mode(self.encoder):
            with torch.no_grad():
                anchors = self.encoder(clamp_to_range(self.generator.synthesis(self.codes.of(batch))))
            with torch.enable_grad():
                w = start.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self._loss(w, anchors).sum(), w)
        with torch.no_grad():
            stepped = start - self.config.online_step * gradient.sign()
            return self._render(stepped)

    def _loss(self, w: Tensor, anchors: Tensor) -> Tensor:
        """Return eq. 2 of every image, `(B,)`, for codes `(m, B, L, D)` and anchors `(B, K)`."""
        images = clamp_to_range(self.generator.synthesis(w.flatten(0, 1)))
        z = self.encoder(images).unflatten(0, (len(w), -1)).transpose(0, 1)
        distance = (z - anchors[:, None]).square().sum(dim=2).clamp_min(1e-12).sqrt()
        return boundary_uniformity_loss(distance, mean_pairwise_distance(z), self.search)
