"""How fast a cache is read: viewgen's reader against zarr-python, tensorstore and a plain memory copy.

A cache of 32-pixel images with 8 views each is written to a local disk and read from the page cache. Every
round times every contender once, so that a busy machine slows all of them alike; ratios are taken within a
round and given with their tenth and ninetieth percentile. "in-memory take" gathers the same rows from one
array in memory, "memcpy" copies as many bytes from a random place of it.

    python benchmarks/cache_reads.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import tensorstore
import zarr
from measure import ratio, write_result

from viewgen.store import (
    CacheReader,
    CacheSpec,
    LocalStorage,
    ShardCommit,
    commit_shard,
    create_cache,
    write_shard,
)

BATCH = 256


def write(folder: Path, num_images: int) -> CacheSpec:
    """Write a cache of random images and return its specification."""
    spec = CacheSpec(
        dataset={"name": "random"},
        method="random",
        config={},
        models={},
        seed=0,
        num_images=num_images,
        num_views=8,
        height=32,
        width=32,
        shard_images=512,
    )
    storage = LocalStorage(folder)
    create_cache(storage, spec)
    generator = np.random.default_rng(0)
    for shard_id in range(spec.num_shards):
        rows = len(spec.shard_rows(shard_id))
        arrays = {
            name: generator.integers(0, 128, (rows, *layout.row_shape), np.uint8).astype(layout.dtype)
            for name, layout in spec.array_layout().items()
        }
        arrays["status"][:] = 1
        arrays["source_index"][:] = spec.shard_rows(shard_id)
        objects = write_shard(storage, spec, shard_id, arrays)
        identity, status = spec.identity, arrays["status"]
        commit_shard(
            storage, ShardCommit(shard_id=shard_id, identity=identity, objects=objects, status=status)
        )
    return spec


def contests(folder: Path, spec: CacheSpec) -> dict[str, dict[str, tuple[int, Callable[[Any], object]]]]:
    """Return task → contender → (images read per round, function that reads the rows it is given)."""
    reader = CacheReader(str(folder))
    by_zarr = zarr.open_array(str(folder / "views"), mode="r")
    kvstore = {"driver": "file", "path": str(folder / "views")}
    by_tensorstore = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    memory = np.concatenate([shard["views"] for shard in reader.iter_shards(arrays=["views"])])
    S = spec.shard_images
    batch = np.empty((BATCH, *memory.shape[1:]), np.uint8)
    one_view = np.empty((BATCH, *memory.shape[2:]), np.uint8)
    whole = np.empty((S, *memory.shape[1:]), np.uint8)
    flat = memory.reshape(-1, *memory.shape[2:])

    def copy(out: np.ndarray[Any, Any], source: np.ndarray[Any, Any], place: int) -> None:
        np.copyto(out, source[place : place + len(out)])

    def take(source: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        np.take(source, rows, axis=0, out=out, mode="clip")

    def place(row: int, length: int) -> int:
        return int(row) % (len(memory) - length)

    return {
        "single sample": {
            "viewgen": (2000, lambda rows: [reader.views(int(row)) for row in rows]),
            "zarr-python": (40, lambda rows: [by_zarr[int(row)] for row in rows]),
            "tensorstore": (100, lambda rows: [by_tensorstore[int(row)].read().result() for row in rows]),
        },
        "batch of 256": {
            "viewgen": (BATCH, lambda rows: reader.views(rows, out=batch)),
            "zarr-python": (BATCH, lambda rows: by_zarr.get_orthogonal_selection((rows,))),
            "tensorstore": (BATCH, lambda rows: by_tensorstore[rows].read().result()),
            "in-memory take": (BATCH, lambda rows: take(memory, rows, batch)),
            "memcpy": (BATCH, lambda rows: copy(batch, memory, place(rows[0], BATCH))),
        },
        "batch of 256, one view": {
            "viewgen": (BATCH, lambda rows: reader.views(rows, rows % 8, out=one_view)),
            "in-memory take": (BATCH, lambda rows: take(flat, rows * 8 + rows % 8, one_view)),
            "memcpy": (BATCH, lambda rows: copy(one_view, flat, place(rows[0], BATCH))),
        },
        "whole shard": {
            "viewgen": (S, lambda rows: reader.shard(int(rows[0]) // S, ["views"])),
            "zarr-python": (S, lambda rows: by_zarr[rows[0] // S * S : (rows[0] // S + 1) * S]),
            "tensorstore": (
                S,
                lambda rows: (
                    by_tensorstore[int(rows[0]) // S * S : (int(rows[0]) // S + 1) * S].read().result()
                ),
            ),
            "memcpy": (S, lambda rows: copy(whole, memory, place(rows[0], S))),
        },
    }


@click.command()
@click.option("--images", default=16384, show_default=True, help="Images of the cache, 24.6 kB each.")
@click.option("--rounds", default=25, show_default=True, help="Rounds of all contenders.")
def main(images: int, rounds: int) -> None:
    """Measure, print a table and write the result file."""
    generator = np.random.default_rng(0)
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        spec = write(Path(folder), images)
        tasks = contests(Path(folder), spec)
        # the first round, not counted, warms the page cache and verifies the checksums
        for round_number in range(rounds + 1):
            for task, contenders in tasks.items():
                for name, (count, read) in contenders.items():
                    rows = generator.integers(0, images, count)
                    start = time.perf_counter()
                    read(rows)
                    elapsed = (time.perf_counter() - start) / count
                    if round_number:
                        seconds.setdefault(task, {}).setdefault(name, []).append(elapsed)
    ratios = {
        f"{task}: viewgen / {name}": ratio(times[name], times["viewgen"])
        for task, times in seconds.items()
        for name in times
        if name != "viewgen"
    }
    write_result("cache_reads", {"ratios": ratios}, ("numpy", "zarr", "tensorstore"))
    for task, times in seconds.items():
        click.echo(task)
        for name, values in times.items():
            rate = f"{1 / statistics.median(values):12,.0f} images/s"
            found = ratios.get(f"{task}: viewgen / {name}")
            against = (
                f"   viewgen is {found['median']:8.2f} × ({found['low']:.2f} … {found['high']:.2f})"
                if found
                else ""
            )
            click.echo(f"  {name:14} {rate}{against}")


if __name__ == "__main__":
    main()
