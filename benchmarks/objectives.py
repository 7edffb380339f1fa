"""Images per second of a training step of every objective, alone and with A1 and A2.

The rows are those of the experiment ``objectives`` with its settings, on random images. All rows take a step
in turn, round after round. On a processor, seconds are processor time of one thread, so that other work on
the machine counts little; on a GPU they are wall-clock seconds between synchronisations.

    python benchmarks/objectives.py
    python benchmarks/objectives.py --dataset fashion-mnist --rounds 9
"""

import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
from measure import row, write_result

from viewgen.memory import keep_freed_memory
from viewgen_train.cost import image_counts, random_trainer
from viewgen_train.experiment.document import load_document
from viewgen_train.experiment.plan import make_plan
from viewgen_train.settings import TrainSettings
from viewgen_train.trainer import AssimilationTrainer

EXPERIMENT, BASELINE = "objectives", "simclr"


def rows_of(dataset: str, folder: Path) -> dict[str, TrainSettings]:
    """Return the settings of the experiment's rows, by row, for trainings without end."""
    plan = make_plan(load_document(EXPERIMENT, dataset=dataset), folder, with_data=False)
    return {
        name: settings.change("optimiser", num_steps=None, epochs=1_000_000)
        for name, settings in plan.settings.items()
    }


def time_steps(
    trainers: dict[str, AssimilationTrainer], device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Return row → seconds of its step in each round; the first round is not counted."""

    def clock() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds + 1):
        for name, trainer in trainers.items():
            start = clock()
            trainer.step(number)
            elapsed = clock() - start
            if number:
                seconds[name].append(elapsed)
    return seconds


@click.command()
@click.option("--dataset", default="digits", show_default=True, help="Whose settings and image size.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Steps of every row.")
@click.option("--only", multiple=True, help="Measure this row beside the baseline; repeatable.")
def main(dataset: str, device: str, rounds: int, only: tuple[str, ...]) -> None:
    """Measure, print a table and write the result file."""
    keep_freed_memory()
    target = torch.device(device)
    if target.type == "cpu":
        torch.set_num_threads(1)
    _, image_size = image_counts(dataset, "train")
    with tempfile.TemporaryDirectory() as folder:
        settings = rows_of(dataset, Path(folder))
        if only:
            settings = {name: settings[name] for name in (BASELINE, *only)}
        trainers = {
            name: random_trainer(one, one.optimiser.batch_size, image_size, target, Path(folder))
            for name, one in settings.items()
        }
        seconds = time_steps(trainers, target, rounds)
    batch_size = settings[BASELINE].optimiser.batch_size
    speeds = {name: batch_size / statistics.median(times) for name, times in seconds.items()}
    ratios = {
        f"step of {name} / {BASELINE}": row(
            times,
            seconds[BASELINE],
            quality=f"{speeds[name]:,.0f} images/s; {BASELINE} {speeds[BASELINE]:,.0f}",
        )
        for name, times in seconds.items()
        if name != BASELINE
    }
    network = settings[BASELINE].network
    trained = f"{network.backbone}, width {network.width}, {image_size} px, batch {batch_size}"
    place = "one core, processor time" if target.type == "cpu" else torch.cuda.get_device_name(target)
    click.echo(f"{dataset}: {trained}, {place}")
    for name, speed in speeds.items():
        click.echo(f"  {name:44} {speed:12,.0f} images/s")
    write_result(
        "objectives",
        {"ratios": ratios, "training": trained, "device": place, "images_per_second": speeds},
    )


if __name__ == "__main__":
    main()
