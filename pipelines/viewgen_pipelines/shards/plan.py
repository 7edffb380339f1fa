"""From the options of `cache` to what exactly will be made; refusals come before anything is written."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import CacheMismatchError, MissingFileError, ModelError, UsageError
from viewgen.networks.files import NETWORKS, file_digest, read_header
from viewgen.networks.stylegan2 import num_style_layers
from viewgen.recipes import recipe
from viewgen.store import CacheSpec, cache_folder, default_shard_images, open_storage, read_spec
from viewgen.views.methods import METHODS, MethodSpec, config_fields, method_spec
from viewgen_pipelines.names import absolute_url, file_name, inversions_name
from viewgen_pipelines.shards.driver import Stage
from viewgen_pipelines.shards.inputs import download
from viewgen_pipelines.versions import versions

__all__ = ["METHOD_OPTIONS", "CacheOptions", "CachePlan", "make_plan"]

# Options of the command that are settings of some methods.
METHOD_OPTIONS = (
    "epsilon_boundary",
    "epsilon_uniformity",
    "uniformity_weight",
    "max_steps",
    "sigma",
    "anchor",
    "solver",
    "precision",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheOptions:
    """The options of `cache` that say what is made; see there."""

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
    method_settings: Mapping[str, Any]
    inversions: str | None
    keep_latents: bool
    shard_images: int | None
    storage_options: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """What a run makes: the stages in order, the last of which is the cache asked for."""

    stages: tuple[Stage, ...]
    dataset: ImageDataset

    @property
    def target(self) -> Stage:
        return self.stages[-1]


def make_plan(options: CacheOptions, say: Callable[[str], object]) -> CachePlan:
    """Check the options and resolve them.

    Args:
        options: as given.
        say: is told what takes time (a calibration).

    Raises:
        UsageError: an unknown name, a value out of range, an option that the method ignores.
        DataError, MissingFileError: the data set or the weights are not there.
        ModelError: a network does not fit the data set.
        CacheMismatchError: the inversions at ``inversions`` are those of other images or networks.
    """
    method = method_spec(options.method)
    num_views = _num_views(method, options.views)
    _refuse_ignored(method, options)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit}: at least one image is needed")
    dataset, paths = _inputs(method, options)
    num_images = min(options.limit or len(dataset), len(dataset))
    shard_images = options.shard_images
    if shard_images is None:
        shard_images = automatic_shard_images(num_images, dataset.image_size, num_views)
    if shard_images < 1:
        raise UsageError(f"--shard-images {shard_images}: at least one image per shard is needed")
    maker = _SpecMaker(options, dataset, num_images, shard_images, paths)

    stages = []
    inversions_url, digests = None, {}
    if "inversions" in method.needs:
        inversion = maker.inversion_stage()
        stages.append(inversion)
        inversions_url, digests = inversion.url, {"inversions": inversion.spec.identity}
    config = _config(method, options, dataset, paths, say)
    spec = maker.spec(method, config, num_views, keep_latents=options.keep_latents, more_digests=digests)
    stages.append(
        Stage(
            title=method.name,
            url=absolute_url(options.out or _default_out(options)),
            spec=spec,
            method=method,
            config=config,
            model_paths=maker.paths_of(method, config),
            inversions_url=inversions_url,
        )
    )
    return CachePlan(stages=tuple(stages), dataset=dataset)


def automatic_shard_images(num_images: int, image_size: int, num_views: int) -> int:
    """Return S, whatever the number of workers: about twelve shards of 16 to 512 images, below 50 MB each."""
    share = min(max(num_images // 12, 16), 512)
    return min(1 << (share.bit_length() - 1), default_shard_images(3 * image_size**2, num_views))


class _SpecMaker:
    """Specifications of the caches of one run: they share images, rows, shards and networks."""

    def __init__(
        self,
        options: CacheOptions,
        dataset: ImageDataset,
        num_images: int,
        shard_images: int,
        paths: Mapping[str, Path],
    ) -> None:
        self.options = options
        self.dataset = dataset
        self.num_images = num_images
        self.shard_images = shard_images
        self.paths = paths
        self.digests = {kind: file_digest(path) for kind, path in paths.items()}

    def paths_of(self, method: MethodSpec, config: Any) -> dict[str, str]:
        """Return kind → file of the networks that the method uses with this configuration."""
        needs = method.needs
        if getattr(config, "perceptual", "discriminator") != "discriminator":
            needs -= {"discriminator"}  # it only serves the perceptual distance
        return {kind: str(path.absolute()) for kind, path in self.paths.items() if kind in needs}

    def spec(
        self,
        method: MethodSpec,
        config: Any,
        num_views: int,
        *,
        keep_latents: bool = False,
        more_digests: Mapping[str, str] | None = None,
    ) -> CacheSpec:
        arrays = (*method.arrays, *(("w_plus",) if keep_latents else ()))
        size = self.dataset.image_size
        return CacheSpec(
            dataset={
                "name": self.dataset.name,
                "split": self.dataset.split,
                "digest": self.dataset.digest,
                "num_images": len(self.dataset),
                "images": {"first": self.num_images},
            },
            method=method.name,
            config=dataclasses.asdict(config),
            models={kind: self.digests[kind] for kind in self.paths_of(method, config)}
            | dict(more_digests or {}),
            seed=self.options.seed,
            num_images=self.num_images,
            num_views=num_views,
            channels=self.dataset.channels,
            height=size,
            width=size,
            shard_images=self.shard_images,
            arrays=arrays,
            latent_shape=self._latent_shape() if arrays else None,
            label_shape=self.dataset.label_shape,
            versions=versions(),
        )

    def inversion_stage(self) -> Stage:
        """Return the stage that makes, resumes or only checks the inversions."""
        method = METHODS["invert"]
        config = method.config(**_resolved_inversion(recipe(self.dataset.name, "invert"), self.paths))
        spec = self.spec(method, config, 1)
        url = self.options.inversions
        if url is None:
            parent, _, _ = (self.options.out or _default_out(self.options)).rstrip("/").rpartition("/")
            name = inversions_name(self.dataset.name, self.dataset.split, spec.identity)
            url = f"{parent or '.'}/{name}"
        else:
            spec = self._existing_inversions(url, spec)
            config = method.config(**spec.config)
        return Stage(
            title="invert",
            url=absolute_url(url),
            spec=spec,
            method=method,
            config=config,
            model_paths=self.paths_of(method, config),
        )

    def _existing_inversions(self, url: str, wanted: CacheSpec) -> CacheSpec:
        """Return the specification at `url` if its codes fit this run, the wanted one if nothing is there."""
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

    def _latent_shape(self) -> tuple[int, int]:
        config = read_header(self.paths["generator"])["config"]
        return num_style_layers(config["image_size"]), config["style_dim"]


def _num_views(method: MethodSpec, views: int | None) -> int:
    if views is not None and views < 1:
        raise UsageError(f"--views {views}: at least one view per image is needed")
    if method.num_views is None:
        return 8 if views is None else views
    if views not in (None, method.num_views):
        raise UsageError(f"--views {views}: method {method.name!r} makes {method.num_views} per image")
    return method.num_views


def _refuse_ignored(method: MethodSpec, options: CacheOptions) -> None:
    """Refuse options that the method would ignore."""
    known = config_fields(method)
    given = [name for name, value in options.method_settings.items() if value is not None]
    for name in given:
        if name not in known:
            users = [other for other, spec in METHODS.items() if name in config_fields(spec)]
            raise UsageError(
                f"{_flag(name)} is an option of {', '.join(users)}; method {method.name!r} ignores it"
            )
    needs = _all_needs(method)
    for kind, path in options.networks.items():
        if path is not None and kind not in needs:
            raise UsageError(f"{_flag(kind)}: method {method.name!r} needs no {kind}")
    if options.inversions is not None and "inversions" not in method.needs:
        raise UsageError(f"--inversions: method {method.name!r} does not start from inversions")
    if options.keep_latents and ("generator" not in method.needs or method.arrays):
        raise UsageError(f"--keep-latents: method {method.name!r} makes no codes of views")


def _all_needs(method: MethodSpec) -> frozenset[str]:
    """Return the networks that the method and its inversions need."""
    needs = method.needs
    if "inversions" in needs:
        needs |= METHODS["invert"].needs
    return needs & NETWORKS.keys()


def _inputs(method: MethodSpec, options: CacheOptions) -> tuple[ImageDataset, dict[str, Path]]:
    """Load the data set and find the networks; refuse those made for images of another size."""
    load = functools.partial(load_dataset, options.dataset, options.split, data_root=options.data_root)
    try:
        dataset = load(download=False)
    except MissingFileError:
        # without networks there is no use in downloading images
        _model_paths(method, options, options.dataset)
        dataset = load()
    paths = _model_paths(method, options, dataset.name)
    for kind, path in paths.items():
        header = read_header(path)
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
    """Refuse a class-conditional generator whose classes the images' labels, or the inverter, do not have."""
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


def _model_paths(method: MethodSpec, options: CacheOptions, dataset_name: str) -> dict[str, Path]:
    needs = _all_needs(method)
    if not needs:
        return {}
    from viewgen_pretrained.hub import find_models

    overrides: dict[str, str | Path] = {kind: path for kind, path in options.networks.items() if path}
    if options.models is not None and "://" in options.models:
        folder = options.models.rstrip("/")
        for kind in needs:
            overrides.setdefault(kind, f"{folder}/{kind}.safetensors")
    for kind, path in overrides.items():
        if "://" in str(path):
            overrides[kind] = download(str(path), options.storage_options, options.data_root)
    return find_models(dataset_name, needs, models_dir=options.models, overrides=overrides)


def _config(
    method: MethodSpec,
    options: CacheOptions,
    dataset: ImageDataset,
    paths: Mapping[str, Path],
    say: Callable[[str], object],
) -> Any:
    """Return the method's configuration: its defaults, the data set's recipe, the options given."""
    values = dict(recipe(dataset.name, method.name))
    values |= {name: value for name, value in options.method_settings.items() if value is not None}
    if values.get("epsilon_boundary") == "auto":
        say("calibrating ε₁")
        values["epsilon_boundary"] = _calibrated_boundary(dataset, paths["encoder"], options.seed)
        say(f"ε₁ = {values['epsilon_boundary']}")
    if "perceptual" in config_fields(method):
        values = _resolved_inversion(values, paths)
    return method.config(**values)


def _calibrated_boundary(dataset: ImageDataset, encoder_path: Path, seed: int) -> float:
    """Return ε₁ to three digits, so that rounding on another machine does not make another configuration."""
    from viewgen.diagnostics.calibration import calibrate
    from viewgen.networks.files import load_models
    from viewgen.views.expert import ExpertConfig

    models = load_models({"encoder": encoder_path})
    assert models.encoder is not None
    expert = ExpertConfig(**recipe(dataset.name, "expert"))
    return round(calibrate(models.encoder, dataset, expert, seed=seed).epsilon_boundary, 3)


def _resolved_inversion(values: Mapping[str, Any], paths: Mapping[str, Path]) -> dict[str, Any]:
    """Settle what ``perceptual="auto"`` stands for, so that the configuration says what was done."""
    from viewgen.inversion.perceptual import resolve_perceptual

    name = values.get("perceptual", "auto")
    return {**values, "perceptual": resolve_perceptual(name, has_discriminator="discriminator" in paths)}


def _default_out(options: CacheOptions) -> str:
    name = file_name(f"{options.dataset}-{options.split}-{options.method}.zarr")
    return f"{cache_folder()}/{name}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
