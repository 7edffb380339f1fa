"""Resolves the options of `cache` into a plan; wrong options are refused before anything is written."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.registry import lies_elsewhere
from viewgen.errors import CacheMismatchError, MissingFileError, ModelError, UsageError
from viewgen.networks.files import KINDS, code_shape, file_digest, networks_beside, read_header
from viewgen.networks.weights import find_models
from viewgen.registry import Choice
from viewgen.store import (
    CacheSpec,
    cache_folder,
    default_shard_images,
    file_name,
    inversions_name,
    open_storage,
    read_spec,
)
from viewgen.store.columns import W_PLUS, real_target
from viewgen.views import VIEWS
from viewgen.views.compositions import expert_values, refuse_colorless
from viewgen.views.entry import Situation, ViewEntry, further_encoder
from viewgen_pipelines.names import absolute_url
from viewgen_pipelines.shards.driver import Stage
from viewgen_pipelines.shards.inputs import download
from viewgen_pipelines.versions import versions

__all__ = ["CacheOptions", "CachePlan", "make_plan", "views_per_image"]

# Networks that an inversion uses beside the generator, where that generator has them.
INVERSION = frozenset({"inverter", "discriminator"})
# A setting of the inversion that comes before a method, for example ``invert.max_steps``.
INVERT_PREFIX = "invert."


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheOptions:
    """The options of `cache` that determine the cache's content; see `viewgen_pipelines.cache.cache`."""

    dataset: str
    method: str
    views: int | None
    out: str | None
    split: str
    limit: int | None
    seed: int
    data_root: str | None
    models: str | None
    networks: Mapping[str, str | None]
    settings: Mapping[str, Any]
    inversions: str | None
    keep_latents: bool
    shard_images: int | None
    storage_options: dict[str, Any] = field(repr=False)
    augment: str | None = None

    @property
    def preset(self) -> dict[str, Any] | None:
        """Values of the method's settings in the place of the data set's recipe."""
        return None if self.augment is None else expert_values(self.augment)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """The plan of a run: the stages in order; the last stage makes the requested cache."""

    stages: tuple[Stage, ...]
    dataset: ImageDataset

    @property
    def target(self) -> Stage:
        return self.stages[-1]


def make_plan(options: CacheOptions, say: Callable[[str], object]) -> CachePlan:
    """Check the options and resolve them.

    Args:
        options: options of `cache`.
        say: callback with lines about slow steps (a calibration).

    Raises:
        UsageError: an unknown name, a value out of range, an option that the method ignores.
        DataError, MissingFileError: the data set or the weights are not there.
        ModelError: a network does not fit the data set.
        CacheMismatchError: the inversions at ``inversions`` are those of other images or networks.
    """
    entry = VIEWS.entry(options.method)
    num_views = views_per_image(entry, options.views)
    _refuse_ignored(entry, options)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit}: at least one image is needed")
    own, inversion = _settings_of_stages(entry, options)
    # impossible settings show before data sets and networks are looked for
    given = VIEWS.resolve(entry.name, options.dataset, own, options.preset).settings
    entry.check(given)
    dataset, paths = _inputs(entry, options, entry.further(given))
    refuse_colorless(options.augment, dataset)
    num_images = min(options.limit or len(dataset), len(dataset))
    shard_images = options.shard_images
    if shard_images is None:
        shard_images = automatic_shard_images(num_images, dataset.image_size, num_views)
    if shard_images < 1:
        raise UsageError(f"--shard-images {shard_images}: at least one image per shard is needed")
    situation = Situation(dataset=dataset, networks=paths, seed=options.seed, say=say)
    maker = _SpecMaker(options, situation, num_images, shard_images)

    stages = []
    inversions_url, digests = None, {}
    if "inversions" in entry.needs:
        before = maker.inversion_stage(inversion)
        stages.append(before)
        maker.situation = dataclasses.replace(situation, inversion=before.method)
        inversions_url, digests = before.url, {"inversions": before.spec.identity}
    method = maker.settled(entry.name, own, options.preset)
    spec = maker.spec(method, num_views, keep_latents=options.keep_latents, more_digests=digests)
    stages.append(
        Stage(
            title=method.name,
            url=absolute_url(options.out or _default_out(options)),
            spec=spec,
            method=method,
            model_paths=maker.paths_of(method),
            inversions_url=inversions_url,
        )
    )
    return CachePlan(stages=tuple(stages), dataset=dataset)


def _settings_of_stages(entry: ViewEntry, options: CacheOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the given settings of the method, and those of the inversion before it (``invert.NAME``)."""
    own, inversion = {}, {}
    for name, value in options.settings.items():
        if not name.startswith(INVERT_PREFIX):
            own[name] = value
        elif "inversions" in entry.needs:
            inversion[name.removeprefix(INVERT_PREFIX)] = value
        else:
            raise UsageError(f"{name} is set, and method {entry.name!r} does not start from inversions")
    return own, inversion


def automatic_shard_images(num_images: int, image_size: int, num_views: int) -> int:
    """Return S for any number of workers: about twelve shards of 16 to 512 images, below 50 MB each."""
    share = min(max(num_images // 12, 16), 512)
    return min(1 << (share.bit_length() - 1), default_shard_images(3 * image_size**2, num_views))


class _SpecMaker:
    """Makes the specifications of one run's caches, which share images, rows, shards and networks."""

    def __init__(
        self, options: CacheOptions, situation: Situation, num_images: int, shard_images: int
    ) -> None:
        self.options = options
        self.situation = situation
        self.dataset, self.paths = situation.dataset, situation.networks
        self.num_images = num_images
        self.shard_images = shard_images
        self.digests = {kind: file_digest(path) for kind, path in self.paths.items()}

    def settled(
        self, name: str, given: Mapping[str, Any], preset: Mapping[str, Any] | None = None
    ) -> Choice[ViewEntry]:
        """Return a method with all its settings resolved."""
        choice = VIEWS.resolve(name, self.dataset.name, given, preset)
        settled = choice.entry.settle(choice.settings, self.situation)
        return Choice(choice.entry, choice.entry.fit(settled, self.dataset))

    def paths_of(self, method: Choice[ViewEntry]) -> dict[str, str]:
        """Return kind → file of the networks that the method uses with these settings."""
        used = method.entry.uses(method.settings)
        further = {further_encoder(place) for place in range(len(method.entry.further(method.settings)))}
        return {kind: str(path.absolute()) for kind, path in self.paths.items() if kind in used | further}

    def spec(
        self,
        method: Choice[ViewEntry],
        num_views: int,
        *,
        keep_latents: bool = False,
        more_digests: Mapping[str, str] | None = None,
    ) -> CacheSpec:
        real_names = self.dataset.real_names
        columns = (
            *method.entry.columns,
            *((W_PLUS,) if keep_latents else ()),
            *((real_target(len(real_names)),) if real_names else ()),
        )
        holds_codes = any(column.codes for column in columns)
        size = method.entry.side(method.settings, self.dataset.image_size)
        return CacheSpec(
            dataset={
                "name": self.dataset.name,
                "split": self.dataset.split,
                "digest": self.dataset.digest,
                "num_images": len(self.dataset),
                "images": {"first": self.num_images},
                **({"real_names": list(real_names)} if real_names else {}),
            },
            method=method.name,
            config=method.settings.record(),
            models={kind: self.digests[kind] for kind in self.paths_of(method)} | dict(more_digests or {}),
            seed=self.options.seed,
            num_images=self.num_images,
            num_views=num_views,
            channels=self.dataset.channels,
            height=size,
            width=size,
            shard_images=self.shard_images,
            columns=columns,
            latent_shape=code_shape(self.paths["generator"]) if holds_codes else None,
            label_shape=self.dataset.label_shape,
            roles=method.entry.roles,
            versions=versions(),
        )

    def inversion_stage(self, given: Mapping[str, Any]) -> Stage:
        """Return the stage that makes, resumes or only checks the inversions."""
        method = self.settled("invert", given)
        spec = self.spec(method, 1)
        url = self.options.inversions
        if url is None:
            parent, _, _ = (self.options.out or _default_out(self.options)).rstrip("/").rpartition("/")
            name = inversions_name(self.dataset.name, self.dataset.split, spec.identity)
            url = f"{parent or '.'}/{name}"
        else:
            there = self._existing_inversions(url, spec)
            if given and there.identity != spec.identity:
                raise CacheMismatchError(
                    f"the inversions at {url} were made with other settings than those given "
                    f"({', '.join(INVERT_PREFIX + name for name in given)}):\n"
                    f"  there {there.config}\n  here  {spec.config}\n"
                    "leave the settings out, or give another --inversions URL"
                )
            spec = there
            method = Choice(method.entry, method.entry.settings.from_record(spec.config))
        return Stage(
            title="invert",
            url=absolute_url(url),
            spec=spec,
            method=method,
            model_paths=self.paths_of(method),
        )

    def _existing_inversions(self, url: str, wanted: CacheSpec) -> CacheSpec:
        """Return the specification at `url` if its codes fit this run, `wanted` if there is no cache."""
        try:
            there = read_spec(open_storage(absolute_url(url), self.options.storage_options))
        except MissingFileError:
            return wanted
        differences = [
            f"  {name}: the inversions have {getattr(there, name)}, this run needs {getattr(wanted, name)}"
            for name in ("method", "dataset", "models", "num_images", "latent_shape")
            if getattr(there, name) != getattr(wanted, name)
        ]
        if differences:
            raise CacheMismatchError(
                f"the inversions at {url} do not fit this run:\n" + "\n".join(differences) + "\ngive another "
                "--inversions URL, or leave the option out to have them made"
            )
        return there


def views_per_image(method: ViewEntry, views: int | None, *, option: str = "--views") -> int:
    """Return the number of views of an image.

    Args:
        method: entry of the method.
        views: the given number, or None.
        option: name of that choice in messages.

    Raises:
        UsageError: the method makes another number of views, or no cache.
    """
    if "training" in method.needs:
        use, frozen = f"use `viewgen train --generated {method.name}`", f"frozen-{method.name}"
        then = f", then --method {frozen}" if frozen in VIEWS.built_in else ""
        raise UsageError(f"{method.name} views are made in a training step; {use}{then}")
    if views is not None and views < 1:
        raise UsageError(f"{option} {views}: at least one view per image is needed")
    if method.num_views is None:
        return 8 if views is None else views
    if views not in (None, method.num_views):
        raise UsageError(f"{option} {views}: method {method.name!r} makes {method.num_views} per image")
    return method.num_views


def _refuse_ignored(method: ViewEntry, options: CacheOptions) -> None:
    """Refuse options that the method would ignore."""
    needs = _all_needs(method)
    for kind, path in options.networks.items():
        if path is not None and kind not in needs:
            raise UsageError(f"--{kind}: method {method.name!r} needs no {kind}")
    if options.models is not None and not needs:
        raise UsageError(f"--models: method {method.name!r} needs no networks")
    if options.inversions is not None and "inversions" not in method.needs:
        raise UsageError(f"--inversions: method {method.name!r} does not start from inversions")
    if options.keep_latents and not method.keeps_codes:
        raise UsageError(f"--keep-latents: method {method.name!r} makes no codes of views")
    if options.augment is not None and method.name != "expert":
        raise UsageError(f"--augment combines operations of expert views; method {method.name!r} ignores it")


def _all_needs(method: ViewEntry) -> frozenset[str]:
    """Return the networks that the method and its inversions need."""
    needs = method.needs
    if "inversions" in needs:
        needs |= VIEWS.entry("invert").needs
    return frozenset(needs & set(KINDS))


def _inputs(
    method: ViewEntry, options: CacheOptions, further: tuple[str, ...]
) -> tuple[ImageDataset, dict[str, Path]]:
    """Load the data set and find the networks; refuse networks for images of another size.

    Args:
        method: the method.
        options: options of `cache`.
        further: files of further encoders.
    """
    load = functools.partial(load_dataset, options.dataset, options.split, data_root=options.data_root)
    elsewhere = lies_elsewhere(options.dataset, options.data_root)
    try:
        dataset = load(download=elsewhere)
    except MissingFileError:
        if elsewhere:
            raise
        # without networks there is no use in downloading images
        _model_paths(method, options, options.dataset)
        dataset = load()
    paths = _model_paths(method, options, dataset.name)
    paths |= {further_encoder(place): Path(file).expanduser() for place, file in enumerate(further)}
    for name, path in paths.items():
        header, kind = read_header(path), name.partition(":")[0]
        if header["kind"] != kind:
            raise ModelError(f"{path} holds a network of kind {header['kind']!r}; it was given as the {kind}")
        size = header["config"].get("image_size")
        if size != dataset.image_size:
            raise ModelError(
                f"the {kind} at {path} is for images of {size} px, data set {dataset.name!r} has "
                f"{dataset.image_size} px; give one of that size (--{kind} FILE, --models DIR) or train it "
                "with `viewgen pretrain`"
            )
    _check_classes(dataset, paths)
    return dataset, paths


def _check_classes(dataset: ImageDataset, paths: Mapping[str, Path]) -> None:
    """Refuse a class-conditional generator with classes that the images' labels or the inverter lack."""
    if not {"generator", "inverter"} <= paths.keys():
        return
    classes = {
        kind: read_header(paths[kind])["config"].get("num_classes", 0) for kind in ("generator", "inverter")
    }
    if classes["generator"] != classes["inverter"]:
        raise ModelError(
            f"the generator at {paths['generator']} has {classes['generator']} classes, the inverter at "
            f"{paths['inverter']} has {classes['inverter']}; train an inverter for this generator with "
            "`viewgen pretrain inverter`"
        )
    if classes["generator"] and (dataset.label_shape or dataset.num_classes > classes["generator"]):
        raise ModelError(
            f"the generator at {paths['generator']} is conditional on {classes['generator']} classes; the "
            f"images of {dataset.name!r} have {dataset.num_classes} classes and labels of shape "
            f"{dataset.label_shape}"
        )


def _model_paths(method: ViewEntry, options: CacheOptions, dataset_name: str) -> dict[str, Path]:
    needs = _all_needs(method)
    if not needs:
        return {}
    overrides: dict[str, str | Path] = {kind: path for kind, path in options.networks.items() if path}
    if options.models is not None and "://" in options.models:
        folder = options.models.rstrip("/")
        for kind in needs:
            overrides.setdefault(kind, f"{folder}/{kind}.safetensors")
    for kind, path in overrides.items():
        if "://" in str(path):
            overrides[kind] = download(str(path), options.storage_options, options.data_root)
    find = functools.partial(find_models, dataset_name, models_dir=options.models, overrides=overrides)
    if INVERSION & needs:
        with contextlib.suppress(MissingFileError):  # the message is that of all networks together
            needs -= INVERSION - networks_beside(find({"generator"})["generator"])
    return find(needs)


def _default_out(options: CacheOptions) -> str:
    name = file_name(f"{options.dataset}-{options.split}-{options.method}.zarr")
    return f"{cache_folder()}/{name}"
