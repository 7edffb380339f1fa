"""Trainings still have the losses of 0.1.0, step by step."""

import json
from pathlib import Path

import pytest
from pinned import CURVES, NUM_STEPS, OBJECTIVES, losses, run, run_training, stored
from tolerances import assert_losses_close


@pytest.mark.parametrize("name", CURVES)
def test_twenty_steps_have_the_losses_of_the_first_version(name):
    """Equal up to rounding.

    Another processor adds the same float32 products in another order, and SGD on a small network enlarges
    the differences (see `tolerances.LOSSES`). A row of the metrics has six digits.
    """
    golden = stored("curves")["curves"][name]
    assert len(golden) == NUM_STEPS
    assert_losses_close(name, losses(run_training(name)), golden)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_three_steps_of_every_objective_have_the_losses_of_the_first_version(name):
    """Equal up to rounding, as above.

    The folder holds the identity that 0.1.0 gave the run: the command takes it up, and refuses it with
    another seed.
    """
    folder = Path("runs", name)
    folder.mkdir()
    identity = stored("identities")["runs"][name]
    (folder / "identity.json").write_text(json.dumps(identity))
    assert_losses_close(name, losses(run_training(name)), stored("curves")["objectives"][name])
    assert json.loads((folder / "identity.json").read_text()) == identity
    code, _, err = run(f"{OBJECTIVES[name]} --out {folder} --seed 77")
    assert code == 3
    assert "seed" in err
