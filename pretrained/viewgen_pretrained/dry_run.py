"""`viewgen pretrain --dry-run` as a function: settings and estimated cost of a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.networks.weights import network_file
from viewgen.progress import duration_text
from viewgen.settings import Settings
from viewgen_pretrained.cost import (
    TrainingCost,
    encoder_cost,
    flow_cost,
    generator_cost,
    inverter_cost,
    shape_of,
)
from viewgen_pretrained.learned_views import labelled_images, num_steps
from viewgen_pretrained.pretrain import adversarial_images, encoder_settings, training_config, warn_of_side
from viewgen_pretrained.settings import (
    GeneratorTrainingConfig,
    InverterTrainingConfig,
    ViewsTrainingConfig,
)
from viewgen_train.dry_run import settings_tables
from viewgen_train.plan import resolved_precision
from viewgen_train.resolve import effective_settings

__all__ = ["PretrainDescription", "describe_pretraining", "own_settings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainDescription:
    """Settings and estimated cost of a training that was not started.

    Attributes:
        kind: ``"encoder"``, ``"generator"``, ``"inverter"`` or ``"views"``.
        dataset, split: name and split of the data set.
        num_images, image_size: number and side of the images.
        settings: tables of the settings that have an effect; one without a name for all but encoders.
        cost: estimated time and memory.
    """

    kind: str
    dataset: str
    split: str
    num_images: int
    image_size: int
    settings: dict[str, dict[str, Any]]
    cost: TrainingCost

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "kind": self.kind,
            "dataset": self.dataset,
            "split": self.split,
            "num_images": self.num_images,
            "image_size": self.image_size,
            "settings": self.settings.get("", self.settings),
            "estimate": self.cost.to_json(),
        }

    def lines(self) -> list[str]:
        """Return lines of TOML: the settings as tables, the estimate as comments."""
        found = self.cost
        return [
            f"# {self.dataset} {self.split}: {self.num_images:,} images of {self.image_size} px",
            *settings_tables(self.settings, f"{self.kind}."),
            "",
            f"# measured on {found.device} with {found.measured_batch} images a step, on random images:",
            f"# time    {duration_text(found.seconds)} for {found.steps:,} steps, without measurements",
            f"# memory  {found.step_bytes / 1e9:.2f} GB in a step",
        ]


def own_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that have an effect, as JSON values."""
    ignored = settings.ignored()
    return {name: value for name, value in settings.to_json().items() if name not in ignored}


def describe_pretraining(
    kind: Literal["encoder", "generator", "inverter", "views"],
    dataset: str,
    out: str | Path,
    *,
    split: str = "train",
    data_root: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    generator: str | Path | None = None,
) -> PretrainDescription:
    """Resolve the settings of a training and estimate its cost; no file is written.

    Args:
        kind: network to train.
        dataset, out, split, data_root, settings: see `viewgen_pretrained.pretrain`.
        device: device to measure on.
        generator: generator of an inverter; by default the one in `out`, or one of the default size.

    Raises:
        UsageError: a setting is unknown, invalid or ignored.
        ModelError: StyleGAN2 takes no images of this size, or the generator is another.
    """
    given = settings or {}
    if kind == "encoder":
        images = load_dataset(dataset, split, data_root=data_root)
        warn_of_side(images)
        found = resolved_precision(encoder_settings(images, given), device)
        return _description(kind, images, effective_settings(found), encoder_cost(found, images, device))
    if kind == "views":
        images = load_dataset(dataset, split, data_root=data_root)
        learned = training_config(ViewsTrainingConfig, kind, images.name, given)
        labelled = labelled_images(images, learned, data_root)
        steps = num_steps(learned, len(images), 0 if labelled is None else len(labelled.rows))
        cost = flow_cost(learned, steps, images.image_size, device)
        return _description(kind, images, {"": own_settings(learned)}, cost)
    images = adversarial_images(dataset, split, data_root)
    if kind == "generator":
        own = training_config(GeneratorTrainingConfig, kind, dataset, given, images)
        cost = generator_cost(own, images.image_size, device)
        return _description(kind, images, {"": own_settings(own)}, cost)
    inverter = training_config(InverterTrainingConfig, kind, dataset, given, images)
    beside = training_config(GeneratorTrainingConfig, "generator", dataset, {}, images)
    file = Path(out) / "generator.safetensors" if generator is None else network_file(generator, "generator")
    if file.is_file():
        beside = shape_of(file, beside)
    cost = inverter_cost(inverter, beside, images.image_size, device)
    return _description(kind, images, {"": own_settings(inverter)}, cost)


def _description(
    kind: str, images: ImageDataset, tables: dict[str, dict[str, Any]], cost: TrainingCost
) -> PretrainDescription:
    return PretrainDescription(
        kind=kind,
        dataset=images.name,
        split=images.split,
        num_images=len(images),
        image_size=images.image_size,
        settings=tables,
        cost=cost,
    )
