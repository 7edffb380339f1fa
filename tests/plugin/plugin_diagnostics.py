"""Contrast: the mean deviation of pixels of held-out images."""

import numpy as np

from viewgen.diagnostics.measure import Measure, Subject
from viewgen.registry import Entry
from viewgen.settings import Settings, setting


class ContrastSettings(Settings):
    """How many images are looked at."""

    title = "contrast"

    num_images: int = setting(16, "images, drawn at random", ge=1)


class Contrast:
    """Deviation of pixels."""

    needs = frozenset({"test"})

    def __init__(self, settings: ContrastSettings) -> None:
        self.num_images = settings.num_images

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return the mean deviation in grey levels."""
        count = min(self.num_images, len(subject.test))
        chosen = np.random.default_rng(seed).choice(len(subject.test), count, replace=False)
        deviation = subject.test.images(chosen).std(axis=(1, 2, 3))
        return [Measure(name="contrast", value=float(deviation.mean()), on=f"{count} test images")]


ENTRY = Entry(
    name="contrast",
    summary="mean deviation of the pixels of held-out images",
    settings=ContrastSettings,
    build=Contrast,
    needs=Contrast.needs,
)
