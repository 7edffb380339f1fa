"""Workers of a Ray session: how many, and what of its cores, GPUs and memory each has."""

from collections.abc import Callable
from dataclasses import dataclass

from viewgen.errors import UsageError
from viewgen_pipelines.executors.executor import Place
from viewgen_pipelines.executors.session import RaySession

__all__ = ["Workers", "divide"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """Equal workers.

    Attributes:
        count: how many at once.
        gpus: GPUs of each, fractions allowed.
        place: device, threads and memory of each.
    """

    count: int
    gpus: float
    place: Place


def divide(
    session: RaySession,
    *,
    num_workers: int | None = None,
    max_workers: int,
    gpus_per_worker: float | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Workers:
    """Settle workers, threads and device from what a session has.

    A cluster may still grow: what is asked for by name is waited for there. On a machine of its own the same
    would be waited for in vain.

    Args:
        session: what there is.
        num_workers: by default one per GPU, or per core without.
        max_workers: no more workers than tasks.
        gpus_per_worker: fractions allowed; by default 1 where there are GPUs.
        say: is told of the division on a cluster.

    Raises:
        UsageError: more GPUs are asked for than there are.
    """
    grows = session.elsewhere
    num_cores, num_gpus = session.num_cores, session.num_gpus
    share = min(1.0, num_gpus) if gpus_per_worker is None else gpus_per_worker
    if share > num_gpus and not grows:
        raise UsageError(
            f"--gpus-per-worker {share:g}, but Ray sees {num_gpus:g} GPUs; leave the option out to "
            "compute on the processor"
        )
    if num_workers is None:
        count = max(1, int(num_gpus / share if share else num_cores))
    elif num_workers * share > num_gpus and not grows:
        raise UsageError(
            f"--workers {num_workers} need {num_workers * share:g} GPUs, {share:g} each, but "
            f"Ray sees {num_gpus:g}; give fewer --workers or a smaller --gpus-per-worker"
        )
    else:
        count = num_workers
    count = min(count, max_workers)
    num_threads = max(1, int(num_cores // count))
    neighbours = count
    if grows:
        # a worker that asks for more than a node has is never placed
        num_threads = max(1, min(num_threads, int(session.node_cores)))
        neighbours = max(1, min(count, int(session.node_cores) // num_threads))
        say(
            f"{count} workers with {num_threads} cores"
            + (f" and {share:g} GPUs" if share else "")
            + f" each, on a cluster that has {num_cores:g} cores and {num_gpus:g} GPUs now"
            + ("" if num_workers else "; --workers asks for more")
        )
    # of a GPU a worker has its part, of a machine's memory as much as each of its neighbours there
    memory_share = min(1.0, share) if share else 1 / neighbours
    place = Place(device="cuda" if share else "cpu", num_threads=num_threads, memory_share=memory_share)
    return Workers(count=count, gpus=share, place=place)
