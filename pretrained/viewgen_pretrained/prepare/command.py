"""`viewgen prepare` as a function: from images to a cache of their views, stage by stage."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from viewgen.config_file import read_config
from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.registry import canonical_name
from viewgen.device import available_cores, resolve_device
from viewgen.errors import CacheMismatchError, UsageError, ViewgenError
from viewgen.files import write_atomically
from viewgen.progress import Progress
from viewgen.sizes import SIZES, check_side, takes_size
from viewgen_pipelines.cache import cache
from viewgen_pipelines.cost import expected_workers
from viewgen_pipelines.executors import check_executor
from viewgen_pipelines.quality import check_strict
from viewgen_pretrained.prepare.data import DataReport, chosen_side, held_out, look_at
from viewgen_pretrained.prepare.estimate import StagePlan, plan_costs, stage_plans, total_text
from viewgen_pretrained.prepare.gates import Gate, judge
from viewgen_pretrained.prepare.plan import make_plan
from viewgen_pretrained.prepare.stages import STAGES, Work, cache_settings

__all__ = ["CONFIG", "GateError", "Prepared", "default_out", "prepare"]

CONFIG = "prepare.toml"
VIEWS = "views.zarr"
NUM_SHARDS = 12
# load per core above which others compute here, too
BUSY = 1.25


class GateError(ViewgenError):
    """A network is not good enough for the next stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Result of `prepare`.

    Attributes:
        dataset: name of the data set, with the size of its images.
        out: folder of the run.
        config: configuration file with every choice; None in a dry run.
        report: what was found in the data.
        plan: every choice, as dotted names.
        stages: stages with their estimated cost.
        measured: stage → numbers measured on it.
        gates: judged numbers.
        epsilon_boundary: ε₁ of the views, calibrated unless it was given; or None.
        cache: URL of the cache, or None.
        complete: True if every image has its views.
        verdict: reasons why the views cannot be trusted.
    """

    dataset: str
    out: str
    config: str | None
    report: DataReport
    plan: dict[str, Any]
    stages: list[StagePlan]
    measured: dict[str, dict[str, float]] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    epsilon_boundary: float | None = None
    cache: str | None = None
    complete: bool = True
    verdict: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that ``--json`` prints."""
        return {
            "dataset": self.dataset,
            "out": self.out,
            "config": self.config,
            "report": self.report.to_json(),
            "plan": self.plan,
            "stages": [stage.to_json() for stage in self.stages],
            "measured": self.measured,
            "gates": [gate.to_json() for gate in self.gates],
            "epsilon_boundary": self.epsilon_boundary,
            "cache": self.cache,
            "complete": self.complete,
            "verdict": self.verdict,
        }


def default_out(dataset: str) -> Path:
    """Return the default folder of the run: ``runs/`` and the data set's name, or its folder's."""
    base = dataset.partition("?")[0]
    last = Path(base.partition(":")[2] or base).expanduser().resolve().name
    return Path("runs") / (re.sub(r"[^\w.+-]+", "-", last).strip("-") or "prepared")


def prepare(
    dataset: str,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    networks: str | None = None,
    settings: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    executor: Literal["ray", "local"] = "local",
    workers: int | None = None,
    confirm: Callable[[], bool] = lambda: True,
    dry_run: bool = False,
    estimate: bool = True,
    overwrite: bool = False,
    quality: bool = True,
    strict: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Train encoder, generator and inverter of a data set by one plan, calibrate ε₁, and cache views.

    The same arguments go on where an interrupted run ended: every training resumes, finished stages are kept.

    Args:
        dataset: name of the data set; a folder of pictures without ``?size=`` gets a fitting size.
        out: folder of the run; by default `default_out`.
        split: split of the training images, ``"train"`` by default.
        networks: ``"small"``, ``"medium"`` or ``"large"``; by default by the number of images.
        settings: dotted name → value of choices that differ (``"encoder.width"``).
        config: choices of a configuration file, as dotted names; by default those in `out`, if there are any.
        data_root: folder of data sets.
        seed: root of all random numbers, 0 by default.
        device: torch device of the trainings.
        executor, workers: executor of the cache and number of its workers, see
            `viewgen_pipelines.cache.cache`.
        confirm: asked once the plan is printed; a run ends there if it returns False.
        dry_run: look, plan and estimate, and write nothing.
        estimate: measure a few steps of each stage to estimate the time.
        overwrite: train again what differs from the plan.
        quality: measure the views of a sample of the images at the end.
        strict: give the verdict that views cannot be trusted where none of them could be measured, too.
        command: command line, for the model cards.
        progress: display of the progress.

    Raises:
        UsageError: a choice is unknown or invalid.
        GateError: a network is not good enough for the next stage; the message has numbers and advice.
        CacheMismatchError: the folder holds another plan's data or networks.
        DataError, CorruptDataError, MissingFileError: the data cannot be used.
    """
    progress = progress or Progress(logger=__name__)
    check_executor(executor, workers=workers, gpus_per_worker=None, ray_address=None)
    check_strict(strict, quality)
    folder = Path(default_out(dataset) if out is None else out).expanduser()
    kept = _kept(folder, config)
    named = {"split": split, "networks": networks, "seed": seed}
    given = {**(settings or {}), **{name: value for name, value in named.items() if value is not None}}
    chosen = kept | given
    split = chosen.get("split", "train")
    side = chosen_side(dataset, split, _networks(chosen), data_root)
    images = load_dataset(side.dataset, split, data_root=data_root)
    _check_dataset(chosen.get("dataset"), images, data_root, folder)
    check_side(side.dataset, images.image_size, resizable=takes_size(side.dataset))
    test = held_out(side.dataset, data_root)
    device = resolve_device(device)
    report = look_at(images, test, side)
    for line in report.lines():
        progress.say(line)
    plan = make_plan(images, report, given, device, kept)
    work = Work(
        plan=plan,
        images=images,
        test=test,
        out=folder,
        device=device,
        data_root=data_root,
        overwrite=overwrite,
        command=command,
    )
    num_workers = expected_workers(executor, workers, NUM_SHARDS) if estimate else None
    stages = _planned(work, num_workers, progress)
    result: dict[str, Any] = {
        "dataset": images.name,
        "out": str(folder),
        "report": report,
        "plan": plan.document(),
        "stages": stages,
    }
    if dry_run or not confirm():
        return Prepared(config=None, **result)
    config_file = folder / CONFIG
    write_atomically(config_file, plan.toml().encode())
    result["config"] = str(config_file)
    gates = _trained(work, progress)
    measured = {stage: dict(record["measured"]) for stage, record in work.records.items()}
    make_cache = partial(
        cache,
        images.name,
        method=plan.method.name,
        views=plan.views,
        out=str(folder / VIEWS),
        split=plan.split,
        data_root=data_root,
        seed=plan.seed,
        executor=executor,
        workers=workers,
        quality=quality,
        strict=strict,
        progress=progress,
        **_files(work),
        **cache_settings(plan, work.epsilon),
    )
    try:
        cached = make_cache()
    except CacheMismatchError:
        if not overwrite:
            raise
        cached = make_cache(overwrite=True)
    return Prepared(
        **result,
        measured=measured,
        gates=gates,
        epsilon_boundary=work.epsilon,
        cache=cached.url,
        complete=cached.complete,
        verdict=list(cached.verdict),
    )


def _kept(folder: Path, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the choices of a configuration file, by default that of the folder."""
    kept = folder / CONFIG
    if config or not kept.is_file():
        return dict(config or {})
    return read_config(kept, str(kept))


def _networks(given: Mapping[str, Any]) -> str | None:
    networks = given.get("networks")
    if networks is not None and networks not in SIZES:
        raise UsageError(f"networks is {networks!r}; expected one of {', '.join(SIZES)}")
    return networks


def _check_dataset(planned: Any, images: ImageDataset, data_root: str | None, folder: Path) -> None:
    """Refuse other images than those of the plan, under whatever name they are asked for."""
    if planned in (None, images.name):
        return
    try:
        name = canonical_name(str(planned), images.split, data_root=data_root)
    except ViewgenError:  # not these images, whatever is wrong with them
        name = str(planned)
    if name == images.name:
        return
    raise CacheMismatchError(
        f"the plan is for another data set:\n  dataset: the plan has {planned}, this command asks for "
        f"{images.name}\ngive another --out than {folder}, or another --config"
    )


def _planned(work: Work, workers: int | None, progress: Progress) -> list[StagePlan]:
    """Print the stages, with their cost for a number of workers of the cache; None leaves the cost out."""
    done = work.done()
    if workers is None:
        stages = stage_plans(work.plan, work.images)
    else:
        progress.say(f"measuring a few steps of each stage on {work.device}")
        stages = plan_costs(work.plan, work.images, device=work.device, workers=workers, done=done)
    load, cores = os.getloadavg()[0], available_cores()
    if workers is not None and work.device == "cpu" and load > BUSY * cores:
        progress.say(
            f"this machine is busy (load {load:.1f} on {cores} cores): the times below are upper ends"
        )
    progress.say(f"plan ({work.plan.networks}; --networks {'|'.join(SIZES)} is another), on {work.device}:")
    for stage in stages:
        progress.say(stage.line() + ("  (finished)" if stage.name in done else ""))
    total = "" if workers is None else f"{total_text(stages)} in all; "
    progress.say(f"  {total}everything goes to {work.out}")
    return stages


def _trained(work: Work, progress: Progress) -> list[Gate]:
    """Run the stages before the cache, each with its gates."""
    gates: list[Gate] = []
    for number, stage in enumerate(STAGES, start=1):
        record, there = work.run(stage)
        seconds = record["seconds"]
        progress.say(
            f"{number} of {len(STAGES) + 1}, {stage}: " + ("finished before" if there else f"{seconds:.0f} s")
        )
        for gate in judge(stage, record["measured"], work.plan.gates):
            gates.append(gate)
            progress.say(f"  {'ok' if gate.passed else 'NOT PASSED'}: {gate.text}")
        failed = [gate for gate in gates if gate.stage == stage and not gate.passed]
        for gate in failed:
            progress.say(f"  advice: {gate.advice}")
        if failed and work.plan.gates.stop:
            reasons = "\n".join(f"  {gate.text}\n  {gate.advice}" for gate in failed)
            raise GateError(
                f"the {stage} is not good enough for the next stage:\n{reasons}\n"
                f"Choices are in {work.out / CONFIG}: edit them and run the same command with --overwrite, "
                "or go on all the same with --set gates.stop=false"
            )
    return gates


def _files(work: Work) -> dict[str, Any]:
    """Return kind → file of the networks that the method and its inversion need."""
    plan = work.plan
    needs = set(plan.method.entry.needs)
    if plan.inversion is not None:
        needs |= plan.inversion.entry.uses(plan.inversion.settings)
    kinds = ("generator", "inverter", "encoder", "discriminator")
    return {kind: str(work.file(kind)) for kind in kinds if kind in needs}
