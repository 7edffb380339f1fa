"""Workers of a Ray session: their number, and the share of cores, GPUs and memory of each."""

from collections.abc import Callable
from dataclasses import dataclass

from viewgen.errors import UsageError
from viewgen_pipelines.executors.executor import Place
from viewgen_pipelines.executors.session import RaySession

__all__ = ["Workers", "divide"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """A number of equal workers.

    Attributes:
        count: number of workers at once.
        gpus: GPUs per worker, fractions allowed.
        place: device, threads and memory per worker.
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
    """Choose the number of workers, threads and device from the resources of a session.

    A cluster may still grow, so there the run waits for resources that were requested explicitly. On a single
    machine the wait would never end.

    Args:
        session: session to divide.
        num_workers: number of workers; by default one per GPU, or one per core without GPUs.
        max_workers: upper bound on workers: the number of tasks.
        gpus_per_worker: GPUs per worker, fractions allowed; by default 1 where there are GPUs.
        say: callback with a line about the division, on a cluster.

    Raises:
        UsageError: more GPUs are requested than the session has.
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
