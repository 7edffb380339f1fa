"""`viewgen experiment` on the command line, and its cost before it is run."""

import json

import pytest
from click.testing import CliRunner

from viewgen.cli import cli
from viewgen.errors import UsageError
from viewgen_train.experiment.cost import NUM_MEASURED, ExperimentCost, TaskCost


def run(*words: str):
    return CliRunner().invoke(cli, ["experiment", *words], catch_exceptions=False)


@pytest.fixture
def words(toy_text, tiny_root, tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(toy_text)
    return [str(path), "--data-root", tiny_root, "--executor", "local", "--out", str(tmp_path / "out")]


def test_it_lists_what_ships():
    names = [entry["name"] for entry in json.loads(run("--list", "--json").stdout)["experiments"]]
    assert names == [
        "ablation-alpha", "ablation-epsilon", "ablation-lambda", "ablation-sigma",
        "augmentation-ladder", "bounds-encoders", "color-strength-control", "color-strength",
        "concentration-augmentations", "concentration-views", "cures", "flows",
        "ifm-difficulty", "ifm-digits", "ifm-epsilon", "ifm-robust-sets", "linear-loss", "losses", "mi-table",
        "objectives", "rcl-augmentations", "rcl", "recipes", "richer-augmentations",
        "seen", "shared-factors", "shortcut-views", "sweep-color", "sweep-crop", "sweep-frequency",
        "sweep-generated", "sweep-jitter", "sweep-patches", "table1", "views-per-image",
    ]  # fmt: skip
    assert "Table 1 of Constructive Assimilation" in run("--list").stdout
    assert run().exit_code == 2


def test_it_runs_and_tells_the_words(words, made_up, tmp_path):
    result = run(*words, "--seeds", "0-1,4", "--only", "plain", "--only", "a2", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found.keys() == {"folder", "table", "num_done", "num_trainings", "diverged", "words", "unfinished"}
    assert (found["num_done"], found["num_trainings"]) == (9, 9)
    assert [name for name in made_up.done if name.startswith("plain")] == ["plain 0", "plain 1", "plain 4"]
    again = run(*words, "--seeds", "0-1,4")
    assert again.stdout == f"{tmp_path}/out/table.md\n"
    assert "Is it more? A2, α 0.5 is lower than SimCLR" in again.stderr
    assert run(*words, "--report").exit_code == 0


@pytest.mark.parametrize("seeds", ["a", "1-", "", "1-b", "3-1"])
def test_seeds_that_are_none(words, seeds):
    result = run(*words, "--seeds", seeds)
    assert result.exit_code == 2
    assert "expected such as 0-4 or 0,2,7" in result.output


def test_options_that_contradict(words):
    with pytest.raises(UsageError, match="--dry-run and --report"):
        run(*words, "--dry-run", "--report")
    with pytest.raises(UsageError, match="--executor local has one worker"):
        run(*words, "--workers", "2")


def test_the_cost_is_measured_and_nothing_written(words, tmp_path, monkeypatch):
    timed = []

    def estimate(settings, *, num_images, **_):
        from viewgen_train.cost import TrainEstimate

        timed.append(settings.assimilation.kind)
        return TrainEstimate(
            seconds=0.0,
            images_per_second=8.0,
            step_bytes=1,
            data_bytes=1,
            measured_batch=8,
            device="cpu",
            without="",
        )

    monkeypatch.setattr("viewgen_train.experiment.cost.estimate", estimate)
    found = json.loads(run(*words, "--dry-run", "--json").stdout)
    # the steps of A2 with another α take as long
    assert timed == ["none", "A2"]
    tasks = {task["name"]: task for task in found["tasks"]}
    assert tasks.keys() == {"same", "plain", "a2[alpha=0.25]", "a2[alpha=0.5]"}
    # 21 images, 2 epochs of 2 steps of 8 at 8 images a second; 29 images embedded twice on the way and once
    # at the end, each of which takes a third of one of the 2 or 3 views of a step
    plain, a2 = 4.0 + 3 * 29 / (3 * 2) / 8, 4.0 + 3 * 29 / (3 * 3) / 8
    assert (tasks["plain"]["count"], tasks["plain"]["seconds"]) == (3, pytest.approx(plain))
    assert tasks["same"]["num_bytes"] == 21 * 2 * 3 * 8 * 8
    assert tasks["same"]["seconds"] > 0
    assert NUM_MEASURED < 21
    assert found["worker_hours"] == pytest.approx((3 * plain + 6 * a2 + tasks["same"]["seconds"]) / 3600)
    assert (found["workers"], found["hours"]) == (1, found["worker_hours"])
    assert not (tmp_path / "out").exists()


def test_the_cost_as_text():
    tasks = (
        TaskCost(
            kind="cache", name="wsearch", count=1, seconds=None, num_bytes=2_000_000, note="no generator"
        ),
        TaskCost(kind="training", name="a2", count=5, seconds=7200.0, num_bytes=200_000_000),
    )
    cost = ExperimentCost(title="table1 digits small", tasks=tasks, device="cpu", workers=2)
    assert cost.lines() == [
        "table1 digits small",
        "  cache     wsearch    1 × not measured, 2.0 MB each  (no generator)",
        "  training  a2         5 ×        2.0 h, 200.0 MB each",
        "6 tasks, 10.00 hours of one worker on cpu, 5.00 hours with 2; 1.00 GB",
        "accuracies are counted as passes of their images; not included: fits of probes, measurements of "
        "the caches",
    ]


def test_the_cost_of_what_is_left(words, made_up, monkeypatch):
    run(*words, "--seeds", "0")
    found = json.loads(run(*words, "--dry-run", "--json").stdout)
    assert {task["name"]: task["count"] for task in found["tasks"]} == {
        "plain": 2, "a2[alpha=0.25]": 2, "a2[alpha=0.5]": 2,
    }  # fmt: skip
