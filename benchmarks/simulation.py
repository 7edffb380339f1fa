"""A discrete-event simulation of `viewgen cache` on many workers. Its results are simulated, not measured.

What a shard costs is drawn from a recording: the images' step counts by bootstrap, and from them seconds by a
line fitted to the recorded shards,

    seconds = a · images + b · Σ steps + c · max steps,

times a recorded residual. The last term is the image that still moves when the others have left: it costs a
pass that is nearly empty. All draws are addressed by what they are for, so scenarios that differ in one thing
meet the same shards, slow workers and failures.
"""

import heapq
import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simpy

__all__ = ["Outcome", "Recording", "Scenario", "list_schedule", "simulate"]

_COSTS, _SLOW, _FAILURES = range(3)
_BLOCK_SHARDS = 1000
_Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """What is drawn from.

    Attributes:
        step_counts: images by their number of steps, int `(K,)`.
        coefficients: a, b and c of the fitted line, seconds.
        residuals: recorded seconds / fitted seconds of each recorded shard.
    """

    step_counts: np.ndarray[Any, np.dtype[np.int64]]
    coefficients: tuple[float, float, float]
    residuals: _Floats

    @classmethod
    def fit(cls, steps: list[list[int]], seconds: list[float]) -> "Recording":
        """Fit the line to shards: the steps of each one's images, and its seconds."""
        rows = np.array([[len(shard), sum(shard), max(shard)] for shard in steps], float)
        found = np.linalg.lstsq(rows, np.asarray(seconds), rcond=None)[0]
        counts = np.bincount(np.concatenate([np.asarray(shard) for shard in steps]))
        residuals = np.asarray(seconds) / (rows @ found)
        a, b, c = found.tolist()
        return cls(step_counts=counts, coefficients=(a, b, c), residuals=residuals)

    def shard_seconds(self, num_images: int, shard_images: int, seed: int) -> _Floats:
        """Draw the seconds of each shard of a cache, float64 `(num_shards,)`; the last one may be partial."""
        random = np.random.default_rng([seed, _COSTS])
        num_full, rest = divmod(num_images, shard_images)
        parts = [
            self._draw(random, min(16384, num_full - i), shard_images) for i in range(0, num_full, 16384)
        ]
        if rest:
            parts.append(self._draw(random, 1, rest))
        return np.concatenate(parts)

    def _draw(self, random: np.random.Generator, num_shards: int, images: int) -> _Floats:
        # how often each step count comes among `images` draws: the same as drawing image by image
        counts = random.multinomial(images, self.step_counts / self.step_counts.sum(), size=num_shards)
        values = np.arange(len(self.step_counts))
        most = counts.shape[1] - 1 - (counts[:, ::-1] > 0).argmax(1)
        a, b, c = self.coefficients
        seconds: _Floats = (a * images + b * (counts @ values) + c * most) * random.choice(
            self.residuals, num_shards
        )
        return seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One run that is simulated; all times in seconds.

    Attributes:
        num_images, shard_images, num_workers: sizes.
        assignment: "dynamic": a worker takes the next shard when it is free, as viewgen's do; "static":
            worker w of W has the shards w, w + W, … from the beginning.
        speed: speed of a worker's computing, as a multiple of the recorded one.
        start: time until a worker is ready: process, networks, data set.
        pause: time between two shards of a worker: commit, report, and the next shard's way to it.
        driver: time of the driver's work on each shard, which no two shards share.
        request: time of one request of a worker to the storage; a shard takes `requests` of them.
        requests: number of requests, one after another: markers, lease, objects, record (counted: 21).
        list_name: time of listing one name, for the attempt markers that a worker looks through.
        list_record: time of reading one record when the log is opened, single and compacted.
        log_openings: number of times that a run opens the whole log.
        compacted: True if records and markers are put together on the way, 1000 shards at a time.
        compact_shard: time of the driver's work to put one shard's record away.
        slow_share, slow_factor: this share of workers takes so many times as long.
        mtbf: mean time between failures of one worker, exponential; a failure loses the shard under way.
        restart: time until a failed worker starts again.
        seed: seed of all draws.
    """

    num_images: int
    shard_images: int
    num_workers: int
    assignment: Literal["dynamic", "static"] = "dynamic"
    speed: float = 1.0
    start: float = 0.0
    pause: float = 0.0
    driver: float = 0.0
    request: float = 0.0
    requests: int = 21
    list_name: float = 0.0
    list_record: tuple[float, float] = (0.0, 0.0)
    log_openings: int = 5
    compacted: bool = True
    compact_shard: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    mtbf: float = math.inf
    restart: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_images, self.shard_images, self.num_workers) < 1 or self.speed <= 0:
            raise ValueError(f"sizes and speed must be positive: {self}")
        if self.slow_factor < 1 or not 0 <= self.slow_share <= 1 or self.mtbf <= 0:
            raise ValueError(f"slow_factor ≥ 1, slow_share in [0, 1] and mtbf > 0 are expected: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a simulated run took.

    Attributes:
        seconds: time from its start to the end of the command.
        efficiency: seconds of work that counted, as on workers of full speed / (workers · seconds).
        shares: kind of time → its share of workers · seconds: "work", "slow" (the same work, on slow
            workers), "start", "overhead" (driver, requests, markers), "failures" (lost work, restarts),
            "idle" (at the end), "log".
    """

    seconds: float
    efficiency: float
    shares: dict[str, float]


class _Run:
    def __init__(self, scenario: Scenario, costs: _Floats) -> None:
        self.scenario = scenario
        self.costs = costs / scenario.speed
        self.env = simpy.Environment()
        self.returned = self.env.event()
        self.done = self.env.event()
        num_shards, num_workers = len(costs), scenario.num_workers
        shared = deque(range(num_shards))
        dynamic = scenario.assignment == "dynamic"
        self.queues = [
            shared if dynamic else deque(range(first, num_shards, num_workers))
            for first in range(num_workers)
        ]
        self.left = num_shards
        self.driver_free = 0.0
        self.block_left = [
            min(_BLOCK_SHARDS, num_shards - first) for first in range(0, num_shards, _BLOCK_SHARDS)
        ]
        self.listed = 0
        self.spent = dict.fromkeys(("work", "slow", "start", "overhead", "failures"), 0.0)
        num_slow = round(scenario.slow_share * num_workers)
        order = np.random.default_rng([scenario.seed, _SLOW]).permutation(num_workers)
        self.slow = set(order[:num_slow].tolist())

    def worker(self, number: int) -> Generator[simpy.Event, Any, None]:
        scenario, env, spent, queue = self.scenario, self.env, self.spent, self.queues[number]
        random = np.random.default_rng([scenario.seed, _FAILURES, number])
        factor = scenario.slow_factor if number in self.slow else 1.0

        def next_failure() -> float:
            return env.now + random.exponential(scenario.mtbf) if math.isfinite(scenario.mtbf) else math.inf

        yield env.timeout(scenario.start)
        spent["start"] += scenario.start
        failure = next_failure()
        while True:
            while not queue:
                yield self.returned
            shard = queue.popleft()
            # the driver serves one after another
            self.driver_free = max(self.driver_free, env.now) + scenario.driver
            begin = scenario.pause + scenario.requests * scenario.request + self.listed * scenario.list_name
            overhead = self.driver_free - env.now + begin
            work = float(self.costs[shard])
            duration = overhead + work * factor
            if failure < env.now + duration:
                lost = max(failure - env.now, 0.0)
                yield env.timeout(lost)
                queue.appendleft(shard)
                self.returned.succeed()
                self.returned = env.event()
                yield env.timeout(scenario.restart + scenario.start)
                spent["failures"] += lost + scenario.restart + scenario.start
                failure = next_failure()
                continue
            yield env.timeout(duration)
            spent["work"] += work
            spent["slow"] += work * (factor - 1)
            spent["overhead"] += overhead
            self.commit(shard)

    def commit(self, shard: int) -> None:
        scenario, block = self.scenario, shard // _BLOCK_SHARDS
        self.left -= 1
        self.listed += 1
        self.block_left[block] -= 1
        if scenario.compacted and not self.block_left[block]:
            size = min(_BLOCK_SHARDS, len(self.costs) - block * _BLOCK_SHARDS)
            self.listed -= size
            self.driver_free = max(self.driver_free, self.env.now) + size * scenario.compact_shard
        if not self.left:
            self.done.succeed()


def simulate(scenario: Scenario, recording: Recording | None = None, costs: _Floats | None = None) -> Outcome:
    """Run a scenario on shards drawn from a recording, or on `costs` (seconds of each shard)."""
    if costs is None:
        if recording is None:
            raise ValueError("a recording or costs are needed")
        costs = recording.shard_seconds(scenario.num_images, scenario.shard_images, scenario.seed)
    run = _Run(scenario, costs)
    for number in range(scenario.num_workers):
        run.env.process(run.worker(number))
    run.env.run(until=run.done)
    log = scenario.log_openings * len(costs) * scenario.list_record[scenario.compacted]
    log += max(run.driver_free - run.env.now, 0.0)
    seconds = run.env.now + log
    total = scenario.num_workers * seconds
    shares = {name: value / total for name, value in run.spent.items()}
    shares["log"] = log / seconds
    shares["idle"] = 1 - sum(shares.values())
    return Outcome(seconds=seconds, efficiency=shares["work"], shares=shares)


def list_schedule(costs: list[float], num_workers: int) -> float:
    """Return when the last worker ends if each takes the next shard as soon as it is free: a plain loop."""
    free = [0.0] * num_workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)
