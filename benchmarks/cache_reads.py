"""How fast a cache is read: viewgen against zarr-python, tensorstore, a DataLoader and a plain memory copy.

A cache of 32-pixel images with 8 views each is written to a local disk and read from the page cache.
"single sample", "batch of 256" and "one view of 256" read random rows; "shuffled epoch" reads one random view
of every image of a permutation, 256 at once, as a training does; "whole shard" reads 512 images in order.

"viewgen" is `CacheReader`, which maps the files into memory; "viewgen, held in memory" is what a training
uses when the cache fits: all views in one tensor, rows taken from it. "in-memory take" gathers the same rows
from one array in memory, "memcpy" copies as many bytes from a random place of it. The DataLoader asks a
`CacheReader` for one sample at a time and collates, in this process or in two worker processes.

"zarr-python VERSION, PIPELINE" is a newer one in an interpreter of its own, if one is given: its times
include some tenths of a millisecond for the question and the answer.

    python benchmarks/cache_reads.py
    python benchmarks/cache_reads.py --zarr-python /tmp/newest/bin/python
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import tensorstore
import torch
import zarr
from measure import peak_bytes, row, write_result
from random_cache import write_random_cache
from torch.utils.data import DataLoader, Dataset, Sampler
from zarr_elsewhere import elsewhere

from viewgen.memory import keep_freed_memory
from viewgen.store import CacheReader, CacheSpec
from viewgen_train.loader import ViewMemory

BATCH = 256
NUM_VIEWS = 8
EPOCH = 4096
FOR_MEMORY = 2048
MANY = "DataLoader, 2 workers"
_Array = np.ndarray[Any, Any]
_Task = dict[str, tuple[int, Callable[[_Array], object]]]


class Samples(Dataset[torch.Tensor]):
    """One view of one row, as a `Dataset` would be written for a DataLoader."""

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self.reader.views(row, row % NUM_VIEWS))


class Given(Sampler[int]):
    """Yields the rows that it was given last."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def by_loader(reader: CacheReader, num_workers: int) -> Callable[[_Array], object]:
    """Return the function that reads rows through a DataLoader; its workers live on between calls."""
    given = Given()
    loader = DataLoader(
        Samples(reader),
        batch_size=BATCH,
        sampler=given,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="spawn" if num_workers else None,
    )

    def read(rows: _Array) -> torch.Tensor:
        given.rows = rows.tolist()
        *_, last = loader
        return last

    return read


def in_batches(read: Callable[[_Array], Any]) -> Callable[[_Array], Any]:
    """Return a function that reads rows 256 at a time, and returns the last batch."""

    def run(rows: _Array) -> Any:
        batch = None
        for start in range(0, len(rows), BATCH):
            batch = read(rows[start : start + BATCH])
        return batch

    return run


def one_by_one(read: Callable[[int], Any]) -> Callable[[_Array], Any]:
    """Return a function that reads rows one at a time, and returns the last one."""

    def run(rows: _Array) -> Any:
        sample = None
        for place in rows.tolist():
            sample = read(place)
        return sample

    return run


def contests(folder: Path, spec: CacheSpec, num_workers: int = 2) -> dict[str, _Task]:
    """Return task → contender → (images read per round, function that reads the rows it is given)."""
    reader = CacheReader(str(folder))
    by_zarr = zarr.open_array(str(folder / "views"), mode="r")
    kvstore = {"driver": "file", "path": str(folder / "views")}
    by_tensorstore = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    memory = np.concatenate([shard["views"] for shard in reader.iter_shards(arrays=["views"])])
    held = ViewMemory(reader, torch.device("cpu"), torch.device("cpu"))
    S = spec.shard_images
    batch = np.empty((BATCH, *memory.shape[1:]), np.uint8)
    one_view = np.empty((BATCH, *memory.shape[2:]), np.uint8)
    whole = np.empty((S, *memory.shape[1:]), np.uint8)
    flat = memory.reshape(-1, *memory.shape[2:])

    def copy(out: _Array, source: _Array, row: int) -> None:
        first = int(row) * len(source) // len(memory) % (len(source) - len(out))
        np.copyto(out, source[first : first + len(out)])

    def take(source: _Array, rows: _Array, out: _Array) -> _Array:
        return np.take(source, rows, axis=0, out=out, mode="clip")

    def view(rows: _Array) -> _Array:
        return reader.views(rows, rows % NUM_VIEWS, out=one_view)

    def taken_view(rows: _Array) -> _Array:
        return take(flat, rows * NUM_VIEWS + rows % NUM_VIEWS, one_view)

    def held_view(rows: _Array) -> torch.Tensor:
        return held.read(rows, torch.from_numpy(rows % NUM_VIEWS)[:, None])

    def copy_view(rows: _Array) -> None:
        copy(one_view, flat, rows[0])

    def shard(source: Any, row: int) -> Any:
        return source[row // S * S : (row // S + 1) * S]

    epoch = min(EPOCH, spec.num_images)
    return {
        "single sample": {
            "viewgen": (2000, one_by_one(reader.views)),
            "zarr-python": (40, one_by_one(lambda row: by_zarr[row])),
            "tensorstore": (100, one_by_one(lambda row: by_tensorstore[row].read().result())),
        },
        "batch of 256": {
            "viewgen": (BATCH, lambda rows: reader.views(rows, out=batch)),
            "zarr-python": (BATCH, lambda rows: by_zarr.get_orthogonal_selection((rows,))),
            "tensorstore": (BATCH, lambda rows: by_tensorstore[rows].read().result()),
            "in-memory take": (BATCH, lambda rows: take(memory, rows, batch)),
            "memcpy": (BATCH, lambda rows: copy(batch, memory, rows[0])),
        },
        "one view of 256": {
            "viewgen": (BATCH, view),
            "viewgen, held in memory": (BATCH, held_view),
            "in-memory take": (BATCH, taken_view),
            "memcpy": (BATCH, copy_view),
        },
        "shuffled epoch": {
            "viewgen": (epoch, in_batches(view)),
            "viewgen, held in memory": (epoch, in_batches(held_view)),
            "DataLoader": (epoch, by_loader(reader, 0)),
            MANY: (epoch, by_loader(reader, num_workers)),
            "in-memory take": (epoch, in_batches(taken_view)),
            "memcpy": (epoch, in_batches(copy_view)),
        },
        "whole shard": {
            "viewgen": (S, lambda rows: reader.shard(int(rows[0]) // S, ["views"])["views"]),
            "zarr-python": (S, lambda rows: shard(by_zarr, int(rows[0]))),
            "tensorstore": (S, lambda rows: shard(by_tensorstore, int(rows[0])).read().result()),
            "memcpy": (S, lambda rows: copy(whole, memory, rows[0])),
        },
    }


def draw(random: np.random.Generator, task: str, count: int, num_images: int) -> _Array:
    """Return the rows of one call."""
    if task == "shuffled epoch":
        return random.permutation(num_images)[:count]
    return random.integers(0, num_images, count)


def one_call(task: str, contender: str) -> Callable[[], object]:
    """Return one call of a contender on a cache of its own, for the measurement of its memory."""
    folder = tempfile.TemporaryDirectory()
    spec = write_random_cache(Path(folder.name), FOR_MEMORY)
    # a DataLoader's worker processes would not be seen by the measurement, and are left out
    count, read = contests(Path(folder.name), spec, num_workers=0)[task][contender]
    rows = draw(np.random.default_rng(0), task, count, FOR_MEMORY)

    def run() -> None:
        read(rows)
        folder.name  # noqa: B018 - keeps the folder until here

    return run


def check_values(tasks: dict[str, _Task], num_images: int) -> None:
    """Let all contenders but memcpy read the same rows; AssertionError if one reads other bytes."""
    rows = np.random.default_rng(1).permutation(num_images)[:BATCH]
    for task, contenders in tasks.items():
        found = {
            name: getattr(read, "values", read)(rows)
            for name, (_, read) in contenders.items()
            if name != "memcpy"
        }
        expected = np.asarray(found["viewgen"]).tobytes()
        for name, values in found.items():
            if np.asarray(values).tobytes() != expected:
                raise AssertionError(f"{task}: {name} read other bytes than viewgen")


def time_reads(tasks: dict[str, _Task], num_images: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return task → contender → seconds per image of every round."""
    random = np.random.default_rng(0)
    seconds: dict[str, dict[str, list[float]]] = {}
    # the first round, not counted, warms the page cache and verifies the checksums
    for round_number in range(rounds + 1):
        for task, contenders in tasks.items():
            for name, (count, read) in contenders.items():
                rows = draw(random, task, count, num_images)
                start = time.perf_counter()
                read(rows)
                elapsed = (time.perf_counter() - start) / count
                if round_number:
                    seconds.setdefault(task, {}).setdefault(name, []).append(elapsed)
    return seconds


def title(task: str, name: str) -> str:
    """Return the name of a ratio; those to a plain copy say which part of its speed is reached."""
    if name in ("memcpy", "in-memory take"):
        return f"{task}: speed of viewgen / {name}"
    return f"{task}: {name} / viewgen"


@click.command()
@click.option("--images", default=16384, show_default=True, help="Images of the cache, 24.6 kB each.")
@click.option("--rounds", default=15, show_default=True, help="Rounds of all contenders.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure memory too.")
@click.option(
    "--zarr-python",
    "python",
    envvar="VIEWGEN_ZARR_PYTHON",
    help="Interpreter with a newer zarr-python, see zarr_elsewhere.py.",
)
def main(images: int, rounds: int, memory: bool, python: str | None) -> None:
    """Measure, print a table and write the result file."""
    keep_freed_memory()  # as trainings do
    with tempfile.TemporaryDirectory() as folder:
        spec = write_random_cache(Path(folder), images)
        tasks = contests(Path(folder), spec)
        for task, readers in (
            elsewhere(python, Path(folder) / "views", spec.shard_images).items() if python else ()
        ):
            count = tasks[task]["viewgen"][0]
            tasks[task] |= {name: (count, read) for name, read in readers.items()}
        check_values(tasks, images)
        seconds = time_reads(tasks, images, rounds)
    peaks = {
        (task, name): peak_bytes(one_call, task, name)
        for task in tasks
        for name in tasks[task]
        if memory and name != MANY and not name.startswith("zarr-python ")
    }
    ratios = {}
    for task, times in seconds.items():
        for name in times:
            if name == "viewgen":
                continue
            ratios[title(task, name)] = row(
                times[name],
                times["viewgen"],
                quality="as many bytes" if name == "memcpy" else "the same bytes",
                memory={contender: peaks.get((task, contender)) for contender in (name, "viewgen")},
            )
    write_result("cache_reads", {"ratios": ratios}, ("numpy", "zarr", "tensorstore", "torch"))
    for task, times in seconds.items():
        click.echo(task)
        for name, values in times.items():
            found = ratios.get(title(task, name))
            text = f"  {name:24} {1 / statistics.median(values):12,.0f} images/s"
            if found:
                text += f"   ratio {found['median']:8.2f} ({found['low']:.2f} … {found['high']:.2f})"
            click.echo(text)


if __name__ == "__main__":
    main()
