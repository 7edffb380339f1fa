"""The campaign: a short seeded form in `make test`, the long one with Ray in `make chaos`."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from campaign import FAULTS, Campaign


@pytest.mark.parametrize("seed", [1])
def test_caches_come_out_right_whatever_is_killed(tmp_path, seed, no_flushing):
    campaign = Campaign(executor="local", folder=tmp_path, seed=seed, num_images=100, step_seconds=0.03)
    tally = campaign.run(num_faults=6)
    assert sum(tally[kind] for kind in FAULTS) >= 6
    assert tally["caches right"] >= 1


@pytest.mark.chaos
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("executor", "num_faults"),
    [("local", 40), pytest.param("ray", 20, marks=pytest.mark.xdist_group("ray"))],
)
def test_the_long_campaign(tmp_path, executor, num_faults, tally):
    seed = random.randrange(10**6)
    print(f"\n{executor}: seed {seed}", flush=True)
    found = Campaign(executor=executor, folder=tmp_path, seed=seed).run(num_faults=num_faults)
    tally(f"{executor}, seed {seed}: {dict(sorted(found.items()))}")
    assert sum(found[kind] for kind in FAULTS) >= num_faults
    assert found["caches right"] >= 1
