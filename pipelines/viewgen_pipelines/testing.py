"""Contract of executors as a pytest class; see `viewgen.testing`.

Its work is done by functions of this module, which every worker can import.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from viewgen.errors import DataError, UsageError, ViewgenError
from viewgen_pipelines.executors.executor import Executor, Place, Tell

__all__ = ["ExecutorContract"]


class RecordingWorker:
    """Worker of a pool that notes its beginning, its tasks and its end as files of a folder."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder, self.place = folder, place
        self.name = f"{os.getpid()}-{time.monotonic_ns()}"

    def __enter__(self) -> "RecordingWorker":
        (self.folder / f"begun-{self.name}").touch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self.folder / f"ended-{self.name}").touch()

    def run(self, number: int) -> tuple[int, str, str]:
        """Return the number's square, the worker's name and its device."""
        (self.folder / f"number-{number}-{self.name}").touch()
        return number**2, self.name, self.place.device


def squared(task: int, place: Place, tell: Tell) -> dict[str, Any]:
    """Return a task's square, after telling how far it is."""
    for share in (0.0, 0.5, 1.0):
        tell(share)
    return {"square": task**2, "device": place.device, "num_threads": place.num_threads}


def refusing(task: int, place: Place, tell: Tell) -> int:
    """Raise an error for one of the tasks."""
    if task == 2:
        raise DataError("task 2 cannot be done")
    return task


class ExecutorContract:
    """Contract of an executor; subclasses provide the fixture `executor`.

    Attributes:
        num_tasks: number of tasks of a test.
    """

    num_tasks = 5

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        """The executor under test, ready to run tasks."""
        raise NotImplementedError("give the fixture `executor`")

    @pytest.fixture
    def start(self, tmp_path: Path) -> Callable[[Place], Any]:
        """Function that makes a worker of a pool; all workers must see its folder."""
        return partial(RecordingWorker, tmp_path)

    def test_it_says_what_its_workers_have(self, executor: Executor) -> None:
        assert isinstance(executor.place, Place)
        assert executor.place.num_threads >= 1
        assert 0 < executor.place.memory_share <= 1
        assert {executor.in_driver, executor.elsewhere, executor.owns_session} <= {True, False}
        assert not (executor.in_driver and executor.elsewhere)

    def test_every_number_once(self, executor: Executor, start: Callable[[Place], Any]) -> None:
        numbers = [3, 0, 17, 4, 5]
        found = sorted(result for result, _, _ in executor.pool(start, numbers))
        assert found == sorted(number**2 for number in numbers)

    def test_a_worker_keeps_its_set_up(
        self, executor: Executor, start: Callable[[Place], Any], tmp_path: Path
    ) -> None:
        results = list(executor.pool(start, range(self.num_tasks)))
        assert {device for _, _, device in results} == {executor.place.device}
        begun = {path.name.removeprefix("begun-") for path in tmp_path.glob("begun-*")}
        assert {name for _, name, _ in results} <= begun
        assert len(begun) <= self.num_tasks
        done = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("number-*"))
        assert done == [*range(self.num_tasks)]

    def test_a_check_that_fails_ends_the_run(self, executor: Executor, start: Callable[[Place], Any]) -> None:
        seen: list[int] = []

        def check() -> None:
            if seen:
                raise UsageError("stop here")

        results = executor.pool(start, range(self.num_tasks), check)
        with pytest.raises(UsageError, match="stop here"):
            seen.extend(result for result, _, _ in results)
        assert len(seen) == 1

    def test_a_closed_run_ends(
        self, executor: Executor, start: Callable[[Place], Any], tmp_path: Path
    ) -> None:
        results: Any = executor.pool(start, range(self.num_tasks))
        with closing(results):
            next(results)
        assert next(results, None) is None
        if executor.in_driver:
            assert len([*tmp_path.glob("ended-*")]) == 1

    def test_each_result_at_the_place_of_its_task(self, executor: Executor) -> None:
        tasks = [7, 1, 5]
        told: list[tuple[int, float]] = []
        found = dict(executor.each(squared, tasks, lambda place, share: told.append((place, share))))
        assert {place: result["square"] for place, result in found.items()} == {0: 49, 1: 1, 2: 25}
        assert {result["device"] for result in found.values()} == {executor.place.device}
        assert {result["num_threads"] for result in found.values()} == {executor.place.num_threads}
        assert all(place in range(3) and 0 <= share <= 1 for place, share in told)

    def test_an_error_of_a_task_ends_the_run(self, executor: Executor) -> None:
        with pytest.raises(ViewgenError, match="task 2 cannot be done"):
            list(executor.each(refusing, range(self.num_tasks), lambda *_: None))

    def test_no_task_is_no_work(self, executor: Executor) -> None:
        assert list(executor.each(squared, [], lambda *_: None)) == []
