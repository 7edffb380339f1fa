"""Keeps the log of a long run short during the run.

Workers write records and attempt markers one by one, and every process that opens the cache, resumes it or
begins a shard lists them. As soon as 1000 neighbouring shards are finished, their records move into one
object, and their markers, which the records make redundant, are deleted. The lists are then hardly longer
than the number of shards under way.
"""

from collections.abc import Callable, Iterable

from viewgen.errors import StorageError
from viewgen.store import CacheSpec, Storage, compact_commits
from viewgen.store.names import block_of, block_shards
from viewgen_pipelines.shards.ledger import AttemptLedger

__all__ = ["LogKeeper"]

# Shards from which a cache's log is kept short; below, single records are opened in a second or two.
_COMPACT_FROM = 2000


class LogKeeper:
    """Compacts the log of one run's cache; a kill at any moment loses nothing.

    Args:
        storage: storage of the cache.
        spec: specification of the cache.
        ledger: attempt ledger of the run.
        check: function that raises if the run has lost its lease.
        say: callback with lines about failures.
    """

    def __init__(
        self,
        storage: Storage,
        spec: CacheSpec,
        ledger: AttemptLedger,
        *,
        check: Callable[[], None],
        say: Callable[[str], object],
    ) -> None:
        self.storage = storage
        self.spec = spec
        self.ledger = ledger
        self.check = check
        self.say = say
        self._active = spec.num_shards >= _COMPACT_FROM
        num_blocks = block_of(spec.num_shards - 1) + 1 if self._active else 0
        self._unfinished = {block: set(block_shards(spec, block)) for block in range(num_blocks)}

    def add(self, finished: Iterable[int]) -> None:
        """Record committed shards; compact the blocks that are now complete."""
        touched = set()
        for shard_id in finished:
            block = block_of(shard_id)
            if block in self._unfinished:
                self._unfinished[block].discard(shard_id)
                touched.add(block)
        full = {block for block in touched if not self._unfinished[block]}
        if not full:
            return
        for block in full:
            del self._unfinished[block]
        self.check()
        try:
            compact_commits(self.storage, self.spec, full)
            self.ledger.forget(lambda shard_id: block_of(shard_id) in full)
        except StorageError as error:
            # the run goes on without; `finish` looks at all blocks again
            self.say(f"the records of finished shards could not be put together yet: {error}")

    def finish(self) -> None:
        """Put the records of all complete blocks together; call it when no worker runs any more."""
        if self._active:
            self.check()
            compact_commits(self.storage, self.spec)
