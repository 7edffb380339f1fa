"""The bar of an experiment: shares by seconds, tasks that are left out, seconds that are learned."""

import pytest

from viewgen_train.experiment.weighed import Weighed


class Bar:
    def update(self, done, text):
        self.done, self.text = done, text


@pytest.fixture
def bar():
    return Bar()


def test_tasks_count_by_their_seconds(bar):
    seconds = {("cache", "a"): 30.0, ("training", "b"): 10.0}
    weighed = Weighed(bar, seconds, {("cache", "a"): 1, ("training", "b"): 2})
    weighed.start(("cache", "a"))
    weighed.tell(0, 0.5)
    assert (bar.done, bar.text) == (pytest.approx(30.0), "0 of 3 tasks"), "15 of 50 seconds"
    weighed.tell(0, 0.2)
    assert bar.done == pytest.approx(30.0), "never backwards"
    weighed.finish(0, 31.0)
    weighed.forget()
    for number in range(2):
        weighed.start(("training", "b"))
        weighed.finish(number, 10.0)
        assert bar.done == pytest.approx(100 * (30 + 10 * (number + 1)) / 50)
    assert bar.text == "3 of 3 tasks"


def test_what_cannot_be_done_is_not_waited_for(bar):
    weighed = Weighed(
        bar, {("cache", "a"): 1.0, ("training", "b"): 9.0}, {("cache", "a"): 1, ("training", "b"): 1}
    )
    weighed.leave_out(("training", "b"))
    weighed.start(("cache", "a"))
    weighed.finish(0, 1.0)
    assert (bar.done, bar.text) == (pytest.approx(100.0), "1 of 1 tasks")


def test_diagnostics_to_come_take_as_long_as_the_last(bar):
    tasks = {("diagnostics", "a"): 1, ("diagnostics", "b"): 1}
    weighed = Weighed(
        bar, dict.fromkeys(tasks, 1.0) | {("training", "c"): 100.0}, {**tasks, ("training", "c"): 1}
    )
    weighed.start(("diagnostics", "a"))
    weighed.finish(0, 100.0)
    assert bar.done == pytest.approx(100 / 3)
