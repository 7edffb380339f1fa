"""`viewgen cache` as a function: generate the views of a data set and store them."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from viewgen.device import resolve_device
from viewgen.errors import MissingFileError, UsageError
from viewgen.extras import installed
from viewgen.memory import BatchSize
from viewgen.progress import Progress
from viewgen.redaction import public_url
from viewgen.store import (
    CacheReader,
    CacheSpec,
    Storage,
    create_cache,
    open_storage,
    pending_shards,
    read_spec,
)
from viewgen.terminal import shortened
from viewgen_pipelines.cost import cache_costs, cost_lines, expected_workers
from viewgen_pipelines.executors import Executor, check_executor, open_executor
from viewgen_pipelines.quality import cache_quality, check_strict, quality_lines
from viewgen_pipelines.report import CacheResult, make_result, report_lines
from viewgen_pipelines.shards.driver import Stage, StageResult, run_stage
from viewgen_pipelines.shards.plan import CacheOptions, CachePlan, make_plan
from viewgen_pipelines.sheet import draw_contact_sheet

__all__ = ["cache"]


def cache(
    dataset: str,
    *,
    method: str = "wsearch",
    views: int | None = None,
    out: str | None = None,
    split: str = "train",
    limit: int | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    batch_size: BatchSize = None,
    ray_address: str | None = None,
    executor: Literal["ray", "local"] = "ray",
    seed: int = 0,
    dry_run: bool = False,
    estimate: bool = False,
    overwrite: bool = False,
    storage_options: dict[str, Any] | None = None,
    data_root: str | None = None,
    generator: str | None = None,
    inverter: str | None = None,
    encoder: str | None = None,
    discriminator: str | None = None,
    models: str | None = None,
    inversions: str | None = None,
    keep_latents: bool = False,
    shard_images: int | None = None,
    max_attempts: int = 3,
    hang_timeout: float = 3600.0,
    gallery: bool = False,
    quality: bool = False,
    strict: bool = False,
    quiet: bool = False,
    progress: Progress | None = None,
    augment: str | None = None,
    **settings: Any,
) -> CacheResult:
    """Make the views of a data set, or resume an earlier run of the same configuration.

    The same options give the same views, whatever the executor, the number of workers, the batch size or the
    number of interruptions. Damaged shards of an existing cache are found and made again; beyond 4 GiB, those
    whose objects are missing or of another size.

    Args:
        dataset: name of the data set.
        method: name of the view method; its needs and its defaults for the data set are looked up.
        views: V, views per image; 8 unless the method fixes it.
        out: URL of the cache; by default ``<dataset>-<split>-<method>.zarr`` in ``$VIEWGEN_CACHE`` or the
            user's cache folder.
        split: split of the data set.
        limit: number of images, taken from the start of the split; by default all.
        workers: number of shards made at the same time; by default one per GPU, or one per core without GPUs.
        gpus_per_worker: GPUs of each worker, fractions allowed; by default 1 where there are GPUs, else 0.
        batch_size: images optimised at once in a worker; changes the memory used, not the views. By default
            one group, the smallest; ``"auto"`` for as many as fit into the free memory.
        ray_address: address of a running Ray cluster; by default Ray is started on this machine.
        executor: ``"ray"``, or ``"local"`` for one worker in this process.
        seed: root of all random numbers.
        dry_run: check everything and report what would be made, but write nothing.
        estimate: estimate the time in a dry run, from a few images that are made and thrown away.
        overwrite: replace a cache of another configuration at `out`.
        storage_options: options of the fsspec file system of `out` and `inversions`.
        data_root: folder of the data sets.
        generator, inverter, encoder, discriminator: weight files that replace the data set's own.
        models: folder of a `viewgen pretrain` run with the weights.
        inversions: URL of the cache of inversions, made there if it does not exist; by default beside `out`.
        keep_latents: store the codes of the views too.
        shard_images: S, images per shard; by default about twelve shards of 16 to 512 images.
        max_attempts: failures after which a shard is given up (quarantined).
        hang_timeout: seconds after which the worker of an unfinished shard is ended.
        gallery: with Ray, serve a gallery of the cache (`viewgen inspect`) while it grows.
        quality: measure the views of a sample of the images at the end, and give a verdict.
        strict: give the verdict that views cannot be trusted where none of them could be measured, too.
        quiet: write nothing to standard error.
        progress: display of the progress; by default messages and bars on standard error.
        augment: combination of expert operations (see `viewgen.views.compositions`), in the place of the data
            set's recipe.
        settings: settings of the method, by name (`viewgen list settings METHOD`); ``invert.NAME`` is a
            setting of the inversion that precedes it.

    Returns:
        The result; shards and samples that could not be made are in its `quarantined`.

    Raises:
        UsageError: an option is wrong.
        CacheMismatchError: `out` holds a cache of another configuration; the message lists the differences.
        LeaseError: another run is writing the cache.
        DataError, MissingFileError, ModelError: the data set or the weights are missing or do not fit.
        StorageError: a URL cannot be read or written.
        CorruptDataError: a cache is damaged beyond repair by making shards again.
    """
    start = time.monotonic()
    progress = progress or Progress(quiet=quiet, logger=__name__)
    options = CacheOptions(
        dataset=dataset,
        method=method,
        views=views,
        out=out,
        split=split,
        limit=limit,
        seed=seed,
        data_root=data_root,
        models=models,
        networks={
            "generator": generator,
            "inverter": inverter,
            "encoder": encoder,
            "discriminator": discriminator,
        },
        settings={name: value for name, value in settings.items() if value is not None},
        inversions=inversions,
        keep_latents=keep_latents,
        shard_images=shard_images,
        storage_options=storage_options or {},
        augment=augment,
    )
    execution: dict[str, Any] = {
        "workers": workers,
        "gpus_per_worker": gpus_per_worker,
        "ray_address": ray_address,
    }
    check_executor(executor, **execution)
    check_strict(strict, quality)
    _check_limits(batch_size, max_attempts, hang_timeout)
    plan = make_plan(options, progress.say)
    _check_places(plan, executor)
    if dry_run:
        preview, pending = _preview(plan, storage_options or {}, progress, batch_size)
        if not estimate:
            return preview
        workers = expected_workers(executor, workers, plan.target.spec.num_shards)
        return dataclasses.replace(preview, estimate=_estimated(plan, pending, workers, progress))
    run = _Run(plan, options, progress, max_attempts=max_attempts, overwrite=overwrite)
    run.quality, run.strict = quality, strict
    run.settings = {"data_root": data_root, "batch_size": batch_size, "hang_seconds": hang_timeout}
    run.look()
    gallery = gallery and executor == "ray" and installed("gallery")
    shown = _gallery_options(plan, options) if gallery else None
    num_shards = plan.target.spec.num_shards
    with (
        open_executor(executor, max_workers=num_shards, say=progress.say, **execution) as chosen,
        _served(shown, chosen, progress.say),
    ):
        return run.run(chosen, start)


class _Run:
    def __init__(
        self,
        plan: CachePlan,
        options: CacheOptions,
        progress: Progress,
        *,
        max_attempts: int,
        overwrite: bool,
    ) -> None:
        self.plan = plan
        self.storage_options = options.storage_options
        self.progress = progress
        self.max_attempts = max_attempts
        self.overwrite = overwrite
        self.settings: dict[str, Any] = {}
        self.quality = self.strict = False

    def look(self) -> None:
        """Report a wrong URL or a cache of another configuration before anything is started or written."""
        for stage in self.plan.stages:
            storage = open_storage(stage.url, self.storage_options)
            if not (self.overwrite and stage is self.plan.target):
                _pending(storage, stage.spec)

    def run(self, executor: Executor, start: float) -> CacheResult:
        storage = open_storage(self.plan.target.url, self.storage_options)
        if not (self.overwrite and storage.exists("zarr.json")):
            # a place that cannot be written shows before the inversions have taken their time
            create_cache(storage, self.plan.target.spec)
        blocked: dict[int, str] = {}
        for stage in self.plan.stages[:-1]:
            inversions = self._stage(stage, executor, {})
            blocked = _blocked(self.plan.target.spec, stage, inversions)
        target = self.plan.target
        result = self._stage(target, executor, blocked, overwrite=self.overwrite)
        reader = CacheReader(target.url, self.storage_options)
        summary = make_result(target, result, reader, time.monotonic() - start)
        try:
            sheet = draw_contact_sheet(self.plan, reader, self.storage_options)
            summary = dataclasses.replace(summary, contact_sheet=sheet)
        except OSError as error:
            self.progress.say(f"the contact sheet could not be written: {error}")
        for line in report_lines(target, result, summary, reader):
            self.progress.say(line)
        return self._judged(summary, result, reader) if self.quality else summary

    def _judged(self, summary: CacheResult, result: StageResult, reader: CacheReader) -> CacheResult:
        """Return the summary with the quality of the views."""
        found = cache_quality(
            self.plan.target,
            reader,
            self.plan.dataset,
            storage_options=self.storage_options,
            progress=self.progress,
            again=result.num_new_images > 0,
        )
        if found is None:
            return summary
        for line in quality_lines(found):
            self.progress.say(f"  {line}")
        reasons = list(found.verdict)
        if self.strict and not found.measured:
            reasons.append("none of their qualities could be measured")
        return dataclasses.replace(
            summary,
            quality=[row.to_json() for row in found.measured],
            verdict=reasons,
            notes=[*summary.notes, *(() if found.measured else found.notes)],
        )

    def _stage(
        self, stage: Stage, executor: Executor, blocked: dict[int, str], *, overwrite: bool = False
    ) -> StageResult:
        return run_stage(
            stage,
            executor,
            dataset=self.plan.dataset,
            storage_options=self.storage_options,
            progress=self.progress,
            job_settings=self.settings,
            max_attempts=self.max_attempts,
            overwrite=overwrite,
            blocked=blocked,
        )


def _check_limits(batch_size: BatchSize, max_attempts: int, hang_timeout: float) -> None:
    for flag, count in (
        ("--batch-size", 1 if batch_size == "auto" else batch_size),
        ("--max-attempts", max_attempts),
    ):
        if count is not None and count < 1:
            raise UsageError(f"{flag} {count}: expected at least 1")
    if not hang_timeout > 0:
        raise UsageError(f"--hang-timeout {hang_timeout:g}: expected a positive number of seconds")


def _check_places(plan: CachePlan, executor: str) -> None:
    for stage in plan.stages:
        if stage.url.startswith("memory://") and executor != "local":
            raise UsageError(
                f"{stage.url} lives in the memory of one process, which Ray's workers do not share; add "
                "--executor local, or use a path or s3://"
            )
    urls = [stage.url for stage in plan.stages]
    if len(set(urls)) != len(urls):
        raise UsageError(f"the views and the inversions cannot both lie at {urls[0]}; give another --out")


def _gallery_options(plan: CachePlan, options: CacheOptions) -> Any:
    from viewgen_pipelines.gallery.serve import GalleryOptions

    return GalleryOptions(
        url=plan.target.url,
        storage_options=options.storage_options,
        data_root=options.data_root,
        inversions=plan.target.inversions_url,
        models=options.models,
    )


@contextlib.contextmanager
def _served(options: Any, executor: Executor, say: Callable[[str], object]) -> Iterator[None]:
    """Serve a gallery in the executor's Ray session; do nothing if `options` is None."""
    if options is None:
        yield
        return
    from viewgen_pipelines.gallery.serve import BackgroundGallery

    with contextlib.closing(BackgroundGallery(options, own=executor.owns_session, say=say)):
        yield


def _blocked(spec: CacheSpec, stage: Stage, inversions: StageResult) -> dict[int, str]:
    """Return shard id → reason of the shards with rows whose inversions were given up."""
    reasons = {}
    for lost, reason in inversions.quarantined.items():
        rows = stage.spec.shard_rows(lost)
        for shard_id in range(rows[0] // spec.shard_images, rows[-1] // spec.shard_images + 1):
            reasons[shard_id] = (
                f"its inversions were given up (shard {lost} of {public_url(stage.url)}): {reason}"
            )
    return reasons


def _preview(
    plan: CachePlan, storage_options: dict[str, Any], progress: Progress, batch_size: BatchSize
) -> tuple[CacheResult, list[int]]:
    """Report what would be made and how much of it exists; write nothing.

    Returns:
        the result, and the number of images to be made in each stage.
    """
    images = []
    for stage in plan.stages:
        spec = stage.spec
        storage = open_storage(stage.url, storage_options)
        pending = _pending(storage, spec)
        images.append(min(pending * spec.shard_images, spec.num_images))
        num_bytes = sum(layout.row_bytes for layout in spec.array_layout().values()) * spec.num_images
        progress.say(
            f"{stage.title}: {spec.num_images} images × {spec.num_views} views of {spec.height} px, "
            f"{num_bytes / 1e6:,.1f} MB, in {spec.num_shards} shards of {spec.shard_images} images, "
            f"{pending} of them to be made, at {storage.url}"
        )
        config = ", ".join(f"{key}={shortened(value)}" for key, value in spec.config.items())
        progress.say(f"  config: {config}")
        for kind, path in stage.model_paths.items():
            progress.say(f"  {kind}: {path}")
    words: dict[BatchSize, str] = {None: "one group", "auto": "as many as each worker finds room for"}
    at_once = words.get(batch_size, str(batch_size))
    progress.say(f"images at once: {at_once} (--batch-size; it does not change the views)")
    target = plan.target
    result = CacheResult(
        url=open_storage(target.url, storage_options).url,
        num_images=target.spec.num_images,
        num_views=target.spec.num_views,
        epsilon_boundary=target.spec.config.get("epsilon_boundary"),
        precision=target.spec.config.get("precision"),
        converged_share=0.0,
        mean_pairwise=None,
        seconds=0.0,
        views_per_second=None,
        quarantined=[],
    )
    return result, images


def _estimated(
    plan: CachePlan, pending: list[int], workers: int, progress: Progress
) -> list[dict[str, Any]] | None:
    """Report the time of the stages, from a few images; None if they could not be made."""
    progress.say("making a few images to estimate the time (--no-estimate leaves that out)")
    try:
        costs = cache_costs(plan, pending, workers=workers, device=resolve_device())
    except Exception as error:  # a dry run that fails for the sake of an estimate helps nobody
        progress.say(f"time: not known: {type(error).__name__}: {error}")
        return None
    for line in cost_lines(costs):
        progress.say(line)
    return [cost.to_json() for cost in costs]


def _pending(storage: Storage, spec: CacheSpec) -> int:
    """Return the number of missing shards; raise the errors that the run itself would raise for the URL."""
    try:
        there = read_spec(storage)
    except MissingFileError:
        return spec.num_shards
    if there.identity != spec.identity:
        create_cache(storage, spec)  # raises, with the differences, before it writes
    return len(pending_shards(storage, spec))
