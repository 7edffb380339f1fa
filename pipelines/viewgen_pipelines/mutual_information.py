"""`viewgen mi` as a function: the mutual information of the views of a data set."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.diagnostics.mutual_information import MIConfig
from viewgen.documents import parse_json
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.networks.files import file_digest
from viewgen.networks.weights import find_models
from viewgen.progress import Progress
from viewgen.recipes import recipe
from viewgen.registry import Choice
from viewgen.roles import Role
from viewgen.store import CacheReader, Storage, cache_folder, file_name, open_storage
from viewgen.views import VIEWS
from viewgen.views.compositions import dataset_expert, expert_values, refuse_colorless
from viewgen_pipelines.executors import check_executor, open_executor
from viewgen_pipelines.mi_report import caveat_lines, write_reports
from viewgen_pipelines.names import absolute_url, cache_name
from viewgen_pipelines.tasks import run_tasks
from viewgen_pipelines.view_pairs import EXPERT, ORIGINAL, PairResult, PairTask, ViewRef, run_pair

__all__ = ["MIResult", "mi"]

RESULTS = "pairs"
# of views that are no images of the data set, or parts of one, an encoder of images says nothing
NO_ENCODER: dict[str, Any] = {"encoder": None, "encoder_digest": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class MIResult:
    """The pairs of a run.

    Attributes:
        estimator: estimator that the statistics network was trained for.
        pairs: results: first the pairs by name, then (original, expert), then per cache (original, method)
            and (method, expert), or its two views if they are a pair.
        url: URL of the folder with the results, the table (``mi.csv``) and the plot (``mi.png``).
        num_images: number of images whose views were compared.
    """

    estimator: str
    pairs: tuple[PairResult, ...]
    url: str
    num_images: int

    @property
    def complete(self) -> bool:
        """True if no pair was refused."""
        return not any(pair.refused for pair in self.pairs)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"estimator", "pairs": [{"x", "y", "nats", "low", "high", …}]}``, all in nats."""
        entries = []
        for pair in self.pairs:
            measured = pair.estimate
            entries.append(
                {
                    "x": pair.x,
                    "y": pair.y,
                    "nats": None if measured is None else measured.nats,
                    "low": None if measured is None else measured.low,
                    "high": None if measured is None else measured.high,
                    "warnings": [pair.refused] if measured is None else list(measured.warnings),
                    "bounds": {}
                    if measured is None
                    else {name: dataclasses.asdict(bound) for name, bound in measured.bounds.items()},
                    "ceiling": None if measured is None else measured.ceiling,
                    "num_held_out": None if measured is None else measured.num_held_out,
                    "alignment": pair.alignment,
                    "uniformity_x": pair.uniformity_x,
                    "uniformity_y": pair.uniformity_y,
                }
            )
        return {"estimator": self.estimator, "pairs": entries}


def mi(
    dataset: str,
    *,
    cache: Sequence[str] = (),
    pair: Sequence[str] = (),
    estimator: str = "mine",
    critic: Literal["concatenated", "separable"] | None = None,
    split: str = "train",
    limit: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    separate_trunks: bool = False,
    encoder: str | None = None,
    models: str | None = None,
    bits: bool = False,
    out: str | None = None,
    overwrite: bool = False,
    executor: Literal["ray", "local"] = "ray",
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    seed: int = 0,
    storage_options: dict[str, Any] | None = None,
    data_root: str | None = None,
    quiet: bool = False,
    augment: str | None = None,
) -> MIResult:
    """Estimate the mutual information of the views of a data set, pair by pair.

    Pairs that an earlier run with the same settings has measured are read from `out`. All pairs are measured
    on the same images: those of which every cache has views.

    Args:
        dataset: name of the data set.
        cache: URLs of caches of its views; without one and without a pair, only (original, expert) is
            measured.
        pair: view sources that make two views of an image, such as ``"color:YDbDr"``, ``"frequency:1.0"`` or
            ``"expert"``: the two are measured. With pairs and no cache, nothing else is.
        estimator: estimator that the statistics network is trained for, ``"mine"``, ``"infonce"``, ``"nwj"``
            or ``"smile"``; the others are evaluated on the same network.
        critic: score of a pair of views: a network of both, or the product of unit vectors of either, as
            contrastive training has it; concatenated unless the recipe says otherwise.
        split: split of the data set.
        limit: number of images, taken from the start; by default all.
        steps: updates of the statistics network; 400 unless the data set's recipe says otherwise.
        batch_size: images per update, and K of InfoNCE; 128 unless the recipe says otherwise.
        separate_trunks: one trunk for each of the two views in place of a shared one.
        encoder: weights for alignment and uniformity of views of whole images; by default the data set's
            own, if there are any.
        models: folder of a `viewgen pretrain` run with the encoder.
        bits: tables, CSV and plot in bits; JSON always holds nats.
        out: URL of a folder for results, table and plot; by default ``mi-<dataset>-<split>`` in
            ``$VIEWGEN_CACHE`` or the user's cache folder.
        overwrite: measure every pair again.
        executor: ``"ray"``, or ``"local"`` for one pair after the other in this process.
        workers: number of pairs at once; by default one per GPU, or one per core without GPUs.
        gpus_per_worker: GPUs per worker; by default 1 where there are GPUs, else 0.
        ray_address: address of a running Ray cluster, whose nodes must have the data set and the encoder; by
            default Ray is started on this machine.
        seed: root of all random numbers.
        storage_options: options of the fsspec file system of `cache` and `out`.
        data_root: folder of the data sets.
        quiet: write nothing to standard error.
        augment: combination of operations of the expert views (see `viewgen.views.compositions`) in the place
            of the data set's recipe.

    Raises:
        UsageError: an option is wrong.
        DataError: a cache holds other images or other sizes, or there are fewer images than a batch needs.
        MissingFileError: a cache, data set or encoder is not there.
    """
    progress = Progress(quiet=quiet, logger=__name__)
    execution: dict[str, Any] = {
        "workers": workers,
        "gpus_per_worker": gpus_per_worker,
        "ray_address": ray_address,
    }
    check_executor(executor, **execution)
    expert = dataset_expert(dataset, augment)
    images = load_dataset(dataset, split, data_root=data_root)
    refuse_colorless(augment, images)
    settings: dict[str, Any] = {
        **{"estimator": estimator, "critic": critic, "num_steps": steps, "batch_size": batch_size}
    }
    given = {name: value for name, value in settings.items() if value is not None}
    config = MIConfig(
        **{**recipe(dataset, "mutual_information"), **given, "shared_trunk": not separate_trunks}
    ).resolved(vectors=False)
    weights = _encoder(dataset, encoder, models, progress)
    urls = [absolute_url(url) for url in cache]
    if executor == "ray" and any(url.startswith("memory://") for url in urls):
        raise UsageError("a memory:// cache is not shared with Ray's workers; add --executor local")
    readers = [CacheReader(url, storage_options) for url in urls]
    chosen_images = _images(images, readers, limit, config, seed, progress)
    common: dict[str, Any] = {
        "dataset": dataset,
        "split": images.split,
        "dataset_digest": images.digest,
        "data_root": data_root,
        "source_index": chosen_images,
        "config": config,
        "expert": expert,
        "encoder": None if weights is None else str(weights),
        "encoder_digest": None if weights is None else file_digest(weights),
        "seed": seed,
        "storage_options": storage_options or {},
    }
    tasks = [
        PairTask(**common | task)
        for task in _made_together(pair, dataset, images, chosen_images, augment, config)
    ]
    if urls or not pair:
        tasks += [
            PairTask(
                **common
                | {"x": x, "y": y, "config": config.of_roles(roles)}
                | (NO_ENCODER if x.view is not None else {})
            )
            for x, y, roles in _pairs(urls, readers)
        ]
    storage = open_storage(out or _default_out(dataset, images.split), storage_options)
    results = _measure(tasks, storage, progress, {"executor": executor, **execution}, overwrite=overwrite)
    result = MIResult(
        estimator=estimator, pairs=tuple(results), url=storage.url, num_images=len(chosen_images)
    )
    write_reports(storage, estimator, results, f"{images.name} {images.split}", bits=bits)
    for line in caveat_lines(results):
        progress.say(line)
    return result


def _measure(
    tasks: list[PairTask],
    storage: Storage,
    progress: Progress,
    execution: dict[str, Any],
    *,
    overwrite: bool,
) -> list[PairResult]:
    """Return the result of every task: read if it exists, else measured and stored."""
    results = {} if overwrite else dict(_finished(tasks, storage))
    missing = [number for number in range(len(tasks)) if number not in results]
    if results:
        progress.say(f"{len(results)} of {len(tasks)} pairs were measured before, in {storage.url}")
    if missing:
        todo = [tasks[number] for number in missing]
        names = [f"({task.x.label}, {task.y.label})" for task in todo]
        with open_executor(max_workers=len(todo), say=progress.say, **execution) as chosen:
            for place, measured in run_tasks(
                chosen, run_pair, todo, title="mi", names=names, noun="pairs", progress=progress
            ):
                results[missing[place]] = measured
                if not measured.refused:
                    document = {"address": todo[place].address, **measured.to_json()}
                    storage.write(_path(todo[place]), json.dumps(document, indent=1).encode())
    return [results[number] for number in range(len(tasks))]


def _finished(tasks: list[PairTask], storage: Storage) -> Iterator[tuple[int, PairResult]]:
    for number, task in enumerate(tasks):
        try:
            document = parse_json(storage.read(_path(task)), _path(task))
            if document.pop("address") == task.address:
                found = PairResult.from_json(document)
                # labels follow the caches named in this run
                yield number, dataclasses.replace(found, x=task.x.label, y=task.y.label)
        except (MissingFileError, ValueError, LookupError, TypeError, AttributeError):
            continue  # absent or damaged: measured anew


def _path(task: PairTask) -> str:
    return f"{RESULTS}/{task.address[:32]}.json"


def _made_together(
    pairs: Sequence[str],
    dataset: str,
    images: ImageDataset,
    rows: NDArray[np.int64],
    augment: str | None,
    config: MIConfig,
) -> Iterator[dict[str, Any]]:
    """Yield the sides and the source of each pair that one source makes, with the settings of the images."""
    from viewgen.diagnostics.mutual_information.views import source_pair

    if len(set(pairs)) < len(pairs):
        raise UsageError(f"--pair {', '.join(pairs)}: expected different pairs")
    for text in pairs:
        name, given = VIEWS.parsed(text)
        preset = expert_values(augment) if name == EXPERT and augment is not None else None
        choice = VIEWS.resolve(name, dataset, given, preset)
        choice = Choice(choice.entry, choice.entry.fit(choice.settings, images))
        found = source_pair(choice, images, rows)
        x, y = (ViewRef(label=f"{text} {side.removeprefix(f'{name} ')}") for side in (found.x, found.y))
        apart = choice.entry.roles or choice.entry.view_size is not None
        made = {"x": x, "y": y, "pair": choice.record(), "config": config.of_roles(found.roles)}
        yield made | (NO_ENCODER if apart else {})


def _pairs(
    urls: list[str], readers: list[CacheReader]
) -> Iterator[tuple[ViewRef, ViewRef, tuple[Role, ...]]]:
    """Yield both sides of each pair, and their roles."""
    from viewgen.diagnostics.mutual_information.views import made_together

    original, expert = ViewRef(label=ORIGINAL), ViewRef(label=EXPERT)
    yield original, expert, ()
    for label, url, reader in zip(_labels(urls, readers), urls, readers, strict=True):
        views = ViewRef(label=label, url=url, identity=reader.spec.identity)
        if (names := made_together(reader)) is not None:
            sides = [name.removeprefix(f"{reader.spec.method} ") for name in names]
            x, y = (
                dataclasses.replace(views, label=f"{label} {side}", view=i) for i, side in enumerate(sides)
            )
            yield x, y, reader.spec.roles
            continue
        yield original, views, ()
        yield views, expert, ()


def _labels(urls: list[str], readers: list[CacheReader]) -> list[str]:
    """Return the caches' methods, or the names of their folders if two methods have the same name."""
    methods = [reader.spec.method for reader in readers]
    taken = [ORIGINAL, EXPERT, *methods]
    labels = [
        method if taken.count(method) == 1 else f"{method} ({cache_name(url)})"
        for method, url in zip(methods, urls, strict=True)
    ]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(
                f"two caches would both be called {label!r}; name each cache once, and rename one of two "
                "folders of the same name"
            )
    return labels


def _images(
    dataset: ImageDataset,
    readers: list[CacheReader],
    limit: int | None,
    config: MIConfig,
    seed: int,
    progress: Progress,
) -> NDArray[np.int64]:
    """Return the source indices of the images that every cache has views of."""
    from viewgen.diagnostics.mutual_information.training import split_images
    from viewgen.diagnostics.mutual_information.views import check_cache

    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: expected at least 1 image")
    images = np.arange(len(dataset), dtype=np.int64)
    for reader in readers:
        check_cache(reader, dataset)
        images = np.intersect1d(images, reader.source_index)
    if not len(images):
        raise DataError("the caches have no image in common; make them of the same images")
    if len(images) < len(dataset):
        progress.say(f"{len(images):,} of {len(dataset):,} images have views in every cache given")
    images = images[:limit]
    split_images(len(images), config, seed)  # too few images are refused before anything is started
    return images


def _encoder(dataset: str, encoder: str | None, models: str | None, progress: Progress) -> Path | None:
    overrides = {"encoder": encoder} if encoder else {}
    try:
        return find_models(dataset, {"encoder"}, models_dir=models, overrides=overrides)["encoder"]
    except MissingFileError:
        if encoder or models:
            raise
        progress.say(
            f"alignment and uniformity are left out: no encoder is known for {dataset} "
            "(give --encoder FILE or --models DIR)"
        )
        return None


def _default_out(dataset: str, split: str) -> str:
    return f"{cache_folder()}/mi-{file_name(f'{dataset}-{split}')}"
