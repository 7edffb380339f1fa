"""What was made under the identities of 0.1.0 is found under them for ever."""

import json

import pytest
import reach
from pinned import CACHE_IDENTITIES, RUN_IDENTITIES, done, run, stored

IDENTITIES = stored("identities")


@pytest.mark.parametrize("name", CACHE_IDENTITIES)
def test_a_command_has_the_identity_of_the_first_version(name):
    """The strings are equal."""
    document = reach.cache_document(CACHE_IDENTITIES[name])
    assert document["attributes"]["viewgen"]["identity"] == IDENTITIES["planned"][name]["identity"]


@pytest.mark.parametrize("name", CACHE_IDENTITIES)
def test_a_command_takes_up_a_cache_of_the_first_version(name, tmp_path):
    """Where a cache of 0.1.0 was begun, the same command goes on, and one with another seed is refused."""
    (tmp_path / "zarr.json").write_text(json.dumps(IDENTITIES["planned"][name]["zarr.json"]))
    words = f"{CACHE_IDENTITIES[name]} --out {tmp_path} --dry-run"
    done(words)
    code, _, err = run(f"{words} --seed 77")
    assert code == 3
    assert "seed" in err


def test_identities_differ():
    found = [entry["identity"] for entry in IDENTITIES["planned"].values()]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", RUN_IDENTITIES)
def test_a_training_has_the_identity_of_the_first_version(name):
    """Every part is equal."""
    assert reach.run_identity(RUN_IDENTITIES[name]) == IDENTITIES["runs"][name]
