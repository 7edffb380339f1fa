"""The command as users meet it: output, exit codes, signals, a second driver."""

import json
import signal
import time
from pathlib import Path

import pytest
from expected_cache import assert_every_image_once

WORDS = ("--dataset", "digits", "--method", "faulty", "--views", "2", "--limit", "60", "--shard-images", "16")


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "c.zarr")


def test_json_is_one_object_on_standard_output_and_4_means_incomplete(run, url, faults):
    faults(**{"raise": [3]}, late=[7])
    code, out, err = run("cache", *WORDS, "--executor", "local", "--out", url, "--json")
    assert code == 4
    document = json.loads(out)
    assert set(document) == {
        "url",
        "num_images",
        "num_views",
        "epsilon_boundary",
        "converged_share",
        "mean_pairwise",
        "seconds",
        "views_per_second",
        "quarantined",
    }
    assert document["quarantined"] == [{"shard": 0, "row": 3, "reason": "ValueError: bad samples [3]"}]
    assert "converged 58, not converged 1, missing 1" in err
    assert "missing: row 3: ValueError: bad samples [3]" in err


def test_a_complete_cache_prints_its_url(run, url, faults):
    code, out, err = run("cache", *WORDS, "--executor", "local", "--out", url)
    assert (code, out) == (0, f"{url}\n"), err
    assert "60 of 60 images × 2 views" in err


def test_two_drivers_one_is_refused_and_the_other_finishes(start, run, url, faults):
    faults(seconds=8)
    first = start("cache", *WORDS, "--executor", "local", "--out", url)
    wait_for(Path(url) / "run/attempts/00000000-01-started.json")
    code, out, err = run("cache", *WORDS, "--executor", "local", "--out", url)
    faults()
    assert code == 1
    assert out == ""
    assert "is being written by run" in err
    assert f"process {first.pid}" in err
    assert "Traceback" not in err
    assert first.wait(timeout=60) == 0
    assert_every_image_once(url, num_images=60)


@pytest.mark.parametrize(("kill", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_the_same_command_goes_on(start, run, url, faults, kill, code):
    faults(seconds=0.5)
    driver = start("cache", *WORDS, "--executor", "local", "--out", url)
    wait_for(Path(url) / "commits/00000000.json")
    asked = time.monotonic()
    driver.send_signal(kill)
    _, err = driver.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert driver.returncode == code, err
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not (Path(url) / "commits/00000003.json").exists()
    faults()
    assert run("cache", *WORDS, "--executor", "local", "--out", url, "--max-attempts", "1")[0] == 0
    assert_every_image_once(url, num_images=60)


def wait_for(path, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
