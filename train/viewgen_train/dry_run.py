"""`viewgen train --dry-run` as a function: settings and estimated cost of a training."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from viewgen.config_file import toml_value
from viewgen.datasets import load_dataset
from viewgen.errors import MissingFileError, UsageError, ViewgenError
from viewgen.progress import duration_text
from viewgen.roles import Role
from viewgen.store import CacheSpec, open_storage, read_spec
from viewgen.terminal import program
from viewgen.views.compositions import refuse_colorless
from viewgen_train.caches import find_cache, recorded_name
from viewgen_train.cost import USUAL_CACHED_VIEWS, TrainEstimate, estimate, image_counts
from viewgen_train.masking import refuse_grey
from viewgen_train.plan import (
    EMBEDDED_DATASET,
    TrainOptions,
    check_options,
    generator_file,
    resolved_precision,
    settled,
)
from viewgen_train.processes import check_workers, usable_device
from viewgen_train.recipes import MethodRecipe, method_recipe
from viewgen_train.records import record, view_name
from viewgen_train.resolve import effective_settings, train_settings
from viewgen_train.settings import TrainSettings
from viewgen_train.sizes import check_sizes, settings_by_number

__all__ = ["Description", "describe", "settings_tables"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Settings and estimated cost of a training that was not started.

    Attributes:
        dataset, split: name and split of the data set.
        num_images, image_size: number and side of the images.
        cache: URL of the cache that the training would use, or None.
        settings: resolved settings.
        roles: roles of the views; empty if they are interchangeable.
        recipe: recipe of a method that the settings begin with, or None.
        by_number: settings that the number of images decided.
        estimate: estimated time and memory.
    """

    dataset: str
    split: str
    num_images: int
    image_size: int
    cache: str | None
    settings: TrainSettings
    roles: tuple[Role, ...]
    recipe: MethodRecipe | None
    by_number: Mapping[str, Any]
    estimate: TrainEstimate

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "num_images": self.num_images,
            "image_size": self.image_size,
            "cache": self.cache,
            "config": record(self.settings),
            "recipe": None if self.recipe is None else self.recipe.to_json(),
            "estimate": self.estimate.to_json(),
        }

    def _views(self) -> str:
        """Return where the views come from, in words."""
        if self.cache is not None or "cache" not in self.settings.views.entry.needs:
            return self.cache or view_name(self.settings)
        if self.dataset == EMBEDDED_DATASET:
            return "a cache that the training makes first, which is not in the estimate"
        return f"none is there; first {program()} cache --dataset {shlex.quote(self.dataset)}"

    def lines(self) -> list[str]:
        """Return lines of TOML: the settings as tables, the estimate as comments."""
        found = self.estimate
        steps = max(1, self.num_images // self.settings.optimiser.batch_size)
        lines = [
            f"# {self.dataset} {self.split}: {self.num_images} images of {self.image_size} px, "
            f"{steps} steps an epoch",
            f"# views: {self._views()}",
            *([] if self.recipe is None else [f"# {line}" for line in self.recipe.lines()]),
            *(
                [f"# by the number of images, as there is no recipe: {', '.join(self.by_number)}"]
                if self.by_number
                else []
            ),
            *settings_tables(effective_settings(self.settings, self.roles)),
        ]
        lines += [
            "",
            f"# measured on {found.device} with {found.measured_batch} images a step, on random images:",
            f"# time    {duration_text(found.seconds)} at {found.images_per_second:.0f} images/s, without "
            "the accuracy on the way",
            f"# memory  {found.step_bytes / 1e9:.2f} GB in a step, {found.data_bytes / 1e9:.2f} GB of images "
            "and views (streamed if they do not fit)",
        ]
        if found.without:
            lines.append(f"# not included: {found.without}")
        return lines


def describe(
    dataset: str | None = None,
    *,
    device: str = "auto",
    gpus: int | None = None,
    workers: int | None = None,
    **options: Any,
) -> Description:
    """Resolve the settings of a training and estimate its cost; neither data nor a cache is needed.

    Files and caches named by an argument must exist. One error reports all problems.

    Args:
        dataset, device, gpus, workers: see `train`.
        options: settings, cache, inversions, generator, models, split, limit, data_root, storage_options: see
            `train`.

    Raises:
        UsageError: a setting or an option is invalid, or there are several problems.
        MissingFileError: a cache or weights named by an argument, or needed by the views, are missing.
    """
    given = TrainOptions(dataset=dataset, device=device, **options)
    first = train_settings(dataset or "", given.settings)
    problems: list[ViewgenError] = []
    url, spec = _attempt(problems, lambda: _cache(given, first)) or (None, None)
    name = dataset or (spec.dataset["name"] if spec is not None else EMBEDDED_DATASET)
    _attempt(problems, lambda: check_options(given, first))
    if "generator" in first.views.entry.needs:
        _attempt(problems, lambda: generator_file(name, given))
    used = _attempt(problems, lambda: usable_device(device, gpus, workers))
    counts = _attempt(problems, lambda: image_counts(name, given.split, given.data_root))
    num_images, image_size = counts or (0, 0)
    num_images = min(given.limit or num_images, num_images if spec is None else spec.num_images)
    preset = counts and settings_by_number(name, given.settings, num_images, image_size)
    found = _attempt(problems, lambda: settled(name, given, spec, preset=preset))
    resolved, splitting = found or (first, None)
    _attempt(problems, lambda: check_workers(resolved, gpus, workers))
    _attempt(problems, lambda: _refuse_without_color(name, given, resolved))
    if problems:
        raise _together(problems)
    assert used is not None
    resolved = resolved_precision(resolved, used)
    views = resolved.views
    side = views.entry.side(views.settings, image_size)
    if spec is not None and "cache" in views.entry.needs:
        side = spec.height
    check_sizes(resolved, image_size, side)
    num_views = USUAL_CACHED_VIEWS if spec is None else spec.num_views
    return Description(
        dataset=name,
        split=given.split,
        num_images=num_images,
        image_size=image_size,
        cache=url,
        settings=resolved,
        roles=() if splitting is None else splitting.entry.roles,
        by_number=preset or {},
        recipe=method_recipe(method, name) if (method := (given.settings or {}).get("recipe")) else None,
        estimate=estimate(
            resolved,
            num_images=num_images,
            image_size=image_size,
            device=used,
            num_views=num_views,
            splitting=splitting,
        ),
    )


def _refuse_without_color(name: str, given: TrainOptions, settings: TrainSettings) -> None:
    """Refuse what needs colour for grey images, as the training would, where the images are at hand."""
    augment = (given.settings or {}).get("augment")
    if augment is None and settings.reconstruction.task != "colorization":
        return
    try:
        images = load_dataset(name, given.split, data_root=given.data_root, download=False)
    except MissingFileError:
        return
    refuse_colorless(augment, images)
    refuse_grey(settings, images)


def _attempt(problems: list[ViewgenError], check: Callable[[], Any]) -> Any:
    """Return the result of a check; if it raises, append the error to `problems` and return None."""
    try:
        return check()
    except ViewgenError as problem:
        problems.append(problem)
        return None


def _together(problems: list[ViewgenError]) -> ViewgenError:
    if len(problems) == 1:
        return problems[0]
    reasons = "\n".join(f"  {problem}" for problem in problems)
    return UsageError(f"the training cannot be started, for {len(problems)} reasons:\n{reasons}")


def _cache(options: TrainOptions, settings: TrainSettings) -> tuple[str | None, CacheSpec | None]:
    """Return URL and specification of the named cache, or of the cache of views that would be used."""
    needs = settings.views.entry.needs
    inversions = "inversions" in needs
    given = options.inversions if inversions else options.cache
    if given is not None and (inversions or "cache" in needs):
        return given, read_spec(open_storage(given, options.storage_options))
    if "cache" not in needs:
        return None, None
    name = recorded_name(options.dataset, options.split, options.data_root)
    found = find_cache(name, options.split, storage_options=options.storage_options)
    return (None, None) if found is None else (found.url, found.spec)


def settings_tables(tables: Mapping[str, Mapping[str, Any]], prefix: str = "train.") -> list[str]:
    """Return tables of settings as TOML lines, the format of ``--config``.

    Args:
        tables: name → settings; those under an empty name need no name before a dot.
        prefix: start of the tables' names.
    """
    lines = []
    for name, table in tables.items():
        before = f"{name}." if name else ""
        lines += ["", f"[{(prefix + name).strip('.')}] # --set {before}NAME=VALUE"]
        lines += [f"{field} = {toml_value(value)}" for field, value in table.items()]
    return lines
