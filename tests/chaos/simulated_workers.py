"""Workers of a simulated world: the real ones, except that their views are a formula."""

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from simulated_world import Killed, World

import viewgen_pipelines.shards.worker as worker
from viewgen.store.encoding import encode_object
from viewgen.testing.caches import small_spec
from viewgen_pipelines.executors.executor import Place

SPEC = small_spec(num_images=7, num_views=1, channels=1, height=2, width=2, shard_images=2)
LAYOUTS = SPEC.array_layout()
HOSTS = ("first", "second", "third")


def contents(rows: np.ndarray[Any, Any], host: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a machine makes of these rows: every machine rounds its own way."""
    machine = HOSTS.index(host)
    arrays = {}
    for name, layout in LAYOUTS.items():
        values = np.broadcast_to(
            rows.reshape(-1, *[1] * len(layout.row_shape)), (len(rows), *layout.row_shape)
        )
        arrays[name] = (values + machine / 10 if layout.dtype.kind == "f" else values + machine).astype(
            layout.dtype
        )
    arrays["status"] = np.ones(len(rows), np.uint8)
    arrays["source_index"] = arrays["label"] = rows
    return arrays


@cache
def digests(shard_id: int, host: str) -> set[str]:
    """Return the digests of a shard's objects as a machine writes them."""
    arrays = contents(np.asarray(SPEC.shard_rows(shard_id)), host)
    return {
        hashlib.sha256(encode_object(layout, arrays[name])).hexdigest() for name, layout in LAYOUTS.items()
    }


class SimulatedWorker(worker.ShardWorker):
    """The real worker, without data set and networks."""

    world: World = None

    def _set_up(self) -> None:
        self._dataset: Any = SimpleNamespace(
            real_names=(), labels=lambda rows: np.asarray(rows), batch=lambda rows: {"row": np.asarray(rows)}
        )
        self._inversions = None
        self._step = lambda batch: contents(batch["row"], self.host)

    def run(self, shard_id: int) -> Any:
        self.host = self.world.process.host
        return super().run(shard_id)


class Pool:
    """An executor: the command itself makes the shards, or some processes of its machine do."""

    elsewhere = owns_session = False
    place = Place()

    def __init__(self, schedule: Any, num_workers: int) -> None:
        self.schedule, self.num_workers = schedule, num_workers
        self.in_driver = num_workers == 0

    def pool(
        self, start: Callable[[Place], Any], numbers: Any, check: Callable[[], object] = lambda: None
    ) -> Iterator[Any]:
        if self.in_driver:
            with start(self.place) as mine:
                for number in numbers:
                    check()
                    yield mine.run(number)
            return
        world, parent = self.schedule.world, self.schedule.world.process
        waiting, reports = deque(numbers), deque[Any]()
        busy: dict[int, Any] = {}

        def work(slot: int) -> None:
            with start(self.place) as mine:
                while waiting and not stop:
                    busy[slot] = waiting.popleft()
                    reports.append(mine.run(busy[slot]))
                    del busy[slot]

        stop: list[bool] = []
        tasks = {slot: self.schedule.spawn(work, slot, parent) for slot in range(self.num_workers)}
        try:
            while True:
                check()
                while reports:
                    yield reports.popleft()
                for slot, task in tasks.items():
                    if task.done and isinstance(task.error, Killed):
                        # a dead worker is started again, and its shard given to the next
                        if slot in busy:
                            waiting.append(busy.pop(slot))
                        tasks[slot] = self.schedule.spawn(work, slot, parent)
                if not waiting and not busy and not reports:
                    return
                world.sleep(0.5)
        finally:
            stop.append(True)
