"""Cost of a plan on this machine: steps of networks of the planned shapes, on random images."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from viewgen.datasets import ImageDataset
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import Models, load_model, load_models, save_model
from viewgen.progress import duration_text
from viewgen_pipelines.cost import MethodRun, stage_costs
from viewgen_pretrained.cost import encoder_cost, generator_cost, inverter_cost, random_networks, shape_of
from viewgen_pretrained.inverter import inverter_of
from viewgen_pretrained.prepare.plan import Plan

__all__ = ["StagePlan", "plan_costs", "stage_plans", "total_text"]

NETWORKS = ("encoder", "generator", "inverter")


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One stage of a plan.

    Attributes:
        name: name of the stage.
        what: what it does, in words.
        seconds: estimated time; None if it was not measured.
        at_most: True if the time is a bound.
        memory_bytes: estimated memory of a step, or None.
    """

    name: str
    what: str
    seconds: float | None = None
    at_most: bool = False
    memory_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "name": self.name,
            "what": self.what,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "at_most": self.at_most,
            "memory_bytes": self.memory_bytes,
        }

    def line(self) -> str:
        """Return the stage as a line of a table."""
        time = ""
        if self.seconds is not None:
            time = ("≤ " if self.at_most else "") + duration_text(self.seconds)
        memory = "" if self.memory_bytes is None else f"{self.memory_bytes / 1e9:.2f} GB"
        return f"  {self.name:9} {time:>9} {memory:>8}  {self.what}".rstrip()


def total_text(stages: list[StagePlan]) -> str:
    """Return the time of all stages in words."""
    known = [stage for stage in stages if stage.seconds is not None]
    if not known:
        return "time not measured"
    bound = "at most " if any(stage.at_most for stage in known) else "about "
    return bound + duration_text(sum(stage.seconds or 0.0 for stage in known))


def stage_plans(plan: Plan, images: ImageDataset) -> list[StagePlan]:
    """Return the stages of a plan, without their cost."""
    words = {kind: f"at hand: {path}" for kind, path in plan.files.items()}
    if plan.encoder is not None:
        network, optimiser = plan.encoder.network, plan.encoder.optimiser
        length = f"{optimiser.num_steps:,} steps" if optimiser.num_steps else f"{optimiser.epochs:,} epochs"
        words["encoder"] = (
            f"f: {network.backbone} of width {network.width}, {length} of {optimiser.batch_size} images"
        )
    side = images.image_size
    if plan.generator is not None:
        own = plan.generator
        words["generator"] = (
            f"g and d̃: StyleGAN2 of channels {_channels(own.channels, side)}, {own.num_images:,} images in "
            f"batches of {own.batch_size}"
        )
    if plan.inverter is not None:
        words["inverter"] = (
            f"e: channels {_channels(plan.inverter.channels, side)}, {plan.inverter.num_steps:,} steps of "
            f"{plan.inverter.batch_size} images"
        )
    size = len(images) * plan.views * 3 * side**2
    words["epsilon"] = (
        f"ε₁ from {plan.epsilon.num_views} expert views of up to {plan.epsilon.num_images} images"
    )
    words["cache"] = f"{plan.method.name}, {plan.views} views of {len(images):,} images, {size / 1e6:,.1f} MB"
    names = ("encoder", "epsilon", "generator", "inverter", "cache")
    return [StagePlan(name=name, what=words[name]) for name in names]


def _channels(channels: tuple[int, ...], side: int) -> str:
    return "-".join(map(str, channels[: side.bit_length() - 2]))


def plan_costs(
    plan: Plan,
    images: ImageDataset,
    *,
    device: str,
    workers: int,
    done: frozenset[str] = frozenset(),
    tell: Callable[[str], object] = lambda _: None,
) -> list[StagePlan]:
    """Return the stages of a plan with their cost.

    Args:
        plan: the plan.
        images: training images.
        device: torch device.
        workers: number of workers of the cache.
        done: stages that are finished and cost nothing.
        tell: callback for the name of the stage that is measured.
    """
    found = []
    for stage in stage_plans(plan, images):
        if stage.name in done or stage.name in plan.files:
            found.append(StagePlan(name=stage.name, what=stage.what, seconds=0.0))
            continue
        tell(stage.name)
        if stage.name == "epsilon":
            found.append(stage)
            continue
        if stage.name == "cache":
            seconds = _cache_seconds(plan, images, device, workers)
            found.append(StagePlan(name=stage.name, what=stage.what, seconds=seconds, at_most=True))
            continue
        if stage.name == "encoder":
            assert plan.encoder is not None
            cost = encoder_cost(plan.encoder, images, device)
        elif stage.name == "generator":
            assert plan.generator is not None
            cost = generator_cost(plan.generator, images.image_size, device)
        else:
            assert plan.inverter is not None
            shape = plan.generator or shape_of(plan.files["generator"])
            cost = inverter_cost(plan.inverter, shape, images.image_size, device)
        found.append(
            StagePlan(name=stage.name, what=stage.what, seconds=cost.seconds, memory_bytes=cost.step_bytes)
        )
    return found


def _cache_seconds(plan: Plan, images: ImageDataset, device: str, workers: int) -> float:
    """Return a bound of the seconds of all stages of the cache, with networks that are not trained."""
    method = plan.method
    if "epsilon_boundary" in plan.auto:  # any distance: the bound is that of all updates
        fields = dict.fromkeys(plan.auto, 0.5)
        method = type(method)(method.entry, method.settings.replace(**fields))
    choices = [choice for choice in (plan.inversion, method) if choice is not None]
    runs = [
        MethodRun(
            method=choice,
            num_views=plan.views if choice is method else 1,
            num_images=len(images),
        )
        for choice in choices
    ]
    models = _models(plan, images.image_size, device)
    return sum(cost.seconds for cost in stage_costs(runs, models, images, workers=workers, to_the_end=False))


def _models(plan: Plan, image_size: int, device: str) -> Models:
    """Return networks of the planned shapes: the files at hand, random weights for the others."""
    paths = dict(plan.files)
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, torch.nn.Module] = {}
        if "encoder" not in paths and plan.encoder is not None:
            network = plan.encoder.network
            made["encoder"] = Encoder(
                EncoderConfig(
                    image_size=image_size,
                    backbone=network.backbone,
                    width=network.width,
                    projection_dim=network.projection_dim,
                )
            )
        if plan.generator is not None and plan.inverter is not None:
            made |= random_networks(plan.generator, plan.inverter, image_size)
        elif plan.inverter is not None:
            generator: Any = load_model(paths["generator"], "generator", "cpu")
            made["inverter"] = inverter_of(plan.inverter, generator)
        for kind, module in made.items():
            paths[kind] = Path(folder) / f"{kind}.safetensors"
            save_model(module, paths[kind])
        return load_models(paths, device)
