"""The job of a worker, and its reports to the driver."""

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
    """Everything a worker needs to make any shard of one cache; small, and pickled into Ray's actors.

    Attributes:
        token: token of the driver's lease.
        url: URL of the cache, including any credentials in it.
        storage_options: options of the fsspec file system of the cache and of the inversions.
        spec: specification of the cache.
        method: view method with its settings; the entry itself, so that a method registered by a script
            reaches the workers.
        inputs: digests of the files that workers on other machines fetch; None if workers read the driver's
            own files, named by `data_root` and `model_paths`.
        data_root: folder of the data sets, None for the default.
        model_paths: kind → file of the networks that the method needs.
        inversions_url: URL of the cache with the anchor codes, row by row those of `spec`, or None.
        device: ``"cpu"`` or ``"cuda"``.
        num_threads: torch threads of one worker.
        batch_size: images optimised at once, ``"auto"`` for as many as fit, None for the method's own choice.
        memory_share: this worker's share of the free memory of the machine or of the GPU.
        hang_seconds: seconds after which an unfinished shard ends its worker.
        max_attempts: failures after which a shard is quarantined.
        in_driver: True if the worker is the driver's own process.
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
    """The result of one worker's attempt at a shard.

    Attributes:
        shard_id: number of the shard.
        outcome: ``committed``; ``present`` (another worker had committed it); ``failed`` (the attempt counts,
            the shard may be tried again); ``quarantined``; ``stopped`` (the environment failed: nothing
            counts).
        detail: reason in words.
        error: class name of the `viewgen.errors` error behind ``stopped``, empty otherwise.
        seconds: wall-clock time of the attempt.
        fatal: True if further shards would meet the same obstacle.
        notes: notes of the worker since its last report, by topic: a fallback, a chosen batch size.
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
