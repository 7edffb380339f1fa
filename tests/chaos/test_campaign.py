"""The campaign: a short seeded form in `make test`, the long one with Ray in `make chaos`."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from campaign import FAULTS, Campaign, print_tally


@pytest.mark.parametrize("seed", [1])
def test_caches_come_out_right_whatever_is_killed(tmp_path, seed, no_flushing):
    campaign = Campaign(executor="local", folder=tmp_path, seed=seed, num_images=150, step_seconds=0.03)
    tally = campaign.run(num_faults=12)
    assert sum(tally[kind] for kind in FAULTS) >= 12
    assert tally["caches right"] >= 1


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_the_long_campaign(tmp_path, executor):
    seed = random.randrange(10**6)
    print(f"\n{executor}: seed {seed}", flush=True)
    tally = Campaign(executor=executor, folder=tmp_path, seed=seed).run(num_faults=40)
    print_tally(executor, seed, tally)
    assert sum(tally[kind] for kind in FAULTS) >= 40
    assert tally["caches right"] >= 1
