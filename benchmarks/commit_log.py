"""The commit log: what opening it costs as single records and put together, on a local disk and on S3.

Logs of caches of 32-pixel images (8 views, 512 images per shard) are made without their shards. Requests are
counted; seconds on S3 are those of moto, a look-alike in this process, and say little about a real store.

    python benchmarks/commit_log.py
"""

import gc
import logging
import statistics
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from measure import interleave, ratio, write_result
from random_cache import write_random_cache

from viewgen.store import (
    CacheReader,
    CacheSpec,
    LocalStorage,
    ShardCommit,
    Storage,
    compact_commits,
    create_cache,
    list_commits,
    open_storage,
    verify_cache,
)
from viewgen.store.encoding import object_bytes
from viewgen.store.names import record_path
from viewgen_pipelines.shards.ledger import FOLDER, AttemptLedger

SHARD_IMAGES = 512


def make_spec(num_shards: int) -> CacheSpec:
    """Return the specification of a cache of so many shards."""
    return CacheSpec(
        dataset={"name": "none"}, method="wsearch", config={}, models={}, seed=0,
        num_images=num_shards * SHARD_IMAGES, num_views=8, height=32, width=32, shard_images=SHARD_IMAGES,
    )  # fmt: skip


def record(spec: CacheSpec, shard_id: int) -> bytes:
    """Return a record like those of real shards: 7 objects, statistics and a histogram."""
    layouts = spec.array_layout().values()
    commit = ShardCommit(
        shard_id=shard_id,
        identity=spec.identity,
        objects={
            layout.object_path(shard_id): {"bytes": object_bytes(layout, SHARD_IMAGES), "sha256": "0" * 64}
            for layout in layouts
        },
        status=bytes([1]) * SHARD_IMAGES,
        run_id="0123456789ab",
        seconds=60.0,
        stats={"mean_pairwise": 0.37, "mean_pairwise_counts": [5] * 100, "num_ok": SHARD_IMAGES},
    )
    return commit.to_bytes()


def make_log(storage: Storage, num_shards: int) -> CacheSpec:
    """Write the records of a finished cache, one by one."""
    spec = make_spec(num_shards)
    create_cache(storage, spec)

    def write(shard_id: int) -> None:
        path, data = record_path(shard_id), record(spec, shard_id)
        if isinstance(storage, LocalStorage):
            # in place: flushing each to the device is not what is measured
            storage.local_path(path).parent.mkdir(exist_ok=True)
            storage.local_path(path).write_bytes(data)
        else:
            storage.write(path, data)

    for _ in storage.map_parallel(write, range(num_shards)):
        pass
    return spec


@contextmanager
def counted(storage: Storage) -> Iterator[Counter[str]]:
    """Count the reads and listings of a storage."""
    counts: Counter[str] = Counter()
    read, paths = storage.read, storage.paths

    def count_read(path: str) -> bytes:
        counts["reads"] += 1
        return read(path)

    def count_paths(prefix: str = "") -> list[str]:
        counts["listings"] += 1
        return paths(prefix)

    storage.read, storage.paths = count_read, count_paths  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        del storage.read, storage.paths  # type: ignore[method-assign]


def measure_log(
    place: Callable[[str], tuple[str, dict[str, Any]]], num_shards: int, rounds: int
) -> dict[str, Any]:
    """Return seconds, requests and memory of opening one log, single and compacted."""
    urls = {form: place(f"{form}-{num_shards}") for form in ("single", "compacted")}
    storages = {form: open_storage(*url) for form, url in urls.items()}
    for storage in storages.values():
        spec = make_log(storage, num_shards)
    (compaction,) = interleave(
        {"compact": lambda: compact_commits(storages["compacted"], spec)}, 1, warm_up=0
    ).values()
    lists = {f"list {form}": (lambda s=storage: list_commits(s, spec)) for form, storage in storages.items()}
    opens = {f"open {form}": (lambda u=url: CacheReader(*u)) for form, url in urls.items()}
    seconds = interleave({**lists, **opens}, rounds, warm_up=1)
    requests = {}
    for form, storage in storages.items():
        with counted(storage) as counts:
            list_commits(storage, spec)
        requests[form] = dict(counts)
    gc.collect()
    tracemalloc.start()
    commits = list_commits(storages["compacted"], spec)
    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(commits) == num_shards
    return {
        "records": num_shards,
        "record_bytes": len(record(spec, 0)),
        "memory_bytes_per_record": round(memory / num_shards),
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "seconds_of_compacting": compaction[0],
        "requests_of_list": requests,
        "ratio": ratio(seconds["list single"], seconds["list compacted"]),
    }


def measure_markers(folder: Path, num_markers: int, rounds: int) -> float:
    """Return the seconds that a worker takes to begin a shard where so many markers lie."""
    storage = LocalStorage(folder)
    storage.local_path(FOLDER).mkdir(parents=True)
    for shard_id in range(num_markers):
        storage.local_path(f"{FOLDER}/{shard_id:08d}-01-started.json").write_bytes(b"{}")
    ledger = AttemptLedger(storage, "run", 3)
    new = iter(range(num_markers, num_markers + rounds + 1))
    return statistics.median(interleave({"begin": lambda: ledger.begin(next(new))}, rounds)["begin"])


def measure_writes(storage: Storage, rounds: int) -> dict[str, float]:
    """Return the seconds of writing a shard's largest object, and of a commit record."""
    spec = make_spec(1)
    views = bytes(object_bytes(spec.array_layout()["views"], SHARD_IMAGES))
    number = iter(range(10**6))
    seconds = interleave(
        {
            "views object": lambda: storage.write("views", views),
            "commit record": lambda: storage.write_new(record_path(next(number)), record(spec, 0)),
        },
        rounds,
    )
    return {name: statistics.median(times) for name, times in seconds.items()} | {"views_bytes": len(views)}


def measure_check(folder: Path, rounds: int) -> float:
    """Return bytes per second of checking finished shards, as a resumed run does; they lie in memory."""
    spec = write_random_cache(folder, 4 * SHARD_IMAGES)
    num_bytes = spec.num_images * sum(layout.row_bytes for layout in spec.array_layout().values())
    seconds = interleave({"check": lambda: verify_cache(str(folder))}, rounds)["check"]
    return num_bytes / statistics.median(seconds)


@contextmanager
def s3_place() -> Iterator[Callable[[str], tuple[str, dict[str, Any]]]]:
    """Yield a function that names places on an S3 look-alike in this process."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    s3fs.S3FileSystem(**options).mkdir("log")
    try:
        yield lambda name: (f"s3://log/{name}", options)
    finally:
        server.stop()


@click.command()
@click.option("--records", default=[2000, 20000], multiple=True, show_default=True, help="On the local disk.")
@click.option("--s3-records", default=500, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(records: tuple[int, ...], s3_records: int, rounds: int) -> None:
    """Measure, print and write the result file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def local_place(name: str) -> tuple[str, dict[str, Any]]:
            return str(folder / name), {}

        local = [measure_log(local_place, count, rounds) for count in records]
        markers = {n: measure_markers(folder / f"m{n}", n, rounds) for n in (100, *records)}
        writes = {"local disk": measure_writes(LocalStorage(folder / "writes"), rounds)}
        check = measure_check(folder / "views", rounds)
        with s3_place() as place:
            s3 = measure_log(place, s3_records, rounds)
            writes["moto"] = measure_writes(open_storage(*place("writes")), rounds)
    ratios = {
        f"opening {log['records']} records, local disk: single / compacted": log["ratio"] for log in local
    }
    ratios[f"opening {s3['records']} records, moto: single / compacted"] = s3["ratio"]
    document = {
        "ratios": ratios,
        "local_disk": local,
        "moto": s3,
        "seconds_to_begin_a_shard_by_markers": markers,
        "seconds_of_writes": writes,
        "bytes_checked_per_second": round(check),
    }
    click.echo(f"written: {write_result('commit_log', document, ('numpy', 's3fs', 'moto'))}")
    for log in (*local, s3):
        click.echo(
            f"{log['records']} records: {log['seconds']}, compacting {log['seconds_of_compacting']:.2f} s"
        )
    click.echo(f"begin: {markers}; writes: {writes}; check: {check / 1e6:.0f} MB/s")


if __name__ == "__main__":
    main()
