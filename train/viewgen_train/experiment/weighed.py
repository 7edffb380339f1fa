"""Progress of an experiment: one bar in which tasks count by their seconds."""

from collections.abc import Mapping

from viewgen.progress import Bar

__all__ = ["Weighed"]


class Weighed:
    """The one bar of an experiment: tasks count by their seconds, expected or, of their like, measured.

    Args:
        bar: a bar of 100 units.
        seconds: (kind, name) → expected seconds of a task.
        pending: (kind, name) → number of tasks.
    """

    def __init__(
        self, bar: Bar, seconds: Mapping[tuple[str, str], float], pending: Mapping[tuple[str, str], int]
    ) -> None:
        self._bar, self._seconds, self._left = bar, dict(seconds), dict(pending)
        self._done, self._num_done, self._num_tasks = 0.0, 0, sum(pending.values())
        self._under_way: list[tuple[tuple[str, str], float]] = []

    def start(self, key: tuple[str, str]) -> None:
        """Add a task; its number is the count of those before it."""
        self._left[key] = max(0, self._left.get(key, 0) - 1)
        self._under_way.append((key, 0.0))

    def leave_out(self, key: tuple[str, str]) -> None:
        """Take out a task that cannot be done."""
        if self._left.get(key, 0):
            self._left[key] -= 1
            self._num_tasks -= 1

    def tell(self, number: int, share: float) -> None:
        """Set the share of a task that is done."""
        key, before = self._under_way[number]
        self._under_way[number] = key, max(before, min(1.0, share))
        self._show()

    def finish(self, number: int, seconds: float) -> None:
        """Count a task as done; diagnostics to come are expected to take as long as the last ones."""
        key, _ = self._under_way[number]
        self._under_way[number] = key, 1.0
        self._num_done += 1
        if seconds > 0 and key[0] == "diagnostics":
            self._seconds |= {one: seconds for one in self._seconds if one[0] == "diagnostics"}
        self._show()

    def forget(self) -> None:
        """End the numbering of tasks that are all done."""
        self._done += sum(self._of(key) for key, _ in self._under_way)
        self._under_way = []

    def _of(self, key: tuple[str, str]) -> float:
        return self._seconds.get(key, 1.0)

    def _show(self) -> None:
        done = self._done + sum(self._of(key) * share for key, share in self._under_way)
        left = sum(self._of(key) * (1 - share) for key, share in self._under_way)
        left += sum(self._of(key) * count for key, count in self._left.items())
        share = done / (done + left) if done + left else 1.0
        self._bar.update(100.0 * share, f"{self._num_done} of {self._num_tasks} tasks")
