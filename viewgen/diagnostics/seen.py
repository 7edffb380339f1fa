"""Seen by f alone? The views under encoders that took no part in making them.

A search finds what f is sensitive to. If only f is, as for an adversarial example, its views are no other
images for any other network. Under each independent encoder e, and under f, in units of the mean distance
D(e) of two different real images:

- distance: mean ‖e(view) − e(anchor)‖ / D(e), spread likewise between the views of an image;
- own_image_nearest: share of views whose nearest real image under e is their own;
- survives: distance under e divided by distance under f, the share of ε₁ that is there for e.

And without any encoder: the change in pixels (root mean square, share of the range), in the gradient domain
(norm of the change of the finite differences, divided by that of the anchor's), and in LPIPS, where its
weights are at hand.

References:
    Intriguing properties of neural networks, Szegedy et al., 2014, https://arxiv.org/abs/1312.6199
    Adversarial Examples Are Not Bugs, They Are Features, Ilyas et al., 2019 (transfer between networks),
    https://arxiv.org/abs/1905.02175
    The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et al., 2018 (LPIPS),
    https://arxiv.org/abs/1801.03924
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from viewgen.diagnostics.bootstrap import Statistic, bootstrap_measure, mean_of_pairs, mean_over_images
from viewgen.diagnostics.lpips import mean_lpips
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.view_sample import (
    NUM_IMAGES,
    Projections,
    ViewSample,
    by_images,
    project_sample,
    sample_projections,
    view_sample,
)
from viewgen.errors import UsageError
from viewgen.networks.files import load_model
from viewgen.networks.weights import trained_file
from viewgen.registry import Entry
from viewgen.settings import Settings, setting
from viewgen.views.distances import mean_pairwise_distance

__all__ = ["ENTRY", "Seen", "SeenConfig", "gradient_change", "pixel_change"]


class SeenConfig(Settings):
    """Independent encoders and images of the measurement."""

    title = "seen"

    encoders: tuple[str, ...] = setting(
        (), "encoders that took no part in making the views: weights files, or folders of trainings"
    )
    num_images: int = setting(NUM_IMAGES, "images whose views are measured, at most", ge=2)
    num_lpips: int = setting(
        32, "images whose views LPIPS compares with their anchor, at most; 0 for none", ge=0
    )

    @model_validator(mode="before")
    @classmethod
    def _separated(cls, values: Any) -> Any:
        """Split names that are separated by commas, as a command line gives them."""
        if isinstance(values, Mapping) and isinstance(names := values.get("encoders"), str):
            return {**values, "encoders": tuple(name.strip() for name in names.split(",") if name.strip())}
        return values


def pixel_change(views: Tensor, anchors: Tensor) -> Tensor:
    """Return the rms change in shares of the range, mean over views, `(B,)`; see `gradient_change`."""
    change = (views.float() - anchors[:, None].float()) / 255
    return change.flatten(2).square().mean(dim=2).sqrt().mean(dim=1)


def gradient_change(views: Tensor, anchors: Tensor) -> Tensor:
    """Return ‖∇view − ∇anchor‖ / ‖∇anchor‖, mean over views, `(B,)`.

    Args:
        views: `(B, V, C, H, W)`, 0 to 255.
        anchors: `(B, C, H, W)`.
    """
    change = _differences(views.float() - anchors[:, None].float())
    own = _differences(anchors.float())
    quotient: Tensor = change.norm(dim=2).mean(dim=1) / own.norm(dim=1).clamp_min(1e-6)
    return quotient


def _differences(images: Tensor) -> Tensor:
    """Return all finite differences of neighbours, `(…, M)`, of images `(…, C, H, W)`."""
    return torch.cat([images.diff(dim=axis).flatten(-3) for axis in (-2, -1)], dim=-1)


def _quotient(above: Statistic, below: Statistic) -> Statistic:
    return lambda counts: above(counts) / below(counts)


class Seen:
    """Distances, spread and neighbours of views under independent encoders; visible change.

    Args:
        config: independent encoders and images of the measurement.
    """

    needs = frozenset({"cache", "train"})

    def __init__(self, config: SeenConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the visible change, and the distances under f and under each given encoder."""
        sample = view_sample(subject, self.config.num_images)
        measures = self._visible(sample, seed)
        if self.config.num_lpips:
            measures += self._lpips(subject, sample, seed)
        if not self.config.encoders:
            subject.note(
                "whether other encoders see the views was not measured: name some that took no part in "
                "making them with --set seen.encoders=RUN,RUN"
            )
            return measures
        if len(sample) < 3:
            subject.note("encoders were not compared: that takes at least 3 images")
            return measures
        relative: dict[str, Statistic] = {}
        own = sample_projections(subject, self.config.num_images)
        moved = bool((own.views != own.anchors[:, None]).any())
        if not moved:
            subject.note("under f no view differs from its anchor: nothing could survive")
        for name, z in self._projections(subject, sample):
            distance = self._relative((z.views - z.anchors[:, None]).norm(dim=2).mean(dim=1), z)
            found = {"distance": distance}
            if sample.num_views > 1:
                found["spread"] = self._relative(mean_pairwise_distance(z.views).mean(dim=1), z)
            nearest = torch.cdist(z.views.flatten(0, 1), z.images).argmin(dim=1).view(len(sample), -1)
            mine = (nearest == torch.arange(len(sample))[:, None]).double().mean(dim=1)
            found["own_image_nearest"] = mean_over_images(mine)
            relative[name] = distance
            if name != "f" and moved:
                found["survives"] = _quotient(distance, relative["f"])
            measures += [
                bootstrap_measure(title, statistic, len(sample), seed=seed, on=sample.of, group=name)
                for title, statistic in found.items()
            ]
        return measures

    def _relative(self, values: Tensor, z: Projections) -> Statistic:
        """Return the mean of `values` `(B,)` over the mean distance of two different images."""
        return _quotient(mean_over_images(values), mean_of_pairs(torch.cdist(z.images, z.images)))

    def _visible(self, sample: ViewSample, seed: int) -> list[Measure]:
        found = {
            "pixel_change": by_images(pixel_change, sample.views, sample.anchors),
            "gradient_change": by_images(gradient_change, sample.views, sample.anchors),
        }
        return [
            bootstrap_measure(name, mean_over_images(values), len(sample), seed=seed, on=sample.of)
            for name, values in found.items()
        ]

    def _lpips(self, subject: Subject, sample: ViewSample, seed: int) -> list[Measure]:
        count = self.config.num_lpips
        pictures = (
            torch.from_numpy(np.concatenate([anchor[None], views]))
            for anchor, views in zip(sample.anchors[:count], sample.views[:count], strict=True)
        )
        views = torch.arange(1, sample.num_views + 1)
        found = mean_lpips(subject, pictures, torch.zeros_like(views), views)
        if found is None:
            return []
        on = f"{len(found):,} images"
        return [bootstrap_measure("lpips_change", mean_over_images(found), len(found), seed=seed, on=on)]

    def _projections(self, subject: Subject, sample: ViewSample) -> list[tuple[str, Projections]]:
        """Return the projections under f, and under each of the given encoders, by name."""
        if twice := [one for one, count in Counter(self.config.encoders).items() if count > 1]:
            raise UsageError(f"seen: encoders names {twice[0]} twice; expected different files")
        named = [("f", sample_projections(subject, self.config.num_images))]
        for file in self.config.encoders:
            path = trained_file(file)
            encoder = load_model(path, "encoder", torch.device(subject.device))
            # the weights of all trainings have one name
            name = path.absolute().parent.name if path.stem == "last" else path.stem
            if name in {other for other, _ in named}:
                name = str(path)
            named.append((name, project_sample(encoder, sample, subject.device)))
        return named


ENTRY = Entry(
    name="seen",
    summary="views under independent encoders, and their visible change",
    settings=SeenConfig,
    needs=Seen.needs,
    build=Seen,
)
