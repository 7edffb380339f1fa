"""The protocol in a simulated world: seeded schedules, and the faults of 0.1.0 that they must find.

A schedule that fails prints its seed and its trace; ``simulated_runs.py --seed N`` plays it again.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from old_faults import FAULTS, put_back
from simulated_runs import BrokenPromiseError, Schedule, run_schedules

# Seeds that find the faults with the steps that the code takes now; others are tried after them.
FIRST = {
    "a stopped process writes over a committed shard": 24,
    "a lost answer is believed": 5,
    "a conflict is an error": 5,
    "the clocks of two machines are compared": 20,
    "a damaged lease is trusted": 47,
}
assert FIRST.keys() == FAULTS.keys()

pytestmark = pytest.mark.filterwarnings("ignore:.*commit records are damaged")


def find(fault: str, first: int, num_schedules: int) -> list[int]:
    """Return the first seed whose schedule finds a fault that is put back, if one does."""
    for seed in range(first, first + num_schedules):
        try:
            with put_back(fault):
                Schedule(seed, **FAULTS[fault][1]).run()
        except BrokenPromiseError:
            return [seed]
    return []


@pytest.mark.parametrize("part", range(4))
def test_whatever_is_killed_stopped_lost_or_late_nothing_committed_changes(part):
    tally = run_schedules(range(1000 * part, 1000 * part + 50))
    assert tally["schedules"] == 50
    assert tally["stop"] > 10


@pytest.mark.parametrize(("fault", "first"), FIRST.items())
def test_a_fault_that_is_put_back_is_found(fault, first):
    """The first schedule finds it, unless the code takes other steps than when the seed was looked up."""
    assert find(fault, first, 200)


def test_a_schedule_is_played_again_step_by_step():
    runs = [Schedule(11) for _ in range(2)]
    for run in runs:
        run.run()
    assert runs[0].world.trace == runs[1].world.trace
    assert len(runs[0].world.trace) > 100


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(10))
def test_thousands_of_schedules(part, tally):
    seeds = range(10**6 + 500 * part, 10**6 + 500 * (part + 1))
    found = run_schedules(seeds)
    tally(f"seeds from {seeds.start}: {dict(sorted(found.items()))}")
    assert found["schedules"] == 500
