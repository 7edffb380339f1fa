"""A diagnostic for tests, which Ray's workers find in this folder."""

import torch

from viewgen.diagnostics.measure import Measure
from viewgen.randomness import addressed_generator
from viewgen.settings import Settings, setting


class BrightnessConfig(Settings):
    title = "brightness"
    num_images: int = setting(4, "images that are measured", ge=1)


class Brightness:
    needs = frozenset({"train"})

    def __init__(self, config):
        self.config = config

    def measure(self, subject, seed):
        order = torch.randperm(len(subject.train), generator=addressed_generator(seed, "brightness"))
        rows = order[: self.config.num_images].numpy()
        value = float(subject.train.images(rows).mean())
        return [Measure(name="brightness", value=value, on=f"{len(rows)} {subject.train.split}")]
