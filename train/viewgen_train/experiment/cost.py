"""Cost of an experiment before it is run: hours and gigabytes, from steps and views measured here."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from viewgen.device import available_cores, resolve_device
from viewgen.errors import ViewgenError
from viewgen.progress import duration_text
from viewgen.registry import Choice
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards.plan import INVERT_PREFIX
from viewgen_train.cost import USUAL_CACHED_VIEWS, estimate, image_counts
from viewgen_train.experiment.checks import cached_views
from viewgen_train.experiment.grid import rows_and_caches
from viewgen_train.experiment.plan import CacheTask, ExperimentPlan
from viewgen_train.network import build_network
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.plan import resolved_precision
from viewgen_train.resolve import train_settings
from viewgen_train.roles import splitting_views
from viewgen_train.settings import TrainSettings

__all__ = ["INVERSIONS", "ExperimentCost", "TaskCost", "measure_cost"]

# kind of the task that makes the inversions
INVERSIONS = "inversions"
# images whose views are made to measure a method
NUM_MEASURED = 16
# weights and momentum, each written twice, and the best weights
COPIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCost:
    """Cost of the equal tasks of a row, cache or encoder.

    Attributes:
        kind: ``"encoder"``, ``"inversions"`` for all caches, ``"cache"``, ``"diagnostics"`` of a cache, or
            ``"training"``.
        name: its name, empty for the inversions.
        count: number of tasks.
        seconds: time of one of them on one worker; None if it could not be measured.
        num_bytes: disk space of one of them.
        note: what was not measured, and why.
    """

    kind: str
    name: str
    count: int
    seconds: float | None
    num_bytes: int
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentCost:
    """Cost of an experiment.

    Attributes:
        title: name, data set and scale.
        tasks: costs by row, cache and encoder.
        device: device on which it was measured.
        workers: number of tasks at once.
    """

    title: str
    tasks: tuple[TaskCost, ...]
    device: str
    workers: int

    @property
    def seconds(self) -> float:
        """Time of all measured tasks on one worker."""
        return sum(task.count * (task.seconds or 0.0) for task in self.tasks)

    @property
    def num_bytes(self) -> int:
        """Disk space of all tasks."""
        return sum(task.count * task.num_bytes for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "title": self.title,
            "device": self.device,
            "workers": self.workers,
            "worker_hours": self.seconds / 3600,
            "hours": self.seconds / 3600 / self.workers,
            "gigabytes": self.num_bytes / 1e9,
            "tasks": [dataclasses.asdict(task) for task in self.tasks],
        }

    def lines(self) -> list[str]:
        """Return a table of the tasks, and the totals."""
        width = max((len(task.name) for task in self.tasks), default=0)
        kind_width = max((len(task.kind) for task in self.tasks), default=0)
        lines = [self.title]
        for task in self.tasks:
            time = "not measured" if task.seconds is None else duration_text(task.seconds)
            lines.append(
                f"  {task.kind:{kind_width}}  {task.name:{width}}  {task.count:3} × {time:>12}, "
                f"{task.num_bytes / 1e6:,.1f} MB each" + (f"  ({task.note})" if task.note else "")
            )
        count = sum(task.count for task in self.tasks)
        lines += [
            f"{count} tasks, {self.seconds / 3600:.2f} hours of one worker on {self.device}, "
            f"{self.seconds / 3600 / self.workers:.2f} hours with {self.workers}; "
            f"{self.num_bytes / 1e9:.2f} GB",
            "accuracies are counted as passes of their images; not included: fits of probes, measurements of "
            "the caches",
        ]
        return lines


def measure_cost(
    plan: ExperimentPlan,
    pending: Mapping[tuple[str, str], int],
    *,
    workers: int | None = None,
    side_by_side: bool = True,
    tell: Callable[[str, int, int], object] = lambda *_: None,
) -> ExperimentCost:
    """Measure a few steps of every kind of training, and a few views of every method.

    Args:
        plan: the experiment; its data may be missing.
        pending: (kind, name) → number of tasks that are not done.
        workers: number of tasks at once; by default one per GPU, or per core of the threads of a training.
        side_by_side: False if tasks run one after the other.
        tell: callback for progress.
    """
    device = resolve_device()
    about = plan.document.experiment
    counts = image_counts(about.dataset, about.split, plan.data_root)
    num_images = min(about.limit or counts[0], counts[0])
    measured: dict[Any, tuple[float | None, str]] = {}
    tasks = []
    caches = {task.name: task for task in plan.caches}
    before, threads = torch.get_num_threads(), about.threads
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        for done, ((kind, name), count) in enumerate(pending.items()):
            tell("measuring the cost", done, len(pending))
            if kind == "diagnostics":
                note = "the first one will show how long they take"
                tasks.append(
                    TaskCost(kind=kind, name=name, count=count, seconds=None, num_bytes=0, note=note)
                )
            elif kind == "cache":
                tasks += _inversions(plan, caches[name], num_images, counts[1], measured)
                tasks.append(_cache(plan, caches[name], num_images, counts[1], measured))
            else:
                tasks.append(_training(plan, kind, name, count, (num_images, counts[1]), device, measured))
    finally:
        torch.set_num_threads(before)
    if workers is None:
        gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
        workers = gpus or max(1, available_cores() // (threads or 1)) if side_by_side else 1
    title = " ".join(part for part in (plan.document.name, about.dataset, plan.document.scale) if part)
    return ExperimentCost(title=title, tasks=tuple(tasks), device=device, workers=workers)


def _training(
    plan: ExperimentPlan,
    kind: str,
    name: str,
    count: int,
    images: tuple[int, int],
    device: str,
    measured: dict[Any, tuple[float | None, str]],
) -> TaskCost:
    if kind == "encoder":
        given = next(one.train for one in plan.encoders if one.name == name)
        settings = train_settings(plan.document.experiment.dataset, given)
    else:
        settings = plan.settings[name]
    settings = resolved_precision(settings, device)
    num_images, size = images
    splitting = _splitting(plan, kind, name, settings)
    if splitting is not None:  # whose files an earlier command may still have to make
        splitting = Choice(splitting.entry, splitting.entry.stand_in(splitting.settings))
    roles = () if splitting is None else splitting.entry.roles
    side = settings.views.entry.side(settings.views.settings, size)
    key = (*_cost_class(settings), side, None if splitting is None else splitting.name)
    if key not in measured:
        # views per image of a cache change memory, not time
        found = estimate(
            settings,
            num_images=num_images,
            image_size=size,
            device=device,
            num_views=USUAL_CACHED_VIEWS,
            splitting=splitting,
        )
        measured[key] = (1 / found.images_per_second, found.without and f"without {found.without}")
    rate, note = measured[key]
    assert rate is not None
    optimiser = settings.optimiser
    steps = optimiser.num_steps or optimiser.epochs * max(1, num_images // optimiser.batch_size)
    network = build_network(settings, build_objective(settings).head, side, torch.device("cpu"), roles=roles)
    weights = sum(one.numel() * one.element_size() for one in network.parameters())
    return TaskCost(
        kind=kind,
        name=name,
        count=count,
        seconds=rate * (steps * optimiser.batch_size + _evaluated(plan, kind, settings, num_images)),
        num_bytes=COPIES * weights,
        note=note,
    )


def _evaluated(plan: ExperimentPlan, kind: str, settings: TrainSettings, num_images: int) -> float:
    """Return how many images of a step take as long as the evaluations, on the way and at the end.

    An evaluation passes test images and those that it learns from forward once, where a step passes each of
    its views forward and backward, as long as three times forward.
    """
    about, how, every = plan.document.experiment, settings.assimilation, settings.diagnostics
    try:
        num_test = image_counts(about.dataset, "test", plan.data_root)[0]
    except ViewgenError:
        num_test = 0
    optimiser = settings.optimiser
    per_epoch = max(1, num_images // optimiser.batch_size)
    epochs = optimiser.num_steps / per_epoch if optimiser.num_steps else optimiser.epochs
    pauses = [one for one in (every.knn_every, every.probe_every) if one]
    points = {number * one for one in pauses for number in range(1, int(epochs / one) + 1)}
    embedded = len(points) * (min(every.knn_images, num_images) + min(every.knn_images, num_test))
    if kind == "training":
        embedded += num_images + num_test
    num_views = {"none": 2, "A1": 1 + how.views_per_step, "A2": 2 + how.views_per_step}[how.kind]
    return embedded / (3 * num_views)


def _splitting(plan: ExperimentPlan, kind: str, name: str, settings: TrainSettings) -> Choice[Any] | None:
    """Return the view source of views of different roles of a row, made in the step or cached; or None."""
    row = plan.rows[name] if kind == "training" else None
    if row is None or row.cache is None or "cache" not in settings.views.entry.needs:
        return splitting_views(settings, None)
    table = rows_and_caches(plan.document)[1][row.cache]
    if table.url is not None:
        return splitting_views(settings, CacheReader(table.url).spec)
    views = cached_views(plan.document.experiment.dataset, table)
    return views if views.entry.roles else None


def _cost_class(settings: TrainSettings) -> tuple[Any, ...]:
    """Return what decides the time of a step."""
    how = settings.assimilation
    return (
        how.kind,
        how.views_per_step,
        how.transform,
        settings.objective.name,
        settings.objective.build().head.jigsaw,
        settings.views.name,
        getattr(settings.views.settings, "width", None),
        settings.network,
        settings.reconstruction,
        settings.optimiser.batch_size,
    )


def _cache(
    plan: ExperimentPlan,
    task: CacheTask,
    num_images: int,
    size: int,
    measured: dict[Any, tuple[float | None, str]],
) -> TaskCost:
    if task.options is None:
        return TaskCost(
            kind="cache", name=task.name, count=1, seconds=0.0, num_bytes=0, note="is there already"
        )
    options = dict(task.options)
    num_views = options["views"] or USUAL_CACHED_VIEWS
    key = (options["method"], options.get("solver"), options.get("crops"))
    note = ""
    if key not in measured:
        measured[key] = _per_view(plan, options)
    rate, note = measured[key]
    return TaskCost(
        kind="cache",
        name=task.name,
        count=1,
        seconds=None if rate is None else rate * num_images * num_views,
        num_bytes=num_images * num_views * 3 * size**2,
        note=note,
    )


def _inversions(
    plan: ExperimentPlan,
    task: CacheTask,
    num_images: int,
    size: int,
    measured: dict[Any, tuple[float | None, str]],
) -> list[TaskCost]:
    """Return the cost of the inversions that the first cache makes for all."""
    if task.options is None or "invert" in measured:
        return []
    if "inversions" not in VIEWS.entry(task.options["method"]).needs:
        return []
    given = {name: task.options[name] for name in ("dataset", "split", "models", "seed")}
    own = {name for name in task.options if name.startswith(INVERT_PREFIX)}
    given |= {name.removeprefix(INVERT_PREFIX): task.options[name] for name in own}
    measured["invert"] = rate, note = _per_view(plan, {**given, "method": "invert"})
    code_bytes = 4 * 512 * (2 * (size.bit_length() - 1) - 2)
    return [
        TaskCost(
            kind=INVERSIONS,
            name="",
            count=1,
            seconds=None if rate is None else rate * num_images,
            num_bytes=num_images * (code_bytes + 3 * size**2),
            note=note,
        )
    ]


def _per_view(plan: ExperimentPlan, options: Mapping[str, Any]) -> tuple[float | None, str]:
    """Return the seconds of a view on one worker, without its inversion, or None and the reason."""
    given = {name: value for name, value in options.items() if value not in (None, "auto")}
    for name in ("out", "quality", "limit", "strength", "encoder"):
        given.pop(name, None)
    dataset, given["views"] = given.pop("dataset"), VIEWS.entry(given["method"]).num_views or 2
    run: dict[str, Any] = {"executor": "local", "data_root": plan.data_root, "quiet": True}
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = cache(dataset, out=f"{folder}/views.zarr", limit=NUM_MEASURED, **run, **given)
    except ViewgenError as error:
        return None, str(error).splitlines()[0]
    return (None if found.views_per_second is None else 1 / found.views_per_second), ""
