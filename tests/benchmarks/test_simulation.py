"""The simulation of many workers against closed forms, a plain loop and the recordings it draws from."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scaling import sweeps
from scaling_figures import draw_all
from simulation import Recording, Scenario, list_schedule, simulate

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def run(costs, num_workers=1, **changes):
    """Simulate shards with these seconds."""
    sizes = {"num_images": len(costs), "shard_images": 1, "num_workers": num_workers}
    return simulate(Scenario(**(sizes | changes)), costs=np.asarray(costs, float))


@pytest.fixture
def recording():
    random = np.random.default_rng(0)
    steps = random.geometric(0.2, (40, 8)).tolist()
    seconds = [0.5 * len(s) + 0.1 * sum(s) + 0.3 * max(s) for s in steps]
    return Recording.fit(steps, seconds)


@pytest.mark.parametrize("assignment", ["static", "dynamic"])
@pytest.mark.parametrize(("num_shards", "num_workers"), [(1, 1), (12, 4), (13, 4), (3, 8), (1000, 7)])
def test_equal_shards_take_full_rounds(assignment, num_shards, num_workers):
    outcome = run([3.0] * num_shards, num_workers, assignment=assignment, start=10.0)
    expected = 10 + math.ceil(num_shards / num_workers) * 3
    assert outcome.seconds == pytest.approx(expected)
    assert outcome.efficiency == pytest.approx(num_shards * 3 / (num_workers * expected))
    assert sum(outcome.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 16])
def test_dynamic_assignment_is_list_scheduling(num_workers):
    random = np.random.default_rng(num_workers)
    for size in (1, 5, 40):
        costs = random.exponential(size=size).tolist()
        assert run(costs, num_workers).seconds == pytest.approx(list_schedule(costs, num_workers))


def test_static_assignment_waits_for_the_longest_share():
    costs = np.random.default_rng(3).exponential(size=50)
    expected = max(costs[first::7].sum() for first in range(7))
    assert run(costs, 7, assignment="static").seconds == pytest.approx(expected)


def test_dynamic_assignment_is_no_slower_than_static_where_costs_vary():
    longer = [
        run(costs, 16, assignment="static").seconds / run(costs, 16).seconds
        for costs in np.random.default_rng(4).gamma(4, size=(20, 400))
    ]
    assert min(longer) > 1
    assert np.mean(longer) > 1.1


def test_a_slow_worker_holds_static_shares_up_and_dynamic_ones_hardly():
    costs = [1.0] * 800
    slow = {"slow_share": 1 / 8, "slow_factor": 4.0}
    assert run(costs, 8, assignment="static", **slow).seconds == pytest.approx(400)
    # seven workers and a quarter, and at most the slow one's last shard
    dynamic = run(costs, 8, **slow)
    assert 800 / 7.25 <= dynamic.seconds <= 800 / 7.25 + 4
    assert dynamic.shares["slow"] == pytest.approx(3 * dynamic.shares["work"] / 29, rel=0.1)


def test_failures_cost_what_renewal_theory_says():
    """A shard of w seconds that starts over at each failure (rate r, repair R) takes (1/r + R)(e^rw − 1)."""
    work, mtbf, restart = 2.0, 5.0, 3.0
    outcome = run([work] * 20000, 4, mtbf=mtbf, restart=restart, seed=1)
    expected = (mtbf + restart) * math.expm1(work / mtbf) * 20000 / 4
    assert outcome.seconds == pytest.approx(expected, rel=0.02)  # 5 standard errors
    assert outcome.shares["failures"] == pytest.approx(1 - outcome.shares["work"], abs=1e-3)


def test_a_worker_pauses_between_shards():
    outcome = run([1.0] * 30, 3, pause=0.25, request=0.1, requests=5)
    assert outcome.seconds == pytest.approx(10 * 1.75)
    assert outcome.shares["overhead"] == pytest.approx(0.75 / 1.75)


def test_the_driver_serves_one_shard_at_a_time():
    # 100 workers want a shard every second, the driver hands out 20 a second
    outcome = run([1.0] * 2000, 100, driver=0.05)
    assert outcome.seconds == pytest.approx(2000 * 0.05 + 1, rel=0.02)


@pytest.mark.parametrize("compacted", [False, True])
def test_the_log_is_opened_and_markers_are_listed(compacted):
    names = {"list_name": 1e-3, "list_record": (1e-2, 1e-4), "log_openings": 3, "compacted": compacted}
    outcome = run([1.0] * 5000, **names)
    # markers of the shards that are done: all of them, or those of the block under way
    listed = 5 * sum(range(1000)) if compacted else sum(range(5000))
    expected = 5000 + listed * 1e-3 + 3 * 5000 * (1e-4 if compacted else 1e-2)
    assert outcome.seconds == pytest.approx(expected)


def test_the_same_seed_gives_the_same_run_and_shards_do_not_depend_on_workers(recording):
    scenario = Scenario(num_images=993, shard_images=16, num_workers=5, mtbf=50.0, restart=1.0)
    assert simulate(scenario, recording) == simulate(scenario, recording)
    costs = recording.shard_seconds(993, 16, seed=0)
    assert len(costs) == 63
    assert costs[-1] < costs[:-1].min()  # one image
    assert not np.array_equal(costs, recording.shard_seconds(993, 16, seed=1))


def test_shards_are_drawn_as_they_were_recorded(recording):
    """The line is found again; sums and maxima have the distribution of drawing image by image."""
    assert recording.coefficients == pytest.approx((0.5, 0.1, 0.3))
    drawn = recording.shard_seconds(64 * 4000, 64, seed=0)
    random = np.random.default_rng(5)
    values = np.repeat(np.arange(len(recording.step_counts)), recording.step_counts)
    steps = random.choice(values, (4000, 64))
    direct = 0.5 * 64 + 0.1 * steps.sum(1) + 0.3 * steps.max(1)
    for share in (0.05, 0.5, 0.95):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(direct, share), rel=0.01)


def test_it_predicts_the_shards_of_another_recording():
    """Shards of 64 images, made by two workers, from the line and steps of shards of 16, made by one."""
    recordings = json.loads((RESULTS / "scaling_recordings.json").read_text())["recordings"]
    small, large = (
        next(r for r in recordings if r["shard_images"] == shard_images) for shard_images in (16, 64)
    )
    drawn = Recording.fit(small["steps"], small["seconds"]).shard_seconds(64 * 2000, 64, seed=0)
    full = [s for s, steps in zip(large["seconds"], large["steps"], strict=True) if len(steps) == 64]
    assert np.mean(drawn) == pytest.approx(np.mean(full), rel=0.2)  # another day's load on the machine


def test_impossible_scenarios_are_refused():
    for changes in ({"num_workers": 0}, {"slow_factor": 0.5}, {"mtbf": 0.0}, {"speed": 0.0}):
        with pytest.raises(ValueError, match=r"expected|positive"):
            Scenario(**({"num_images": 1, "shard_images": 1, "num_workers": 1} | changes))


@pytest.mark.chaos
def test_the_sweeps_behind_the_pictures(recording, tmp_path):
    times = {"request": 0.02, "list_name": 1e-4, "list_record": (1e-3, 1e-4), "driver": 0.01}
    found = sweeps(recording, times, most_images=50_000)
    by_fleet = [found[f"workers, {fleet}"] for fleet in ("calm dynamic", "dynamic", "static")]
    for calm, dynamic, static in zip(*by_fleet, strict=True):
        assert calm["num_workers"] == dynamic["num_workers"] == static["num_workers"]
        # with few shards a worker, chance decides whether a slow one gets one more
        if 50_000 / 512 / calm["num_workers"] > 4:
            assert calm["seconds"] <= 1.02 * dynamic["seconds"] <= 1.02**2 * static["seconds"]
    log = {"local_disk": [{"records": 10, "seconds": {"list single": 1.0, "list compacted": 0.1}}]}
    paths = draw_all({"sweeps": found, "times": times}, log, tmp_path)
    assert [path.stat().st_size > 10_000 for path in paths] == [True] * 3
