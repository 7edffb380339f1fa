"""A short seeded form of the campaign: `make chaos` runs the long one, with Ray."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from campaign import FAULTS, Campaign


@pytest.mark.parametrize("seed", [1, 2])
def test_caches_come_out_right_whatever_is_killed(tmp_path, seed, no_flushing):
    campaign = Campaign(executor="local", folder=tmp_path, seed=seed, num_images=150, step_seconds=0.03)
    tally = campaign.run(num_faults=12)
    assert sum(tally[kind] for kind in FAULTS) >= 12
    assert tally["caches right"] >= 1
