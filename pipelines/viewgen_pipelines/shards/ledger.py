"""The attempt ledger: the shards that were begun, and the end of each attempt without a commit record.

A marker ``run/attempts/00000042-01-started.json`` is written before a worker touches a shard, so that a crash
of the whole process leaves a trace. The commit record ends a successful attempt; any other end gets a second
marker, whose name carries the outcome:

- ``raised``, ``hung``, ``crashed``: probably the shard's fault; each counts as one failure;
- ``died``: the process that ran driver and step in one ended without a trace (SIGKILL, power, memory):
  probably not the shard's fault, counts as 0.1 failures;
- ``interrupted``: the user stopped the run, the worker's node was lost, or the environment failed; does not
  count.

A shard whose failures reach ``max_attempts`` is quarantined: no run touches it until the limit is raised.
"""

import contextlib
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from viewgen.documents import parse_json
from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.redaction import redacted
from viewgen.store import RUN_FOLDER, Storage
from viewgen_pipelines.shards.lease import process_is_alive, this_process
from viewgen_pipelines.shards.watchdog import CrashTrace

__all__ = ["FAILURES", "Attempt", "AttemptLedger", "ShardHistory"]

FOLDER = f"{RUN_FOLDER}/attempts"
FAILURES = {"raised": Fraction(1), "hung": Fraction(1), "crashed": Fraction(1), "died": Fraction(1, 10)}
OUTCOMES = (*FAILURES, "interrupted")

_NAME = re.compile(rf"(\d{{8}})-(\d{{2,}})-(started|{'|'.join(OUTCOMES)})\.json")
_MAX_REASON = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt on one shard; `outcome` is None while it runs, and stays None if it committed."""

    shard_id: int
    number: int
    outcome: str | None

    def path(self, kind: str) -> str:
        return f"{FOLDER}/{self.shard_id:08d}-{self.number:02d}-{kind}.json"


@dataclass(kw_only=True, slots=True)
class ShardHistory:
    """All attempts on one shard, in order."""

    attempts: list[Attempt] = field(default_factory=list)

    @property
    def failures(self) -> Fraction:
        return sum((FAILURES.get(a.outcome or "", Fraction(0)) for a in self.attempts), Fraction(0))

    @property
    def open(self) -> list[Attempt]:
        """Attempts without an outcome."""
        return [attempt for attempt in self.attempts if attempt.outcome is None]


class AttemptLedger:
    """The ledger of one cache.

    Args:
        storage: the cache's storage.
        run_id: identifier of the run, written into every marker.
        max_attempts: failures after which a shard is quarantined.
        in_driver: True if the worker is the driver's own process, so that a crash ends the driver too.
        node: name of this process's machine within its cluster.
        node_is_lost: function from another such name to True if that machine has left the cluster.
    """

    def __init__(
        self,
        storage: Storage,
        run_id: str,
        max_attempts: int,
        *,
        in_driver: bool = False,
        node: str = "",
        node_is_lost: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.storage = storage
        self.run_id = run_id
        self.max_attempts = max_attempts
        self.in_driver = in_driver
        self.node = node
        self.node_is_lost = node_is_lost

    def histories(self) -> dict[int, ShardHistory]:
        """Read the whole ledger (names only, one listing)."""
        found: dict[int, dict[int, str | None]] = defaultdict(dict)
        for path in self.storage.paths(FOLDER):
            match = _NAME.fullmatch(path.rpartition("/")[2])
            if match is None:
                continue
            attempts = found[int(match[1])]
            number = int(match[2])
            attempts[number] = attempts.get(number) if match[3] == "started" else match[3]
        return {
            shard_id: ShardHistory(
                attempts=[
                    Attempt(shard_id=shard_id, number=number, outcome=attempts[number])
                    for number in sorted(attempts)
                ]
            )
            for shard_id, attempts in found.items()
        }

    def begin(self, shard_id: int) -> Attempt | None:
        """Mark the start of an attempt, or return None if the shard is quarantined.

        An open attempt of this same run is closed here: its process ended before the attempt did, so it
        crashed, unless its whole node was lost.
        """
        history = self.histories().get(shard_id, ShardHistory())
        failures = history.failures
        for attempt in history.open:
            record = self.started(attempt)
            if record.get("run_id") != self.run_id or _runs_elsewhere(record):
                continue
            if record.get("node") and self.node_is_lost(record["node"]):
                self.end(attempt, "interrupted", "the worker's node was lost")
            else:
                self.end(attempt, "crashed", _crash_reason(record) or "the worker ended without a word")
                failures += FAILURES["crashed"]
        if failures >= self.max_attempts:
            return None
        number = history.attempts[-1].number + 1 if history.attempts else 1
        attempt = Attempt(shard_id=shard_id, number=number, outcome=None)
        record = {
            "run_id": self.run_id,
            "worker": this_process(),
            "in_driver": self.in_driver,
            "node": self.node,
            "max_attempts": self.max_attempts,
            "time": time.time(),
        }
        self.storage.write_new(attempt.path("started"), json.dumps(record).encode())
        return attempt

    def end(self, attempt: Attempt, outcome: str, reason: str) -> None:
        """Record the end of an attempt that left no commit record."""
        assert outcome in OUTCOMES, outcome
        record = {"run_id": self.run_id, "reason": redacted(reason)[:_MAX_REASON], "time": time.time()}
        # Two who judge the same attempt agree with whoever came first.
        with contextlib.suppress(FileExistsError):
            self.storage.write_new(attempt.path(outcome), json.dumps(record).encode())

    def started(self, attempt: Attempt) -> dict[str, Any]:
        """Read the start marker: run id, worker, time; empty if it is missing or truncated.

        Raises:
            StorageError: it cannot be read, which tells nothing about the attempt.
        """
        return self._read(attempt.path("started"))

    def quarantined(self, histories: dict[int, ShardHistory] | None = None) -> dict[int, str]:
        """Return shard id → reason of every shard whose failures reached the limit."""
        histories = self.histories() if histories is None else histories
        return {
            shard_id: self.reason(history)
            for shard_id, history in sorted(histories.items())
            if history.failures >= self.max_attempts
        }

    def reason(self, history: ShardHistory) -> str:
        """Describe a shard's last counted failure."""
        failed = [attempt for attempt in history.attempts if attempt.outcome in FAILURES]
        if not failed:
            return "no failure recorded"
        last = failed[-1]
        assert last.outcome is not None
        reason = self._read(last.path(last.outcome)).get("reason", "")
        return f"{last.outcome} in attempt {last.number}: {reason}"

    def judge_earlier_runs(self, committed: Container[int]) -> None:
        """End the attempts that earlier runs left open on shards that are not `committed`.

        Workers under Ray do not outlive their driver: attempts that they left open were interrupted by the
        driver's end. If the driver was the worker, a trace on this machine distinguishes a crash from a kill.
        """
        for attempt, record in self._open_attempts(committed):
            if record.get("run_id") == self.run_id:
                continue
            if not record.get("in_driver"):
                self.end(attempt, "interrupted", "the driver ended during the attempt")
            elif trace := _crash_reason(record):
                self.end(attempt, "crashed", trace)
            else:
                self.end(attempt, "died", "the process ended without a word (killed, out of memory, power?)")

    def interrupt_own(self, committed: Container[int], reason: str) -> None:
        """End this run's open attempts as interrupted; call it when no worker runs any more."""
        for attempt, record in self._open_attempts(committed):
            if record.get("run_id") == self.run_id:
                self.end(attempt, "interrupted", reason)

    def interrupt_shards(self, shard_ids: Container[int], reason: str) -> None:
        """End the open attempts of shards whose commit is withdrawn."""
        for shard_id, history in self.histories().items():
            if shard_id in shard_ids:
                for attempt in history.open:
                    self.end(attempt, "interrupted", reason)

    def forget(self, committed: Callable[[int], bool]) -> None:
        """Delete the markers of committed shards; the commit records name the attempt that succeeded."""
        found = [(path, _NAME.fullmatch(path.rpartition("/")[2])) for path in self.storage.paths(FOLDER)]
        paths = [path for path, match in found if match and committed(int(match[1]))]
        for _ in self.storage.map_parallel(self.storage.delete, paths):
            pass

    def _open_attempts(self, committed: Container[int]) -> list[tuple[Attempt, dict[str, Any]]]:
        return [
            (attempt, self.started(attempt))
            for shard_id, history in self.histories().items()
            if shard_id not in committed
            for attempt in history.open
        ]

    def _read(self, path: str) -> dict[str, Any]:
        try:
            record = parse_json(self.storage.read(path), path)
        except (MissingFileError, CorruptDataError):
            return {}
        return record if isinstance(record, dict) else {}


def _runs_elsewhere(record: dict[str, Any]) -> bool:
    """Return True if the worker of an open attempt is another live process: Ray ran one shard twice."""
    worker = record.get("worker", {})
    return worker.get("pid") != os.getpid() and process_is_alive(worker) is True


def _crash_reason(record: dict[str, Any]) -> str:
    worker = record.get("worker", {})
    return CrashTrace.take(record.get("run_id", ""), worker) if worker else ""
