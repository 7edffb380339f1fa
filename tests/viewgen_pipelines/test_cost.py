"""Estimates of `viewgen cache --dry-run`: from images that are made, or a bound."""

import json

import pytest

from viewgen.cli import main
from viewgen_pipelines import cost
from viewgen_pipelines.cache import cache

WORDS = ["--dataset=digits", "--limit=16", "--views=2", "--executor=local", "--max-steps=3",
         "--set=invert.max_steps=4"]  # fmt: skip


def dry_run(tmp_path, capsys, *more, words=WORDS):
    with pytest.raises(SystemExit) as end:
        main(["cache", *words, f"--out={tmp_path / 'c.zarr'}", "--dry-run", "--json", *more])
    assert not end.value.code
    assert not (tmp_path / "c.zarr").exists()
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_a_dry_run_estimates_the_time_of_both_stages(tmp_path, capsys):
    document, err = dry_run(tmp_path, capsys, "--estimate")
    assert [(row["stage"], row["num_images"], row["at_most"]) for row in document["estimate"]] == [
        ("invert", 16, False),
        ("wsearch", 16, False),
    ]
    assert all(0 < row["seconds"] < 1000 for row in document["estimate"])
    assert "time: invert about " in err
    document, err = dry_run(tmp_path, capsys, "--no-estimate")
    assert "estimate" not in document
    assert "time:" not in err


def test_a_long_search_is_bounded_by_its_largest_number_of_updates(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost, "ENOUGH_SECONDS", 0.0)
    short = dry_run(tmp_path, capsys, "--estimate")[0]["estimate"]
    assert [row["at_most"] for row in short] == [True, True]
    words = [*WORDS[:-2], "--max-steps=3000", "--set=invert.max_steps=4000"]
    long = dry_run(tmp_path, capsys, "--estimate", words=words)[0]["estimate"]
    assert long[1]["seconds"] > 50 * short[1]["seconds"]


def test_what_is_there_costs_nothing(tmp_path):
    options = {"method": "expert", "views": 2, "limit": 16, "executor": "local", "quiet": True}
    url = str(tmp_path / "c.zarr")
    cache("digits", out=url, **options)
    found = cache("digits", out=url, dry_run=True, estimate=True, **options)
    assert [row["seconds"] for row in found.estimate] == [0.0]


@pytest.mark.parametrize(
    ("executor", "workers", "expected"), [("local", None, 1), ("ray", 5, 3), ("ray", 2, 2), ("ray", None, 2)]
)
def test_workers_are_as_many_as_there_is_work_and_room_for(monkeypatch, executor, workers, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(cost, "available_cores", lambda: 2)
    assert cost.expected_workers(executor, workers, num_shards=3) == expected
