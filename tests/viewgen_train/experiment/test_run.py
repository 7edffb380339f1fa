"""An experiment from its file to its tables: what is run, kept, resumed and refused."""

import csv
import json
from pathlib import Path

import pytest

from viewgen.errors import (
    CacheMismatchError,
    CorruptDataError,
    DataError,
    LeaseError,
    UsageError,
    ViewgenError,
)
from viewgen.store import CacheReader
from viewgen_train.experiment.results import Record, ResultFolder
from viewgen_train.loop import only_run

pytestmark = pytest.mark.usefixtures("_free_cost")
ROWS = ("plain", "a2[alpha=0.25]", "a2[alpha=0.5]")


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return [*csv.DictReader(file)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def test_trained_measured_and_kept(run_toy, out, monkeypatch):
    """The whole, with real trainings; a second call does nothing, and writes the same."""
    options = {"seeds": (0,), "only": ("plain", "a2[alpha=0.5]")}
    result = run_toy(**options)
    assert (result.complete, result.num_trainings, result.diverged) == (True, 2, {})
    found = {(row["row"], row["measure"]): row for row in lines(out) if row["kind"] == "training"}
    assert {name for name, _ in found} == {"plain", "a2[alpha=0.5]"}
    for name in ("plain", "a2[alpha=0.5]"):
        assert 0 <= float(found[name, "top1"]["value"]) <= 1
        run = json.loads(
            (out / "runs" / name.replace("[", "-").rstrip("]") / "seed-0/evaluation.json").read_text()
        )
        assert float(found[name, "knn5_top1"]["value"]) == run["knn5_top1"]
    assert json.loads(found["a2[alpha=0.5]", "top1"]["axes"]) == {"train.alpha": 0.5}
    assert found["a2[alpha=0.5]", "top1"]["cache_identity"].startswith("sha256:")
    told = json.loads((out / "provenance.json").read_text())
    assert told["settings"]["a2[alpha=0.5]"]["network"]["width"] == 2
    assert told["results"]["training plain seed 0"]["versions"]["torch"]
    assert told["dataset"]["digest"].startswith("sha256:")
    curves = (out / "curves.csv").read_text().splitlines()
    assert len([line for line in curves if line.startswith("plain,0,knn5_top1")]) == 2
    assert {path.name for path in out.glob("*.png")} == {"bars.png", "curves.png"}
    assert "<table>" in (out / "table.html").read_text()
    before = {name: (out / name).read_bytes() for name in ("results.csv", "table.md")}
    monkeypatch.setattr("viewgen_train.experiment.work.train", None)
    assert run_toy(**options).complete
    assert {name: (out / name).read_bytes() for name in before} == before


def test_seed_by_seed_and_each_task_once(run_toy, made_up, out):
    result = run_toy()
    trainings = [f"{row} {seed}" for seed in (0, 1, 2) for row in ROWS]
    assert made_up.done == ["cache same", *trainings]
    assert result.complete
    table = (out / "table.md").read_text()
    assert "| A2, α 0.25 | 3 | 61.00 ± 1.00 | +10.00 (+10.00 to +10.00), 3 of 3 |" in table
    assert "| SimCLR | 3 | 51.00 ± 1.00 | baseline | 25.50 ± 0.50 | baseline | 92.04 |" in table
    assert result.words[0] == (
        "Is it more? A2, α 0.5 is lower than SimCLR in linear probe: by 10.00 points (−10.00 to −10.00), "
        "higher in 0 of 3 trainings."
    )
    made_up.done.clear()
    run_toy()
    assert made_up.done == []


def test_what_tasks_take_is_measured_once(run_toy, made_up, out, monkeypatch):
    made_up.broken["same", 0] = Killed()
    with pytest.raises(Killed):
        run_toy()
    monkeypatch.setattr("viewgen_train.experiment.runner.measure_cost", None)
    made_up.broken.clear()
    assert run_toy().complete
    folder = ResultFolder(out, {})
    assert folder.expected()["training", "plain"] == 1.0
    for damage in ("{", "[]", '{"training": 3, "cache": {"same": "long"}}'):
        (out / "expected-seconds.json").write_text(damage)
        assert folder.expected() == {}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the packages catches it."""


@pytest.mark.parametrize("moment", [("same", 0), ("a2[alpha=0.25]", 1), ("plain", 2)])
def test_a_killed_experiment_goes_on(run_toy, made_up, out, moment):
    made_up.broken[moment] = Killed()
    with pytest.raises(Killed):
        run_toy()
    first = [*made_up.done]
    made_up.broken.clear()
    made_up.done.clear()
    assert run_toy().complete
    assert not set(first) & set(made_up.done)
    assert len(first) + len(made_up.done) == 10
    killed = lines(out)
    run_toy(out=str(out.parent / "whole"))
    assert lines(out.parent / "whole") == killed


def test_killed_while_a_record_is_written(run_toy, made_up, out, monkeypatch):
    from viewgen_train.experiment import results

    write, count = results.write_atomically, [0]

    def fatal(path: Path, data: bytes, **options: bool) -> None:
        count[0] += path.name.startswith("seed-")
        if count[0] == 3:
            # what a killed writer leaves behind
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.viewgen-tmp").write_bytes(data[:10])
            raise Killed
        write(path, data, **options)

    monkeypatch.setattr(results, "write_atomically", fatal)
    with pytest.raises(Killed):
        run_toy()
    monkeypatch.setattr(results, "write_atomically", write)
    assert run_toy().complete
    assert made_up.done.count("a2[alpha=0.25] 0") == 2
    assert len(made_up.done) == 11
    assert len(lines(out)) == 2 * 9 + 1


def test_it_continues_when_the_file_grows(run_toy, made_up, toy_text, out):
    run_toy(seeds=(0,))
    made_up.done.clear()
    grown = toy_text.replace("[0.25, 0.5]", "[0.25, 0.5, 1.0]").replace("[0, 1, 2]", "[0, 1]")
    assert run_toy(grown).complete
    assert sorted(made_up.done) == sorted(
        ["a2[alpha=1.0] 0", *(f"{row} 1" for row in (*ROWS, "a2[alpha=1.0]"))]
    )
    # fewer rows again: the others' results stay in the folder, not in the table
    made_up.done.clear()
    run_toy(seeds=(0,))
    assert made_up.done == []
    assert "α 1.0" not in (out / "table.md").read_text()
    assert (out / "results/training/a2-alpha=1.0/seed-1.json").exists()


def test_measurements_that_are_added_are_made(run_toy, made_up, toy_text):
    run_toy(seeds=(0,))
    made_up.done.clear()
    run_toy(toy_text.replace("quality = false", 'quality = true\ntrainings = ["knn"]'), seeds=(0,))
    assert made_up.done == ["cache same", *(f"{row} 0" for row in ROWS)]
    made_up.done.clear()
    # fewer again: nothing is lost, nothing is done
    run_toy(seeds=(0,))
    assert made_up.done == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2\nwarm", "epochs = 3\nwarm", r"rows.plain.train.epochs: there 2, here 3"),
        ("views = 2", "views = 3", r"caches.same.views: there 2, here 3"),
        ("probe = {epochs = 2}", "probe = {epochs = 4}", r"probe.epochs: there 2, here 4"),
        ("threads = 1", "threads = 1\nlimit = 20", r"dataset.num_images: there 21, here 20"),
    ],
)
def test_results_of_other_settings_are_refused(run_toy, made_up, toy_text, old, new, message):
    run_toy(seeds=(0,))
    made_up.done.clear()
    assert old in toy_text
    with pytest.raises(CacheMismatchError, match=message):
        run_toy(toy_text.replace(old, new))
    with pytest.raises(CacheMismatchError, match=message):
        run_toy(toy_text.replace(old, new), dry_run=True)
    assert made_up.done == []
    # what changes no result is free to change
    run_toy(toy_text.replace('label = "A2"', 'label = "mine"').replace("Is it", "Is that"), seeds=(0,))


def test_a_folder_of_something_else_is_refused(run_toy, made_up, out):
    out.mkdir()
    (out / ".lock").touch()  # of a call that was killed at once
    run_toy(seeds=(0,))
    (out / "experiment.json").rename(out / "notes.txt")
    with pytest.raises(UsageError, match="holds other files and no experiment"):
        run_toy()


def test_two_processes_do_not_share_a_folder(run_toy, made_up, out):
    run_toy(seeds=(0,))
    with only_run(out), pytest.raises(LeaseError):
        run_toy()


def test_damaged_and_foreign_records_are_refused(run_toy, made_up, out):
    run_toy(seeds=(0,))
    path = out / "results/training/plain/seed-0.json"
    whole = path.read_text()
    for damage in (
        "{",
        "[]",
        whole.replace('"seconds": 1.0', '"seconds": "long"'),
        whole.replace("measures", "m"),
    ):
        path.write_text(damage)
        with pytest.raises(CorruptDataError, match=r"seed-0.json"):
            run_toy(seeds=(0,))
    path.write_text((out / "results/training/a2-alpha=0.5/seed-0.json").read_text())
    with pytest.raises(CacheMismatchError, match="other settings"):
        run_toy(seeds=(0,))


def test_a_training_that_diverges_is_a_row_with_its_reason(run_toy, toy_text, out):
    """A real one: the loss is not finite after a few steps at this learning rate."""
    text = toy_text.replace(
        'label = "SimCLR"\ntrain = {', 'label = "SimCLR"\ntrain = {learning_rate = 1e30, '
    )
    result = run_toy(text, seeds=(0,), only=("plain",))
    assert result.complete
    assert "is nan" in result.diverged["plain, seed 0"] or "not finite" in result.diverged["plain, seed 0"]
    [line] = [row for row in lines(out) if row["kind"] == "training"]
    assert (line["status"], line["value"]) == ("diverged", "")
    table = (out / "table.md").read_text()
    assert "| SimCLR | 0 + 1 lost |" in table
    assert "## Trainings without numbers\n\n- SimCLR, seed 0: diverged: encoder training" in table
    assert str(out) not in table, "paths from the folder of the results on"


def test_the_grid_goes_on_after_divergence_and_tells_others_apart(run_toy, made_up, out):
    made_up.broken["plain", 1] = ("diverged", "loss is nan at step 3")
    result = run_toy()
    assert len(made_up.done) == 10
    assert result.diverged == {"plain, seed 1": "loss is nan at step 3"}
    # pairs are those of the other seeds
    assert "+10.00 (+10.00 to +10.00), 2 of 2" in (out / "table.md").read_text()
    made_up.done.clear()
    run_toy()
    assert made_up.done == []
    made_up.broken = {("plain", 3): DataError("the images are gone")}
    with pytest.raises(DataError, match="the images are gone"):
        run_toy(seeds=(3,))


def test_a_cache_without_views_costs_its_rows_only(run_toy, made_up, out):
    made_up.broken["same", 0] = ("failed", "no image converged")
    result = run_toy()
    assert not result.complete
    assert made_up.done == ["cache same", *(f"plain {seed}" for seed in (0, 1, 2))]
    assert result.diverged["a2[alpha=0.5], seed 2"] == "its cache same could not be made: no image converged"
    # it is tried again, and its rows with it
    made_up.broken.clear()
    made_up.done.clear()
    assert not run_toy().diverged
    assert made_up.done[0] == "cache same"
    assert len(made_up.done) == 7


def test_an_encoder_that_diverges_costs_the_rows_that_need_it_and_no_others(run_toy, made_up, toy_text):
    text = toy_text.replace('method = "original"', 'method = "expert"\nencoder = "mine"')
    text += '[encoders.mine]\ntrain = {assimilation = "none"}\n'
    made_up.broken["mine", 0] = ("diverged", "loss is nan")
    for _ in range(2):  # nor does the next call take what it left
        result = run_toy(text)
        assert not result.complete
        assert {name.partition(" ")[0] for name in made_up.done} == {"mine", "plain"}
        reason = "its cache same could not be made: its encoder mine diverged: loss is nan"
        assert result.diverged["a2[alpha=0.25], seed 0"] == reason
        assert "cache same" in result.unfinished


def test_a_cache_may_have_the_name_of_the_inversions(run_toy, made_up, toy_text):
    assert run_toy(
        toy_text.replace("caches.same", "caches.inversions").replace('"same"', '"inversions"')
    ).complete


def test_a_cache_matched_to_a_lost_one_is_lost_too(run_toy, made_up, toy_text):
    text = toy_text.replace("[rows.plain]", '[caches.first]\nmethod = "wperturb"\n\n[caches.second]\n'
                            'method = "wperturb"\nstrength = "match:first"\n\n[rows.plain]')  # fmt: skip
    text += '[rows.more]\ncache = "second"\ntrain = {assimilation = "A1"}\n'
    made_up.broken["first", 0] = ("failed", "no views")
    result = run_toy(text)
    assert result.unfinished["cache first"] == "failed: no views"
    reason = "its strength is that of first, which could not be made: no views"
    assert result.unfinished["cache second"] == f"failed: {reason}"
    assert result.diverged["more, seed 0"] == f"its cache second could not be made: {reason}"
    assert "plain 0" in made_up.done


def test_a_diverged_encoder_of_the_diagnostics_ends_it(run_toy, made_up, toy_text):
    measured = 'caches = ["seen"]\nsettings = {"seen.encoders" = ["encoder:mine"]}\nprobe = {epochs = 2}'
    text = toy_text.replace("probe = {epochs = 2}", measured)
    text += '[encoders.mine]\ntrain = {assimilation = "none"}\n'
    made_up.broken["mine", 0] = ("diverged", "loss is nan")
    reason = r"\[encoders.mine\]: its training diverged: loss is nan, and \[measure\]"
    with pytest.raises(ViewgenError, match=reason):
        run_toy(text)


def test_a_diagnostic_that_fails_leaves_the_experiment_incomplete(run_toy, made_up, toy_text, monkeypatch):
    text = toy_text.replace("probe = {epochs = 2}", 'caches = ["distinct"]\nprobe = {epochs = 2}')
    ends = iter(["failed", "finished", "finished", "finished"])

    def run_diagnostics(task, place, tell):
        status = next(ends)
        about = {"measurements": list(task.diagnostics)}
        reason = "too few views" if status == "failed" else ""
        return Record(kind="diagnostics", name=task.name, seed=task.seed, status=status, reason=reason,
                      seconds=2.0, identity=task.identity, about=about)  # fmt: skip

    monkeypatch.setattr("viewgen_train.experiment.runner.run_diagnostics", run_diagnostics)
    result = run_toy(text)
    assert result.num_done == result.num_trainings
    assert not result.complete
    assert result.unfinished == {"diagnostics of same, seed 0": "failed: too few views"}
    assert (
        "Not finished: diagnostics of same, seed 0 (failed: too few views)." in Path(result.table).read_text()
    )
    assert run_toy(text).complete, "the next call does it again"


def test_a_cache_that_is_there(run_toy, made_up, toy_text, tiny_cache, tmp_path):
    text = toy_text.replace('method = "original"\nviews = 2', f'url = "{tiny_cache}"')
    result = run_toy(text)
    assert result.complete
    document = json.loads((Path(result.folder) / "experiment.json").read_text())
    assert CacheReader(tiny_cache).spec.identity in json.dumps(document["caches"])
    with pytest.raises(UsageError, match="would be ignored"):
        run_toy(text.replace("url =", "sigma = 0.1\nurl ="), out=str(tmp_path / "other"))


def test_a_cache_of_another_data_set_is_refused(run_toy, made_up, toy_text, tiny, cache_of):
    other = cache_of(tiny, about={"name": "other", "digest": "sha256:0"})
    text = toy_text.replace('method = "original"\nviews = 2', f'url = "{other}"')
    with pytest.raises(CacheMismatchError, match="data set: the cache has other, the training"):
        run_toy(text)
    assert made_up.done == []


def test_tables_alone(run_toy, made_up, toy_text, out):
    run_toy(seeds=(0,))
    made_up.done.clear()
    (out / "table.md").unlink()
    result = run_toy(toy_text.replace('label = "A2"', 'label = "mine"'), report=True)
    assert made_up.done == []
    assert not result.complete
    table = (out / "table.md").read_text()
    assert "| mine, α 0.5 | 1 | 40.00 | −10.00 (one pair) |" in table
    assert "- SimCLR: seeds 1, 2" in table.partition("## Not run yet")[2]


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.filterwarnings("ignore")  # Ray's own code warns
def test_ray_gives_the_same_numbers(run_toy, out, tmp_path):
    options = {"seeds": (0,), "only": ("plain",)}
    run_toy(**options)
    other = tmp_path / "ray"
    run_toy(**options, out=str(other), executor="ray", workers=2)

    def same(folder: Path) -> list[tuple[str, ...]]:
        keys = ("row", "seed", "measure", "value", "identity")
        return [tuple(row[key] for key in keys) for row in lines(folder)]

    assert same(out) == same(other)
    assert (out / "curves.csv").read_bytes() == (other / "curves.csv").read_bytes()
