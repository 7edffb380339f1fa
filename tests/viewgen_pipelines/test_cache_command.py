"""The command as users meet it: output, exit codes, signals, a second driver."""

import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest
from dying_driver import start_driver
from expected_cache import assert_every_image_once

from viewgen.cli import main
from viewgen.cli.cache import say_what_comes_next

pytestmark = pytest.mark.usefixtures("no_flushing")

OPTIONS = {"views": 2, "limit": 60, "shard_images": 16}


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "c.zarr")


@pytest.fixture
def run(capsys, url):
    """Return a function that runs the command in this process: (exit code, stdout, stderr)."""

    def run_command(*words, **changes):
        options = (
            OPTIONS | {"dataset": "digits", "method": "faulty", "executor": "local", "out": url} | changes
        )
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            main(["cache", *given, *words])
        signal.signal(signal.SIGTERM, handler)
        return caught.value.code, *capsys.readouterr()

    return run_command


def test_json_is_one_object_on_standard_output_and_4_means_incomplete(run, faults):
    faults(**{"raise": [3]}, late=[7])
    code, out, err = run("--json")
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
        "precision",
        "notes",
        "quality",
        "verdict",
    }
    assert document["quarantined"] == [{"shard": 0, "row": 3, "reason": "ValueError: bad samples [3]"}]
    assert "converged 58, not converged 1, missing 1" in err
    assert "missing: row 3: ValueError: bad samples [3]" in err


def test_a_complete_cache_prints_its_url_and_shows_some_of_it(
    run, url, tmp_path, faults, check_command, monkeypatch
):
    monkeypatch.setattr("sys.argv", [str(tmp_path / ".venv/bin/viewgen")])
    monkeypatch.chdir(tmp_path)
    code, out, err = run()
    following = [line.split() for line in err.partition("next:\n")[2].splitlines()]
    assert [words[:2] for words in following] == [
        [".venv/bin/viewgen", "train"],
        [".venv/bin/viewgen", "inspect"],
    ]
    assert all(words[-1] == "c.zarr" for words in following)
    for words in following:
        check_command(words[1:])
    assert (code, out) == (0, f"{url}\n")
    assert "60 of 60 images × 2 views" in err
    assert f"contact sheet: {tmp_path / 'c.png'}" in err
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_commands_that_follow_name_split_folder_and_storage(capsys, monkeypatch, check_command):
    monkeypatch.setattr("sys.argv", ["viewgen"])
    monkeypatch.setenv("VIEWGEN_DATA", "/data")
    options = {"anon": True, "client_kwargs": {"region_name": "eu"}}
    say_what_comes_next("s3://b/my views.zarr", split="test", data_root="/my data", storage_options=options)
    lines = capsys.readouterr().err.splitlines()[1:]
    for line in lines:
        words = shlex.split(line)
        check_command(words[1:])
        assert words[-1] == "s3://b/my views.zarr"
        assert "--storage-option=anon=true --storage-option=client_kwargs.region_name=eu" in line
        assert "--data-root '/my data'" in line
    assert ["--split test" in line for line in lines] == [True, False]
    say_what_comes_next("/v.zarr", data_root="/data")
    assert "--data-root" not in capsys.readouterr().err
    say_what_comes_next("memory://views.zarr")
    assert capsys.readouterr().err == ""


def test_another_configuration_is_exit_code_3_with_the_difference(run, url, faults):
    assert run()[0] == 0
    code, out, err = run("--json", seed=1, sigma=0.5)
    assert (code, out) == (3, "")
    assert "seed: the cache has 0, this command asks for 1" in err
    assert "config.sigma: the cache has 0.25, this command asks for 0.5" in err
    assert_every_image_once(url, num_images=60)


def test_two_drivers_one_is_refused_and_the_other_finishes(run, url, tmp_path, faults):
    path = faults(seconds=100)
    first = start_driver(path, out=url, **OPTIONS)
    wait_for(Path(url) / "run/attempts/00000000-01-started.json")
    code, out, err = run()
    assert code == 1
    assert out == ""
    assert "is being written by run" in err
    assert f"process {first.pid}" in err
    assert "Traceback" not in err
    faults()
    first.join(60)
    assert first.exitcode == 0
    assert_every_image_once(url, num_images=60)


@pytest.mark.parametrize(("kill", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_the_same_command_goes_on(run, url, tmp_path, faults, kill, code):
    path = faults(seconds=0.3)
    driver = start_driver(path, out=url, **OPTIONS)
    wait_for(Path(url) / "commits/00000000.json")
    asked = time.monotonic()
    os.kill(driver.pid, kill)
    driver.join(60)
    assert time.monotonic() - asked < 30
    err = Path(f"{path}.stderr").read_text()
    assert driver.exitcode == code, err
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not (Path(url) / "commits/00000003.json").exists()
    faults()
    assert run(max_attempts=1)[0] == 0
    assert_every_image_once(url, num_images=60)


def wait_for(path, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
