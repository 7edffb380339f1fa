"""The long fault-injection campaign: caches are made while everything around them is killed or damaged.

    python tests/chaos/campaign.py --executor ray --faults 40 --seed 0

At random moments drivers get SIGKILL or SIGTERM, workers SIGKILL, second drivers are started, and files of
finished shards are truncated, flipped or deleted between two runs. The same command is then run again. A
cache is right when it holds every image exactly once, with the views that a formula gives, and `verify` is
clean; the campaign ends with a tally once the faults are used up and the last cache is right.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIPELINE_TESTS = Path(__file__).parent.parent / "viewgen_pipelines"
sys.path[:0] = [str(PIPELINE_TESTS), str(Path(__file__).parent)]

import faulty_method  # noqa: E402
from dying_driver import start_driver  # noqa: E402
from expected_cache import assert_every_image_once  # noqa: E402
from leftovers import mark_run, sweep_leftovers  # noqa: E402

from viewgen_pipelines.shards.lease import process_is_alive  # noqa: E402

OPTIONS = {"views": 2, "shard_images": 16, "max_attempts": 100}
FAULTS = {
    "kill the driver": 6,
    "stop the driver": 2,
    "kill a worker": 6,
    "second driver": 1,
    "damage a file": 3,
}


class Campaign:
    """One campaign.

    Args:
        executor: ``"ray"`` or ``"local"``.
        folder: folder of the caches.
        seed: seed of the order of events.
        num_images: images per cache.
        step_seconds: seconds that the method sleeps per shard.
        say: callback with every event.
    """

    def __init__(
        self,
        *,
        executor: str,
        folder: Path,
        seed: int,
        num_images: int = 400,
        step_seconds: float = 0.4,
        say: Callable[[str], object] = print,
    ) -> None:
        self.executor = executor
        self.folder = folder
        self.random = random.Random(seed)
        self.num_images = num_images
        self.say = say
        self.tally: Counter[str] = Counter()
        self.seed = 0
        self.faults = folder / "faults.json"
        self.faults.write_text(json.dumps({"seconds": step_seconds}))
        # Moments are drawn so that a driver often finishes a few shards, and sometimes none.
        self.longest_wait = step_seconds * 10 + 0.5

    def run(self, num_faults: int) -> Counter[str]:
        """Inject faults until `num_faults` have struck and the cache under way is finished and right."""
        weights = (
            FAULTS if self.executor == "ray" else {k: v for k, v in FAULTS.items() if k != "kill a worker"}
        )
        driver = self._start()
        while sum(self.tally[kind] for kind in FAULTS) < num_faults:
            (kind,) = self.random.choices(list(weights), list(weights.values()))
            if self.random.random() < 0.8:
                self._wait(driver, 120, driver.is_working)
            self._wait(driver, self.random.uniform(0, self.longest_wait))
            if driver.poll() is not None:
                driver = self._finished(driver)
            driver = getattr(self, kind.replace(" ", "_"))(driver)
        self._wait(driver, 600)
        self._check(driver)
        return self.tally

    def kill_the_driver(self, driver: "Driver") -> "Driver":
        return self._end(driver, "kill the driver", signal.SIGKILL, {-signal.SIGKILL})

    def stop_the_driver(self, driver: "Driver") -> "Driver":
        return self._end(driver, "stop the driver", signal.SIGTERM, {143, -signal.SIGTERM})

    def kill_a_worker(self, driver: "Driver") -> "Driver":
        workers = []
        for marker in self.url.glob("run/attempts/*-started.json"):
            try:
                worker = json.loads(marker.read_text())["worker"]
            except (OSError, ValueError):
                continue
            if process_is_alive(worker) and worker["pid"] != driver.pid:
                workers.append(worker["pid"])
        if workers:
            pid = self.random.choice(sorted(set(workers)))
            self._count("kill a worker", f"process {pid}")
            os.kill(pid, signal.SIGKILL)
        return driver

    def second_driver(self, driver: "Driver") -> "Driver":
        if not list(self.url.glob("run/lease/*.json")):
            return driver
        second = Driver(self, log="second")
        code = second.wait(120)
        refused = code == 1 and "is being written by run" in second.stderr()
        # the first may have ended meanwhile, and then the second does its work
        assert refused or (code == 0 and driver.poll() is not None), (code, second.stderr())
        self._count("second driver", "refused" if refused else "took over from the finished first")
        return driver

    def damage_a_file(self, driver: "Driver") -> "Driver":
        driver = self._end(driver, "kill the driver", signal.SIGKILL, {-signal.SIGKILL}, restart=False)
        committed = [
            path
            for record in sorted(self.url.glob("commits/*.json"))
            for path in json.loads(record.read_text())["objects"]
        ]
        if committed:
            path = self.url / self.random.choice(committed)
            data = bytearray(path.read_bytes())
            how = self.random.choice(["truncated", "flipped", "deleted"])
            if how == "deleted":
                path.unlink()
            elif how == "truncated":
                path.write_bytes(data[: self.random.randrange(len(data))])
            else:
                data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
                path.write_bytes(data)
            self._count("damage a file", f"{path.relative_to(self.url)} {how}")
        return Driver(self)

    @property
    def url(self) -> Path:
        return self.folder / f"{self.seed}.zarr"

    def _start(self) -> "Driver":
        self.seed += 1
        return Driver(self)

    def _end(
        self, driver: "Driver", kind: str, number: int, codes: set[int], *, restart: bool = True
    ) -> "Driver":
        shards = len(list(self.url.glob("commits/*.json")))
        driver.signal(number)
        code = driver.wait(60)
        # it may have finished between the decision and the signal
        assert code in codes or code == 0, (code, driver.stderr())
        self._count(kind, f"exit {code}, {shards} shards were done")
        return Driver(self) if restart else driver

    def _wait(self, driver: "Driver", seconds: float, condition: Callable[[], bool] = lambda: False) -> None:
        deadline = time.monotonic() + seconds
        while driver.poll() is None and time.monotonic() < deadline and not condition():
            time.sleep(0.02)

    def _finished(self, driver: "Driver") -> "Driver":
        self._check(driver)
        return self._start()

    def _check(self, driver: "Driver") -> None:
        assert driver.poll() == 0, (driver.poll(), driver.stderr())
        assert_every_image_once(str(self.url), num_images=self.num_images, seed=self.seed)
        self._count("caches right", str(self.url.name))

    def _count(self, kind: str, detail: str) -> None:
        self.tally[kind] += 1
        self.say(f"{time.strftime('%H:%M:%S')} {kind}: {detail}")


class Driver:
    """The command in a process: forked ready-made for the local executor, started afresh for Ray."""

    def __init__(self, campaign: Campaign, log: str = "driver") -> None:
        options: dict[str, Any] = OPTIONS | {
            "limit": campaign.num_images,
            "out": str(campaign.url),
            "seed": campaign.seed,
        }
        self.log = campaign.folder / f"{log}.stderr"
        if campaign.executor == "local":
            faults = campaign.folder / log
            faults.write_bytes(campaign.faults.read_bytes())
            self.process: Any = start_driver(faults, **options)
        else:
            options |= {"dataset": "digits", "method": "faulty", "workers": 2}
            words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
            with self.log.open("w") as stderr:
                self.process = subprocess.Popen(
                    [sys.executable, PIPELINE_TESTS / "faulty_cli.py", "cache", *words],
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=os.environ | {faulty_method.FAULTS: str(campaign.faults)},
                )
        self.pid = self.process.pid
        self.attempts = campaign.url / "run/attempts"
        self.earlier = self._attempts()

    def is_working(self) -> bool:
        """Say whether a worker of this driver has begun a shard."""
        # by name: the markers of finished shards are deleted meanwhile
        return not self._attempts() <= self.earlier

    def _attempts(self) -> set[str]:
        return {path.name for path in self.attempts.glob("*-started.json")}

    def poll(self) -> int | None:
        code: int | None = (
            self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode
        )
        return code

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(timeout=seconds)
        self.process.join(timeout=seconds)
        return self.poll()

    def stderr(self) -> str:
        return self.log.read_text()


def print_tally(executor: str, seed: int, tally: Counter[str]) -> None:
    """Print what struck, and that it left no mark."""
    print(f"{executor}, seed {seed}:")
    for kind, count in sorted(tally.items()):
        print(f"  {kind}: {count}")
    print("  every image exactly once, every file as it was committed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make caches while everything around them fails.")
    parser.add_argument("--executor", choices=["ray", "local", "both"], default="both")
    parser.add_argument("--faults", type=int, default=40, help="per executor (default: 40)")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the order of events (default: drawn and printed)"
    )
    options = parser.parse_args()
    mark_run()
    if swept := sweep_leftovers():
        print(f"ended {len(swept)} processes of an earlier run", flush=True)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    for executor in ("local", "ray") if options.executor == "both" else (options.executor,):
        print(f"{executor}: {options.faults} faults, seed {seed}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            tally = Campaign(
                executor=executor,
                folder=Path(folder),
                seed=seed,
                say=lambda line: print(line, flush=True),
            ).run(options.faults)
        print(f"{time.monotonic() - start:.0f} s")
        print_tally(executor, seed, tally)


if __name__ == "__main__":
    main()
