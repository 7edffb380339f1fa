"""`viewgen train --dry-run` as a function: the settings of a training, and what it would cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from viewgen.device import resolve_device
from viewgen.store import CacheSpec, open_storage, read_spec
from viewgen_train.caches import find_cache
from viewgen_train.config import TrainConfig, train_config
from viewgen_train.cost import USUAL_CACHED_VIEWS, TrainEstimate, estimate, image_counts
from viewgen_train.plan import EMBEDDED_DATASET, resolved_precision

__all__ = ["Description", "describe"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A training that nobody has begun.

    Attributes:
        dataset, split: of the images.
        num_images, image_size: how many there are, and their side in pixels.
        cache: URL of the cache that it would use, if there is one.
        config: all settings.
        estimate: of time and memory.
    """

    dataset: str
    split: str
    num_images: int
    image_size: int
    cache: str | None
    config: TrainConfig
    estimate: TrainEstimate

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "num_images": self.num_images,
            "image_size": self.image_size,
            "cache": self.cache,
            "config": self.config.to_json(),
            "estimate": self.estimate.to_json(),
        }

    def lines(self) -> list[str]:
        """Return the settings as a TOML table, and the estimate as comments."""
        found = self.estimate
        steps = max(1, self.num_images // self.config.batch_size)
        lines = [
            f"# {self.dataset} {self.split}: {self.num_images} images of {self.image_size} px, "
            f"{steps} steps an epoch",
            f"# views: {self.cache or self.config.generated}",
            "[train]",
        ]
        document = self.config.to_json()
        expert = document.pop("expert")
        lines += [f"{name} = {_toml(value)}" for name, value in document.items()]
        lines += ["", "[train.expert] # --set expert.NAME=VALUE"]
        lines += [f"{name} = {_toml(value)}" for name, value in expert.items()]
        lines += [
            "",
            f"# measured on {found.device} with {found.measured_batch} images a step, on random images:",
            f"# time    {_duration(found.seconds)} at {found.images_per_second:.0f} images/s, without the "
            "accuracy on the way",
            f"# memory  {found.step_bytes / 1e9:.2f} GB in a step, {found.data_bytes / 1e9:.2f} GB of images "
            "and views (streamed if they do not fit)",
        ]
        if found.without:
            lines.append(f"# not included: {found.without}")
        return lines


def describe(
    dataset: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    cache: str | None = None,
    split: str = "train",
    limit: int | None = None,
    data_root: str | None = None,
    storage_options: dict[str, Any] | None = None,
    device: str = "auto",
) -> Description:
    """Resolve the settings of a training and estimate its cost; neither data nor a cache are needed.

    Args:
        dataset, settings, cache, split, limit, data_root, storage_options, device: see `train`.

    Raises:
        UsageError: a setting is wrong.
    """
    device = resolve_device(device)
    url, spec = _cache(dataset, cache, split, train_config(dataset or "", settings), storage_options)
    name = dataset or (spec.dataset["name"] if spec is not None else EMBEDDED_DATASET)
    config = resolved_precision(train_config(name, settings), device)
    num_images, image_size = image_counts(name, split, data_root)
    if spec is not None:
        num_images = spec.num_images
    num_images = min(limit or num_images, num_images)
    views = USUAL_CACHED_VIEWS if spec is None else spec.num_views
    cost = estimate(config, num_images=num_images, image_size=image_size, device=device, num_views=views)
    return Description(
        dataset=name,
        split=split,
        num_images=num_images,
        image_size=image_size,
        cache=url,
        config=config,
        estimate=cost,
    )


def _cache(
    dataset: str | None,
    cache: str | None,
    split: str,
    config: TrainConfig,
    storage_options: dict[str, Any] | None,
) -> tuple[str | None, CacheSpec | None]:
    if config.generated != "cache":
        return None, None
    if cache is not None:
        return cache, read_spec(open_storage(cache, storage_options))
    found = find_cache(dataset, split, storage_options=storage_options)
    return (None, None) if found is None else (found.url, found.spec)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
