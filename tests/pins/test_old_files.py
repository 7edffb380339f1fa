"""Caches and runs that 0.1.0 wrote are opened, checked, continued and evaluated."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from pinned import (
    CACHE,
    CURVES,
    EVALUATION,
    FINISHED,
    GOLDEN,
    INCOMPLETE,
    NUM_IMAGES,
    NUM_STEPS,
    UNFINISHED,
    accuracies,
    cache_arrays,
    done,
    golden_arrays,
    losses,
    run,
    stored,
)
from tolerances import ACCURACY, RESUMED_LOSS, assert_close, assert_method_close


def digests(folder: Path) -> dict[str, str]:
    """Return path → digest of every file but those of a run that works on a cache."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "run" not in path.relative_to(folder).parts and not path.name.startswith(".")
    }


def test_golden_files_are_small_and_name_no_machine():
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    for path in files:
        if path.suffix == ".json":
            text = path.read_text().replace('"host": "elsewhere"', "")
            assert not any(mark in text for mark in ('"/', "://", '"host"')), path


@pytest.mark.parametrize("name", ["cache.zarr", "inversions.zarr"])
def test_a_complete_cache_is_sound(name):
    report = json.loads(done(f"verify {name} --json"))
    assert (report["ok"], report["committed"], report["missing"]) == (True, 3, [])
    assert report["notes"] == []


def test_a_complete_cache_is_taken_as_it_is():
    before = digests(Path("cache.zarr"))
    result = json.loads(done(f"{CACHE} --json"))
    assert (result["num_images"], result["num_views"], result["views_per_second"]) == (NUM_IMAGES, 2, None)
    assert digests(Path("cache.zarr")) == before


def test_another_configuration_is_refused_where_an_old_cache_lies():
    code, _, err = run(CACHE + " --epsilon-boundary 0.2")
    assert code == 3
    assert "epsilon_boundary" in err


def test_an_incomplete_cache_is_completed():
    """Old shards stay as they are; new ones are those of 0.1.0 up to rounding (see the pins of methods)."""
    code, out, _ = run("verify incomplete.zarr --json")
    assert code == 4
    missing = json.loads(out)["missing"]
    assert 0 < len(missing) < 3
    committed = json.loads(out)["committed"]
    before = digests(Path("incomplete.zarr"))
    done(INCOMPLETE)
    after = digests(Path("incomplete.zarr"))
    kept = [name for name in before if name.startswith("commits/")]
    assert len(kept) == committed
    for name in kept:
        assert after[name] == before[name]
        for path in json.loads(Path("incomplete.zarr", name).read_text())["objects"]:
            assert after[path] == before[path]
    assert json.loads(done("verify incomplete.zarr --json"))["missing"] == []
    assert_method_close("wsearch", cache_arrays("incomplete.zarr"), golden_arrays("wsearch"))


def test_a_finished_run_is_not_trained_again():
    before = digests(Path("runs/finished"))
    result = json.loads(done(f"{FINISHED} --json"))
    assert (result["epochs"], result["images_per_second"]) == (NUM_STEPS, None)
    assert result["loss"] == pytest.approx(stored("curves")["curves"]["simclr"][-1])
    after = digests(Path("runs/finished"))
    weights = [name for name in before if name.endswith((".safetensors", ".pt", "metrics.csv"))]
    assert len(weights) == 4
    assert [name for name in weights if after[name] != before[name]] == []


def test_a_finished_run_is_evaluated_to_the_same_accuracy():
    """A few images lie between two classes: rounding decides them."""
    golden = json.loads((GOLDEN / "runs/finished/evaluation.json").read_text())
    found = json.loads(done(EVALUATION))
    assert accuracies(found).keys() == accuracies(golden).keys()
    assert_close(list(accuracies(found).values()), list(accuracies(golden).values()), ACCURACY)
    assert found["dataset"] == golden["dataset"]
    assert found["weights"]["digest"] == golden["weights"]["digest"]
    assert found["probe"] == golden["probe"]
    assert (found["epochs"], found["loss"]) == (golden["epochs"], golden["loss"])


def test_an_unfinished_run_goes_on_to_the_same_losses():
    """Steps before the checkpoint stay as they are; those after it are equal up to rounding."""
    begun = losses(Path("runs/unfinished"))
    golden = stored("curves")["curves"]["A2"]
    assert NUM_STEPS // 2 <= len(begun) < NUM_STEPS
    done(UNFINISHED)
    found = losses(Path("runs/unfinished"))
    assert found[: len(begun)] == begun
    assert_close(found, golden, RESUMED_LOSS)


def test_a_run_whose_checkpoints_have_digests_goes_on_to_the_same_losses():
    """Written by the version that added them, and stopped after twelve steps."""
    folder = Path("runs/digests")
    shutil.copytree(GOLDEN.parent / "attempts/run", folder)
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        data = (folder / name).read_bytes()
        archive, digest = data.rsplit(b"\nviewgen sha256:", 1)
        assert hashlib.sha256(archive).hexdigest() == digest.decode().strip()
    begun = losses(folder)
    assert len(begun) == 12
    done(f"{CURVES['A2']} --out {folder}")
    found = losses(folder)
    assert found[: len(begun)] == begun
    assert_close(found, stored("curves")["curves"]["A2"], RESUMED_LOSS)


def test_a_run_with_other_settings_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "runs/unfinished", tmp_path / "run")
    words = UNFINISHED.replace("runs/unfinished", str(tmp_path / "run"))
    code, _, err = run(f"{words} --set temperature=0.4")
    assert code == 3
    assert "temperature" in err
