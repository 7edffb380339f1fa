"""What a worker is told, and what it tells the driver."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from viewgen.memory import BatchSize
from viewgen.registry import Choice
from viewgen.store import CacheSpec
from viewgen.views.entry import ViewEntry
from viewgen_pipelines.shards.inputs import Inputs
from viewgen_pipelines.shards.lease import LeaseToken

__all__ = ["ShardJob", "ShardReport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """All that a worker needs to make any shard of one cache; small, and pickled into Ray's actors.

    Attributes:
        token: of the driver's lease.
        url: of the cache, with whatever credentials it carries.
        storage_options: of the cache and of the inversions.
        spec: of the cache.
        method: view method with its settings; the entry itself, so that one that a script registered reaches
            the workers.
        inputs: what workers on other machines fetch; None where they read the driver's own files, which are
        data_root: where data sets are looked for, None for the default, and
        model_paths: kind → file of the networks that the method needs.
        inversions_url: cache with the anchor codes, row by row those of `spec`, or None.
        device: ``"cpu"`` or ``"cuda"``.
        num_threads: torch threads of one worker.
        batch_size: images optimised at once, ``"auto"`` for as many as fit, None for the method's own choice.
        memory_share: share of the free memory, of the machine or of the GPU, that is this worker's.
        hang_seconds: a shard that takes longer ends its worker.
        max_attempts: failures after which a shard is quarantined.
        in_driver: the worker is the driver's own process.
    """

    token: LeaseToken
    url: str = field(repr=False)
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    spec: CacheSpec
    method: Choice[ViewEntry]
    inputs: Inputs | None = None
    data_root: str | None = None
    model_paths: dict[str, str] = field(default_factory=dict)
    inversions_url: str | None = field(default=None, repr=False)
    device: str = "cpu"
    num_threads: int = 1
    batch_size: BatchSize = None
    memory_share: float = 1.0
    hang_seconds: float = 3600.0
    max_attempts: int = 3
    in_driver: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """How a worker's turn at a shard ended.

    Attributes:
        shard_id: which shard.
        outcome: ``committed``; ``present`` (somebody else had committed it); ``failed`` (the attempt counts,
            the shard may be tried again); ``quarantined``; ``stopped`` (the surroundings failed: nothing
            counts).
        detail: reason in words.
        error: class name of the `viewgen.errors` error behind ``stopped``, empty otherwise.
        seconds: wall-clock time of the turn.
        fatal: further shards would meet the same obstacle.
        notes: what the worker has to say since its last turn, by topic: a fallback, a batch size chosen.
    """

    shard_id: int
    outcome: str
    detail: str = ""
    error: str = ""
    seconds: float = 0.0
    fatal: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ShardReport":
        return cls(**json.loads(text))
