"""Reconstruction of held-out images by g(e(x)), unrefined and refined.

References:
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et al., 2018 (LPIPS),
    https://arxiv.org/abs/1801.03924
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.distances import psnr
from viewgen.diagnostics.generated import BATCH, networks, reconstructions, refined, spread
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.errors import MissingFileError
from viewgen.images import to_model
from viewgen.inversion.perceptual import LpipsDistance, check_perceptual
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Reconstruction", "ReconstructionConfig"]


class ReconstructionConfig(Settings):
    """Number of reconstructed images."""

    title = "reconstruction"

    num_images: int = setting(10_000, "held-out images at most", ge=1)
    num_refined: int = setting(128, "held-out images whose codes are refined too", ge=0)


class Reconstruction:
    """Error, PSNR, LPIPS where its weights are available, and feature distance where there is an encoder.

    Args:
        config: number of reconstructed images.
    """

    needs = frozenset({"generator", "inverting", "test"})

    def __init__(self, config: ReconstructionConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return means over the images."""
        test = subject.test
        rows = spread(len(test), self.config.num_images)
        made = reconstructions(subject, rows)
        measures = self._compared(subject, test.images(rows), made, "")
        count = min(self.config.num_refined, len(rows))
        if count:
            few = rows[spread(len(rows), count)]
            made = refined(subject, few, seed)
            measures += self._compared(subject, test.images(few), made, " refined")
        return measures

    def _compared(
        self, subject: Subject, originals: NDArray[np.uint8], made: NDArray[np.uint8], suffix: str
    ) -> list[Measure]:
        models, lpips = networks(subject), self._lpips(subject)
        found: dict[str, list[Tensor]] = {}
        for part in np.array_split(np.arange(len(originals)), -(-len(originals) // BATCH)):
            x, y = (to_model(images[part], models.device) for images in (originals, made))
            values = {"mse": (x - y).square().mean(dim=(1, 2, 3)), "psnr_db": psnr(y, x)}
            with torch.no_grad():
                if lpips is not None:
                    values["lpips"] = lpips.distance(lpips.features(x), lpips.features(y))
                if models.encoder is not None:
                    distance = (models.encoder(y) - models.encoder(x)).norm(dim=1)
                    values["feature_distance[viewgen encoder]"] = distance
            for name, batch in values.items():
                found.setdefault(name, []).append(batch.cpu())
        on = f"{len(originals):,} {subject.test.split}"
        return [
            Measure(name=name + suffix, value=float(torch.cat(batches).mean()), on=on, group="e")
            for name, batches in found.items()
        ]

    def _lpips(self, subject: Subject) -> LpipsDistance | None:
        try:
            check_perceptual("lpips", has_discriminator=False)
        except MissingFileError as error:
            subject.note(f"LPIPS was not measured: {error}")
            return None
        return LpipsDistance(torch.device(subject.device))


ENTRY = Entry(
    name="reconstruction",
    summary="error of reconstructions of held-out images",
    settings=ReconstructionConfig,
    needs=Reconstruction.needs,
    build=Reconstruction,
)
