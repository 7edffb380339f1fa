"""Validation of the options of `train` and their resolution to a plan, before any file is written."""

import json
import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import CacheMismatchError, MissingFileError, UsageError
from viewgen.memory import available_bytes
from viewgen.networks.files import file_digest
from viewgen.networks.weights import find_models
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.store import CacheReader, CacheSpec, cache_folder
from viewgen.views.cached import check_num_views
from viewgen.views.compositions import refuse_colorless
from viewgen.views.scores import load_scores
from viewgen_train.caches import (
    check_cache,
    find_cache,
    no_cache,
    num_unconverged,
    recorded_name,
    usable_rows,
)
from viewgen_train.loader import MEMORY_SHARE
from viewgen_train.masking import refuse_grey
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.objectives.ifm import warn_of_large_epsilon
from viewgen_train.records import assimilation_name, record, view_name
from viewgen_train.resolve import train_settings
from viewgen_train.roles import cached_entry, check_roles, splitting_views
from viewgen_train.settings import TrainSettings
from viewgen_train.sizes import check_sizes, settings_by_number, told

__all__ = ["TrainOptions", "TrainPlan", "check_options", "generator_file", "make_plan", "resolved_precision"]

log = logging.getLogger(__name__)

# Its networks ship with viewgen, so that its cache can be made without further ado.
EMBEDDED_DATASET = "digits"
AT_HAND = {"cache", "inversions", "generator", "encoder", "clips", "training"}  # what a training can give


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Options of `viewgen_train.training.train`."""

    dataset: str | None = None
    split: str = "train"
    limit: int | None = None
    cache: str | None = None
    inversions: str | None = None
    generator: str | None = None
    models: str | None = None
    out: str | None = None
    settings: Mapping[str, Any] | None = None
    data_root: str | None = None
    storage_options: dict[str, Any] | None = field(default=None, repr=False)
    device: str = "auto"
    memory_bytes: int | None = None
    use_unconverged: bool = False
    overwrite: bool = False
    by_number: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPlan:
    """Plan of a training, as plain values that can be sent to worker processes.

    Attributes:
        settings: resolved settings of the training.
        dataset, split, digest: name, split and content digest of the data set.
        num_images: number of leading images of the split to train on.
        cache: ``{"url", "identity", "method"}`` of the cache of views or inversions, or None.
        generator: weights file of g, if views are generated in the step; otherwise None.
        splitting: view source that splits an image into views of different roles, or None.
        view_size: side of the views in pixels, if it is not that of the images; otherwise None.
        out: folder of the run.
        data_root: folder of data sets.
        storage_options: fsspec options of the cache's storage.
        memory_bytes: host memory limit for images and views, in bytes.
        measures: True if accuracy is measured during training.
        use_unconverged: True if views of images that did not converge are used.
        unconverged: number of images in the cache of views that did not converge.
    """

    settings: TrainSettings
    dataset: str
    split: str
    digest: str
    num_images: int
    cache: dict[str, str] | None
    generator: str | None
    out: str
    data_root: str | None
    storage_options: dict[str, Any] = field(repr=False)
    memory_bytes: int
    measures: bool = True
    use_unconverged: bool = False
    unconverged: int = 0
    splitting: Choice[Any] | None = None
    view_size: int | None = None

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the views; empty if they are interchangeable."""
        return () if self.splitting is None else self.splitting.entry.roles

    @property
    def num_steps(self) -> int:
        """Number of optimiser steps of the whole training."""
        optimiser = self.settings.optimiser
        return optimiser.num_steps or optimiser.epochs * (self.num_images // optimiser.batch_size)

    def document(self) -> dict[str, Any]:
        """Return the contents of ``config.json``."""
        config = record(self.settings)
        return {
            "format": config.get("format", 1),
            "dataset": {
                "name": self.dataset,
                "split": self.split,
                "digest": self.digest,
                "num_images": self.num_images,
            },
            "cache": self.cache,
            "num_steps": self.num_steps,
            "seed": self.settings.seed,
            "config": config,
        }


def make_plan(options: TrainOptions) -> TrainPlan:
    """Check and resolve the options; make a missing cache of the embedded data set.

    Args:
        options: options of the command.

    Raises:
        UsageError, MissingFileError, CacheMismatchError, IncompleteError, CorruptDataError: see `train`.
    """
    settings = train_settings(options.dataset or "", options.settings)
    check_options(options, settings)
    needs = settings.views.entry.needs
    needs_codes = "inversions" in needs
    url, name = None, options.dataset
    if "cache" in needs or needs_codes:
        given = options.inversions if needs_codes else options.cache
        url, name = _cache_url(given, options, needs_codes)
    elif name is None:
        raise UsageError(
            "which images? Name a data set with --dataset (`viewgen datasets` lists them); "
            f"{view_name(settings)} views are in no cache that would say"
        )
    dataset = load_dataset(name, options.split, data_root=options.data_root)
    refuse_colorless((options.settings or {}).get("augment"), dataset)
    reader = None if url is None else CacheReader(url, options.storage_options)
    spec = None if reader is None else reader.spec
    used = min(options.limit or len(dataset), len(dataset) if spec is None else spec.num_images)
    preset = None
    if options.by_number:
        preset = settings_by_number(dataset.name, options.settings, used, dataset.image_size)
    if preset:
        log.info("settings by the number of images, as %s has no recipe: %s", dataset.name, told(preset))
    settings, splitting = settled(dataset.name, options, spec, dataset, preset=preset)
    cache, num_images, generator = None, len(dataset), None
    side = settings.views.entry.side(settings.views.settings, dataset.image_size)
    use_unconverged, unconverged = options.use_unconverged, 0
    if reader is not None:
        cache = {"url": reader.url, "identity": reader.spec.identity, "method": reader.spec.method}
        unconverged = 0 if needs_codes else num_unconverged(reader)
        if unconverged and not (options.use_unconverged or options.overwrite):
            folder = _out(options, dataset.name, settings, cache)
            use_unconverged = _began_with(folder, reader, options.limit or reader.spec.num_images)
        if not (needs_codes or use_unconverged):
            reader = CacheReader(reader.url, options.storage_options, statuses=usable_rows(False))
        check_cache(reader, dataset, inversions=needs_codes)
        num_images = reader.spec.num_images
        side = side if needs_codes else reader.spec.height
        if not needs_codes:
            load_scores(reader, settings.views.settings, options.storage_options)
            check_num_views(build_objective(settings).num_generated, reader.spec.num_views)
        if "generator" in needs:
            generator = _generator(dataset.name, reader, options)
        if num_images < len(dataset):
            log.info("the cache covers the first %d of %d images: training on them", num_images, len(dataset))
    check_sizes(settings, dataset.image_size, side)
    refuse_grey(settings, dataset)
    num_images = _limited(options.limit, num_images, len(dataset))
    if settings.optimiser.batch_size > num_images:
        raise UsageError(
            f"batch_size is {settings.optimiser.batch_size}, and there are {num_images} images; give a "
            "smaller one (--batch-size)"
        )
    return TrainPlan(
        settings=settings,
        dataset=dataset.name,
        split=dataset.split,
        digest=dataset.digest,
        num_images=num_images,
        cache=cache,
        generator=generator,
        out=str(_out(options, dataset.name, settings, cache)),
        data_root=options.data_root,
        storage_options=options.storage_options or {},
        memory_bytes=int(MEMORY_SHARE * available_bytes())
        if options.memory_bytes is None
        else options.memory_bytes,
        use_unconverged=use_unconverged,
        unconverged=unconverged,
        splitting=splitting,
        view_size=None if side == dataset.image_size else side,
    )


def settled(
    dataset: str,
    options: TrainOptions,
    cache: CacheSpec | None,
    images: ImageDataset | None = None,
    *,
    preset: Mapping[str, Any] | None = None,
) -> tuple[TrainSettings, Choice[Any] | None]:
    """Return the settings, and the view source of views of different roles.

    Args:
        dataset: name of the data set.
        options: options of the command.
        cache: specification of the cache of views or inversions, if there is one.
        images: the data set, for settings that depend on its images; None before it is loaded.
        preset: values that stand in for a recipe, see `viewgen_train.sizes`.

    Raises:
        UsageError: a setting is invalid, or would be ignored.
        DataError: the view source cannot use these images.
    """
    known, made_by = () if cache is None else cache.roles, cached_entry(cache)
    how = "" if made_by is None else made_by.transform
    settings = train_settings(dataset, options.settings, preset, cached_roles=known, cached_transform=how)
    if images is not None:
        entry = settings.views.entry
        settings = replace(settings, views=Choice(entry, entry.fit(settings.views.settings, images)))
    splitting = splitting_views(settings, cache)
    check_roles(settings, () if splitting is None else splitting.entry.roles, cache)
    warn_of_large_epsilon(settings)
    return resolved_precision(settings, options.device), splitting


def _out(
    options: TrainOptions, dataset: str, settings: TrainSettings, cache: Mapping[str, str] | None
) -> Path:
    """Return the folder of the run."""
    return Path(options.out or _default_out(dataset, settings, cache)).expanduser().absolute()


def _began_with(folder: Path, reader: CacheReader, num_images: int) -> bool:
    """Return whether a training began in `folder` with the unconverged rows, as 0.1.0 used them."""
    try:
        missing = json.loads((folder / "identity.json").read_text("utf-8")).get("missing")
    except (OSError, ValueError, AttributeError):
        return False
    if missing != num_images - int((reader.rows < num_images).sum()):
        return False
    log.info("this run began with the views of images that did not converge, and goes on with them")
    return True


def check_options(options: TrainOptions, settings: TrainSettings) -> None:
    """Check the options against the source of generated views, before any data are read.

    Raises:
        UsageError, MissingFileError: the source would ignore an option, or lacks an input or a file.
    """
    entry, name = settings.views.entry, view_name(settings)
    entry.check(settings.views.settings)
    if lacking := entry.needs - AT_HAND:
        raise UsageError(
            f"{name} views need {', '.join(sorted(lacking))}, which a training does not have; make a "
            f"cache of them with `viewgen cache --method {name}`"
        )
    given = {
        "--cache": (options.cache, "cache"),
        "--inversions": (options.inversions, "inversions"),
        "--generator": (options.generator, "generator"),
        "--models": (options.models, "generator"),
    }
    for option, (value, need) in given.items():
        if value is not None and need not in entry.needs:
            raise UsageError(
                f"{option} is given, but the views come from {name!r} (--generated), which would ignore it"
            )
    if options.storage_options and not entry.needs & {"cache", "inversions"}:
        raise UsageError(
            f"--storage-option is given, but {name!r} views are read from no cache, which alone has a storage"
        )
    if options.use_unconverged and "cache" not in entry.needs:
        raise UsageError(
            f"--use-unconverged is given, but the views come from {name!r} (--generated), which would "
            "ignore it"
        )
    if options.limit is not None and options.limit < 2:
        raise UsageError(f"--limit {options.limit}: at least two images are needed")


def _cache_url(given: str | None, options: TrainOptions, inversions: bool) -> tuple[str, str]:
    """Return the URL of the cache to use and the name of its data set."""
    if given is not None:
        spec = CacheReader(given, options.storage_options).spec
        return given, options.dataset or spec.dataset["name"]
    found = find_cache(
        recorded_name(options.dataset, options.split, options.data_root),
        options.split,
        inversions=inversions,
        storage_options=options.storage_options,
    )
    if found is not None:
        spec = found.spec
        log.info(
            "views from %s (%s, %d views of %d images of %s), the complete cache that changed last; --cache "
            "names another",
            *(found.url, spec.method, spec.num_views, spec.num_images, spec.dataset["name"]),
        )
        return found.url, options.dataset or found.spec.dataset["name"]
    if options.dataset not in (None, EMBEDDED_DATASET) or options.split != "train":
        raise no_cache(options.dataset, options.split, inversions=inversions)
    return _make_embedded(inversions, options), EMBEDDED_DATASET


def _make_embedded(inversions: bool, options: TrainOptions) -> str:
    from viewgen_pipelines.cache import cache

    method = "invert" if inversions else "wsearch"
    log.info(
        "no cache in %s yet; making one of the embedded data set %s, as\n"
        "  viewgen cache --dataset %s --method %s",
        *(cache_folder(), EMBEDDED_DATASET, EMBEDDED_DATASET, method),
    )
    return cache(EMBEDDED_DATASET, method=method, data_root=options.data_root).url


def resolved_precision(settings: TrainSettings, device: str) -> TrainSettings:
    """Return the settings with ``precision="auto"`` replaced by the precision of the device."""
    if settings.network.precision != "auto":
        return settings
    fast = device.startswith("cuda") and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return settings.change("network", precision="bf16" if fast else "float32")


def _limited(limit: int | None, num_images: int, whole: int) -> int:
    if limit is None:
        return num_images
    if limit > num_images:
        raise UsageError(
            f"--limit {limit}: there are {num_images} images"
            + (f" in the cache (of {whole} in the data set)" if num_images < whole else "")
        )
    return limit


def generator_file(dataset: str, options: TrainOptions) -> Path:
    """Return the file of the generator.

    Raises:
        MissingFileError: there is no generator; the message gives the command that makes it.
    """
    overrides = {} if options.generator is None else {"generator": options.generator}
    try:
        found = find_models(dataset, {"generator"}, models_dir=options.models, overrides=overrides)
    except MissingFileError as error:
        raise MissingFileError(f"views made in the training step need the generator: {error}") from error
    return Path(found["generator"]).absolute()


def _generator(dataset: str, inversions: CacheReader, options: TrainOptions) -> str:
    """Return the file of the generator to which the inversions belong."""
    path = generator_file(dataset, options)
    theirs, ours = inversions.spec.models.get("generator"), file_digest(path)
    if theirs != ours:
        raise CacheMismatchError(
            f"the inversions at {inversions.url} are codes of another generator than {path}:\n"
            f"  theirs has {theirs}, this file {ours}\n"
            "give theirs with --generator, or codes of this one with --inversions URL (`viewgen cache "
            f"--dataset {shlex.quote(dataset)} --method invert --out URL` makes them)"
        )
    return str(path)


def _default_out(dataset: str, settings: TrainSettings, cache: Mapping[str, str] | None) -> str:
    from_cache = cache is not None and "cache" in settings.views.entry.needs
    views = cache["method"] if cache is not None and from_cache else view_name(settings)
    name = f"{dataset}-{assimilation_name(settings)}-{views}-seed{settings.seed}"
    return "runs/" + re.sub(r"[^\w.+-]+", "-", name).strip("-")
