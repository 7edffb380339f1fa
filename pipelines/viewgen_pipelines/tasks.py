"""Independent tasks on an executor, with one progress bar for all of them."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import TypeVar, cast

from viewgen.progress import Progress
from viewgen_pipelines.executors import Executor
from viewgen_pipelines.executors.executor import Work

__all__ = ["run_tasks"]

T = TypeVar("T")
R = TypeVar("R")


def run_tasks(
    executor: Executor,
    work: Work[T, R],
    tasks: Sequence[T],
    *,
    title: str,
    names: Sequence[str],
    noun: str,
    progress: Progress,
) -> Iterator[tuple[int, R]]:
    """Yield (place in `tasks`, result) in any order, and show the progress.

    Args:
        executor: executor of the tasks.
        work: function applied to each task.
        tasks: values that can be pickled.
        title: title of the bar.
        names: name of each task, for the line that reports its end.
        noun: plural noun for the tasks.
        progress: display of the progress.
    """
    shares = [0.0] * len(tasks)
    num_done = 0

    with progress.bar(title, len(tasks), unit="%", brief=True) as bar:

        def show(number: int, share: float) -> None:
            shares[number] = max(shares[number], share)
            bar.update(sum(shares), f"{num_done} of {len(tasks)} {noun}")

        results = executor.each(work, tasks, show)
        with contextlib.closing(cast(Generator[tuple[int, R], None, None], results)):
            for number, result in results:
                yield number, result
                num_done += 1
                show(number, 1.0)
                if not progress.is_terminal:
                    line = f"{names[number]} measured, {num_done} of {len(tasks)} {noun}"
                    progress.say(f"{line}, {bar.seconds:.0f} s")
