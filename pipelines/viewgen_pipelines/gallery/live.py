"""Progress of a run, read from its files in the cache: lease, attempt markers, commit records.

The run itself is not queried, so it can be followed from any machine that can read its storage.
"""

import contextlib
import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from viewgen.errors import MissingFileError, StorageError
from viewgen.status import Status
from viewgen.store import Storage
from viewgen_pipelines.gallery.index import CacheIndex, Snapshot
from viewgen_pipelines.shards.lease import EXPIRY_SECONDS, process_is_alive, ruling_record
from viewgen_pipelines.shards.ledger import AttemptLedger, ShardHistory

__all__ = ["MAX_TROUBLES", "Progress", "Trouble", "find_troubles", "follow"]

MAX_TROUBLES = 200

# Of a run that did not say how many failures it allows.
_DEFAULT_MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a cache.

    Attributes:
        running: True if a run holds the cache at present.
        run_id: identifier of the run that holds the cache, empty if none does.
        num_shards: number of committed shards.
        num_images: number of images in the committed shards.
        shards_expected: total number of shards.
        images_expected: total number of images.
        views_per_second: mean rate of the present run; None before its first shard.
        seconds_left: time left at that rate; None if unknown.
        shards_in_work: number of shards that the present run has begun and not finished.
    """

    running: bool = False
    run_id: str = ""
    num_shards: int
    num_images: int
    shards_expected: int
    images_expected: int
    views_per_second: float | None = None
    seconds_left: float | None = None
    shards_in_work: int = 0

    @property
    def complete(self) -> bool:
        return self.num_shards == self.shards_expected

    @property
    def share(self) -> float:
        """Finished share of the images, 0 to 1."""
        return self.num_images / max(self.images_expected, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """A missing sample or shard, with the reason.

    Attributes:
        shard: shard id.
        rows: first and last row affected.
        reason: reason in the run's words.
        final: True if it was given up, False if it will be tried again.
    """

    shard: int
    rows: tuple[int, int]
    reason: str
    final: bool = True


def follow(index: CacheIndex, snapshot: Snapshot, *, now: float | None = None) -> Progress:
    """Return the progress of the cache and the rate of the present run."""
    spec, commits = snapshot.spec, snapshot.commits
    sound = {shard_id: commit for shard_id, commit in commits.items() if shard_id not in snapshot.faulty}
    counted: dict[str, Any] = {
        "num_shards": len(sound),
        "num_images": sum(len(spec.shard_rows(shard_id)) for shard_id in sound),
        "shards_expected": spec.num_shards,
        "images_expected": spec.num_images,
    }
    record = _holder(index.storage, time.time() if now is None else now)
    if record is None:
        return Progress(**counted)
    run_id = str(record["run_id"])
    made = sum(
        commit.status.count(Status.OK) + commit.status.count(Status.NOT_CONVERGED)
        for commit in sound.values()
        if commit.run_id == run_id
    )
    begun = _attempts_in_work(index.storage, sound, run_id)
    now = time.time() if now is None else now
    # shards come in leaps: count up to the last one, where the next attempt began
    last = min(max([*begun, float(record["started"])]), now) if begun else now
    rate = made * spec.num_views / max(last - float(record["started"]), 1e-3) if made else None
    left = (spec.num_images - counted["num_images"]) * spec.num_views
    return Progress(
        running=True,
        run_id=run_id,
        views_per_second=rate,
        seconds_left=None if rate is None else max(left / rate - (now - last), 0.0),
        shards_in_work=len(begun),
        **counted,
    )


def find_troubles(index: CacheIndex, snapshot: Snapshot, limit: int = MAX_TROUBLES) -> list[Trouble]:
    """Return samples and shards that are missing for a reason: failed samples, failed shards, damaged files.

    Args:
        index: index of the cache.
        snapshot: snapshot of the cache.
        limit: maximum number of entries.
    """
    spec = snapshot.spec
    troubles = [
        Trouble(shard=shard_id, rows=(row, row), reason=reason)
        for shard_id, commit in snapshot.commits.items()
        for row, reason in sorted(commit.failures.items())
    ]
    for shard_id, reason in snapshot.faulty.items():
        rows = spec.shard_rows(shard_id)
        troubles.append(Trouble(shard=shard_id, rows=(rows[0], rows[-1]), reason=reason))
    ledger = AttemptLedger(index.storage, "", _DEFAULT_MAX_ATTEMPTS)
    for shard_id, history in _histories(index.storage).items():
        if shard_id in snapshot.commits or not history.failures or shard_id >= spec.num_shards:
            continue
        rows = spec.shard_rows(shard_id)
        final = history.failures >= _max_attempts(ledger, history)
        troubles.append(
            Trouble(shard=shard_id, rows=(rows[0], rows[-1]), reason=ledger.reason(history), final=final)
        )
        if len(troubles) >= limit:
            break
    return sorted(troubles, key=lambda trouble: (trouble.shard, trouble.rows))[:limit]


def _holder(storage: Storage, now: float) -> dict[str, Any] | None:
    """Return the lease's record if a living run holds it."""
    record = None
    # a heartbeat that is being written, a storage that stutters: the next look tells
    with contextlib.suppress(StorageError, MissingFileError, ValueError):
        record = ruling_record(storage)
    if record is None:
        return None
    alive = process_is_alive(record["holder"])
    if alive is None:
        alive = now - float(record["heartbeat"]) <= EXPIRY_SECONDS
    return record if alive else None


def _attempts_in_work(storage: Storage, finished: Container[int], run_id: str) -> list[float]:
    """Return the start times (epoch seconds) of the run's attempts that have not ended."""
    ledger = AttemptLedger(storage, "", _DEFAULT_MAX_ATTEMPTS)
    records = [
        ledger.started(attempt)
        for shard_id, history in _histories(storage).items()
        if shard_id not in finished
        for attempt in history.open
    ]
    return [float(record.get("time", 0)) for record in records if record.get("run_id") == run_id]


def _histories(storage: Storage) -> dict[int, ShardHistory]:
    try:
        return AttemptLedger(storage, "", _DEFAULT_MAX_ATTEMPTS).histories()
    except (StorageError, MissingFileError):
        return {}


def _max_attempts(ledger: AttemptLedger, history: ShardHistory) -> int:
    said = ledger.started(history.attempts[-1]).get("max_attempts")
    return said if isinstance(said, int) else _DEFAULT_MAX_ATTEMPTS
