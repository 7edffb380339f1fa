"""The rate of workers, from the times of shards alone."""

import pytest
from workers import CLOCK_SECONDS, lanes_of, later_rate


def times(*lanes, pause=0.2):
    """Return begins and ends of shards that take so many seconds, one lane after another."""
    begins, ends = {}, {}
    for lane in lanes:
        now = 0.0
        for seconds in lane:
            begins[len(begins)], now = now, now + seconds
            ends[len(ends)] = now
            now += pause
    return begins, ends


@pytest.mark.parametrize("late", [0.0, 0.9 * CLOCK_SECONDS])
def test_shards_go_to_the_worker_that_had_become_free(late):
    lanes = [3.0, 1.0, 1.0, 1.0], [1.0, 2.5, 1.2]
    begins, ends = times(*lanes, pause=0.01)
    found = lanes_of({shard: begin - late for shard, begin in begins.items()}, ends, 2)
    assert sorted(map(len, found)) == [3, 4]
    assert {tuple(lane) for lane in found} == {tuple(list(ends.values())[:4]), tuple(list(ends.values())[4:])}


def test_a_slow_beginning_does_not_count():
    begins, ends = times([9.0, *[0.8] * 9], [7.0, *[0.8] * 9])
    assert later_rate(lanes_of(begins, ends, 2)) == pytest.approx(2.0)


def test_the_last_shards_of_a_worker_alone_do_not_count():
    """Alone on the machine it is faster."""
    begins, ends = times([0.8] * 10, [0.8] * 10 + [0.1] * 3)
    assert later_rate(lanes_of(begins, ends, 2)) == pytest.approx(2.0)


def test_a_worker_alone():
    begins, ends = times([2.0, *[0.3] * 8])
    assert later_rate(lanes_of(begins, ends, 1)) == pytest.approx(2.0)
