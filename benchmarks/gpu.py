"""Everything that has to be measured on a GPU, by one command in about ten minutes.

- the tests that are skipped without CUDA;
- W-search with the paper's networks (512 channels, ResNet-18, random weights): views and view updates per
  second and peak memory, in float32 and bfloat16, with CUDA graphs and without;
- training of a ResNet-18 (SimCLR and A2, two batch sizes): images per second, peak memory, and the share of
  this GPU's own matrix product that they reach, in float32 and bf16, compiled and not.

Parts run in this order until `--minutes` are over; what was not reached is not in the result.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --small --minutes 3      # does the script itself work?
"""

import dataclasses
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from measure import write_result
from precision import paper_models
from torch.utils.flop_counter import FlopCounterMode

from viewgen.memory import keep_freed_memory
from viewgen.networks.acceleration import cuda_graphs
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.execution import Execution
from viewgen.networks.files import Models
from viewgen.networks.precision import PRECISIONS
from viewgen.networks.stylegan2 import Generator, GeneratorConfig
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import Batch, offline_step
from viewgen_train.cost import random_trainer
from viewgen_train.resolve import train_settings
from viewgen_train.trainer import AssimilationTrainer

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/viewgen/networks/test_acceleration.py",
    "tests/viewgen/networks/test_precision.py",
    "tests/viewgen/networks/test_stylegan2_golden.py",
    "tests/viewgen/test_memory.py",
)
NUM_VIEWS = 8
# most updates of a view; the time of one does not depend on the weights
NUM_UPDATES = 20


class Clock:
    """Time that is left, and time of work on a device."""

    def __init__(self, minutes: float, device: torch.device) -> None:
        self.end, self.device = time.monotonic() + 60 * minutes, device

    def is_over(self) -> bool:
        return time.monotonic() >= self.end

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], *, warm_up: int, repeats: int) -> tuple[float, int | None]:
        """Return seconds of one call, and the peak memory of the device in bytes."""
        for _ in range(warm_up):
            work()
        self._wait()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        self._wait()
        elapsed = (time.perf_counter() - start) / repeats
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return elapsed, peak


def product_speed(clock: Clock, dtype: torch.dtype, side: int) -> float:
    """Return FLOP/s of a large square matrix product."""
    a = torch.randn(side, side, device=clock.device, dtype=dtype)
    seconds, _ = clock.seconds(lambda: a @ a, warm_up=2, repeats=5)
    return 2 * side**3 / seconds


def run_tests() -> dict[str, Any]:
    """Run the tests that need a GPU, with their neighbours; return how they ended."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-rs", *TESTS], cwd=ROOT, capture_output=True, text=True
    )
    return {"exit_code": found.returncode, "ended": found.stdout.strip().splitlines()[-1:]}


def on(models: Models, device: torch.device, *, graphs: bool) -> Models:
    """Return networks on a device, with or without CUDA graphs."""
    moved = {
        field.name: value.to(device)
        for field in dataclasses.fields(models)
        if isinstance(value := getattr(models, field.name), torch.nn.Module)
    }
    execution = Execution(compiler=cuda_graphs if graphs else None)
    return dataclasses.replace(models, device=device, execution=execution, **moved)


def narrow_models() -> Models:
    """Return networks that a processor searches with in seconds, with random weights."""
    config = GeneratorConfig(image_size=32, channels=(16, 16, 8, 8), num_mapping_layers=2)
    generator = Generator(config).eval().requires_grad_(False)
    encoder = Encoder(EncoderConfig(image_size=32, width=4, projection_dim=16)).eval().requires_grad_(False)
    return Models(device=torch.device("cpu"), generator=generator, encoder=encoder)


def search(clock: Clock, models: Models, num_images: int, updates: int) -> list[dict[str, Any]]:
    """Return the speed of W-search in every form."""
    generator = models.generator
    assert generator is not None
    with torch.no_grad():
        codes = generator.broadcast(generator.mapping(torch.randn(num_images, 512))).contiguous().numpy()
    batch: Batch = {
        "image": np.zeros((num_images, 3, 32, 32), np.uint8),
        "label": np.zeros(num_images, np.int64),
        "source_index": np.arange(num_images),
        "anchor_w_plus": codes,
        "anchor_error": np.zeros(num_images, np.float32),
    }
    found = []
    for solver, precision, graphs in itertools.product(("newton", "adam"), PRECISIONS, (False, True)):
        if clock.is_over() or (graphs and clock.device.type != "cuda"):
            continue
        settings = {"solver": solver, "precision": precision, "max_steps": updates}
        settings |= {"patience": 10**6, "tolerance": 1e-9}
        choice = VIEWS.resolve("wsearch", "cifar10", settings)
        resources = Resources(models=on(models, clock.device, graphs=graphs), batch_size=num_images)
        step = offline_step(choice.build(resources), resources, seed=0, num_views=NUM_VIEWS)
        outputs: list[Batch] = []
        work = lambda step=step, outputs=outputs: outputs.append(step(batch))  # noqa: E731
        seconds, peak = clock.seconds(work, warm_up=1, repeats=1)
        done = float(outputs[-1]["steps"].sum())
        found.append(
            {
                "solver": solver,
                "precision": precision,
                "cuda_graphs": graphs,
                "images": num_images,
                "updates": done / num_images,
                "view_updates_per_second": done * NUM_VIEWS / seconds,
                "peak_bytes": peak,
            }
        )
        click.echo(f"wsearch {found[-1]}")
    return found


def train(clock: Clock, batch_sizes: tuple[int, ...], width: int, repeats: int) -> list[dict[str, Any]]:
    """Return the speed of a training step in every form, and its share of a matrix product's speed."""
    found = []
    flops: dict[tuple[str, int], int] = {}
    forms = itertools.product(("none", "A2"), batch_sizes, ("float32", "bf16"), (False, True))
    for assimilation, batch_size, precision, compiled in forms:
        if clock.is_over():
            break
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        given = {"assimilation": assimilation, "batch_size": batch_size, "precision": precision}
        given |= {"width": width, "compile": compiled, "knn_every": 0, "epochs": 10**6}
        with tempfile.TemporaryDirectory() as folder:
            if (assimilation, batch_size) not in flops:
                # of a trainer of its own: what runs under the counter once is never compiled
                trainer = make_trainer(clock, {**given, "compile": False}, Path(folder) / "counted")
                with FlopCounterMode(display=False) as counter:
                    trainer.step(0)
                flops[assimilation, batch_size] = cast(int, counter.get_total_flops())
            trainer = make_trainer(clock, given, Path(folder) / "timed")
            steps = itertools.count()
            work = lambda trainer=trainer, steps=steps: trainer.step(next(steps))  # noqa: E731
            seconds, peak = clock.seconds(work, warm_up=4, repeats=repeats)
        side = 8192 if clock.device.type == "cuda" else 1024
        speed = flops[assimilation, batch_size] / seconds
        found.append(
            {
                "assimilation": assimilation,
                "batch_size": batch_size,
                "precision": precision,
                "compiled": compiled,
                "images_per_second": batch_size / seconds,
                "share_of_matrix_product": speed / product_speed(clock, dtype, side),
                "peak_bytes": peak,
            }
        )
        click.echo(f"training {found[-1]}")
    return found


def make_trainer(clock: Clock, given: dict[str, Any], folder: Path) -> AssimilationTrainer:
    """Return a trainer on random images."""
    folder.mkdir()
    settings = train_settings("cifar10", given)
    return random_trainer(settings, 4 * settings.optimiser.batch_size, 32, clock.device, folder)


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--minutes", default=10.0, show_default=True, help="After these no further part begins.")
@click.option("--small", is_flag=True, help="Little work, to try the script.")
@click.option("--tests/--no-tests", default=True, show_default=True)
def main(device: str, minutes: float, small: bool, tests: bool) -> None:
    """Measure, print, and on a GPU write the result file."""
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("torch sees no CUDA device; --device cpu --small tries the script")
    keep_freed_memory()
    # float32 in convolutions as in products, whose speeds are compared
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    clock = Clock(minutes, target)
    models, num_images, updates = (narrow_models(), 4, 2) if small else (paper_models(), 512, NUM_UPDATES)
    document: dict[str, Any] = {
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else "processor",
        "tests": run_tests() if tests else None,
        "wsearch": search(clock, models, num_images, updates),
        "training": train(clock, (8,) if small else (512, 128), 8 if small else 64, 2 if small else 20),
    }
    if target.type == "cuda" and not small:
        click.echo(write_result("gpu", document, ("torch", "torchvision")))


if __name__ == "__main__":
    main()
