"""`viewgen measure`: subjects of every kind, plug-ins, settings, seeds, Ray against local."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from brightness import Brightness, BrightnessConfig
from rich.console import Console

from viewgen.cli import main
from viewgen.datasets import load_dataset
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Measure
from viewgen.diagnostics.report import Measured, measure_table
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model
from viewgen.randomness import addressed_generator
from viewgen.registry import Entry
from viewgen_pipelines.measure import measure

FEW = {"num_per_class": 3, "num_views": 1, "num_deltas": 3, "num_pooled": 0, "fewer_views": False}


@pytest.fixture
def brightness(monkeypatch):
    """A diagnostic that nothing else knows."""
    monkeypatch.setattr(DIAGNOSTICS, "_registered", {})
    return DIAGNOSTICS.register(
        Entry(
            name="brightness", summary="mean of the pixels", settings=BrightnessConfig,
            needs=Brightness.needs, build=Brightness,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "f.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_model(Encoder(EncoderConfig(image_size=32, width=2, projection_dim=4)), path)
    return str(path)


def expected_brightness(seed, count):
    digits = load_dataset("digits")
    order = torch.randperm(len(digits), generator=addressed_generator(seed, "brightness"))
    return float(digits.images(order[:count].numpy()).mean())


def run(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        main(["measure", *map(str, words)])
    return ending.value.code, *capsys.readouterr()


def test_a_diagnostic_of_a_plugin_needs_nothing_but_its_entry(brightness, tmp_path, capsys):
    words = ["digits", "-d", "brightness", "--set", "num_images=3", "--seeds", "5", "--seeds", "6"]
    code, out, _ = run(capsys, *words, "--json", "--csv", tmp_path / "b.csv")
    assert code == 0
    rows = json.loads(out)["measures"]
    assert [(row["seed"], row["value"]) for row in rows] == [
        (seed, expected_brightness(seed, 3)) for seed in (5, 6)
    ]
    assert rows[0]["on"] == "3 train"
    written = csv.DictReader(io.StringIO((tmp_path / "b.csv").read_text()))
    assert [float(row["value"]) for row in written] == [row["value"] for row in rows]
    code, out, err = run(capsys, *words)
    assert code == 0
    assert "brightness" in out
    assert "2 seeds" in out
    assert "brightness, seed 5 measured, 1 of 2 diagnostics" in err


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
@pytest.mark.filterwarnings("ignore")  # Ray's own code warns
def test_ray_measures_what_one_process_measures(brightness, shared_ray):
    options = {"diagnostics": ["brightness"], "seeds": [1, 2, 3], "quiet": True}
    local = measure("digits", **options)
    on_ray = measure("digits", executor="ray", workers=2, **options)
    assert on_ray == local
    assert [row.seed for row in on_ray.measured] == [1, 2, 3]


def test_an_encoder_is_measured_by_what_its_data_set_allows(encoder):
    options = {"diagnostics": ["knn", "probe"], "dataset": "digits", "quiet": True}
    settings = {"neighbours": [1, 5], "knn.metrics": ["cosine"], "probe.epochs": 1, "num_seeds": 2}
    found = measure(encoder, settings=settings, **options)
    names = [(row.diagnostic, row.measure.name) for row in found.measured]
    assert names == [
        ("knn", "knn1_top1[cosine]"), ("knn", "knn5_top1[cosine]"), ("probe", "probe_top1")
    ]  # fmt: skip
    assert all(0 < row.measure.value < 1 for row in found.measured)
    assert found.measured[2].measure.low <= found.measured[2].measure.value
    assert found.measured[0].measure.on == "360 test, 1,437 train"
    with pytest.raises(UsageError, match="--dataset"):
        measure(encoder, **options | {"dataset": None})


def test_the_views_of_a_cache_are_pairs(tmp_path, encoder, make_spec, write_cache, no_flushing):
    from viewgen.store import open_storage

    digest = load_dataset("digits").digest
    made_of = {"name": "digits", "split": "train", "digest": digest}
    url = str(tmp_path / "c.zarr")
    write_cache(open_storage(url), make_spec(dataset=made_of, height=32, width=32, num_images=40))
    found = measure(url, diagnostics=["alignment"], networks={"encoder": encoder}, limit=20, quiet=True)
    method = make_spec().method
    groups = list(dict.fromkeys(row.measure.group for row in found.measured))
    assert groups == ["original, expert", f"original, {method}", f"{method}, expert"]
    assert {row.measure.on for row in found.measured} == {"20 images"}


def test_without_names_all_that_the_subject_allows_is_measured(brightness, encoder, monkeypatch, capsys):
    lacking = Entry(
        name="lacking", summary="", settings=BrightnessConfig, needs=frozenset({"cache"}), build=Brightness
    )
    monkeypatch.setattr(DIAGNOSTICS, "_modules", {})
    DIAGNOSTICS.register(lacking)
    DIAGNOSTICS.register(replace(brightness, name="requested", on_request=True))
    found = measure(encoder, dataset="digits")
    assert [row.diagnostic for row in found.measured] == ["brightness"]
    assert list(found.left_out) == ["lacking"]
    assert "lacking is left out: " in capsys.readouterr().err
    asked = measure(encoder, dataset="digits", diagnostics=["requested"], quiet=True)
    assert [row.diagnostic for row in asked.measured] == ["requested"]
    with pytest.raises(UsageError, match="has no 'cache'"):
        measure(encoder, dataset="digits", diagnostics=["lacking"])


def test_a_diagnostic_that_refuses_the_data_costs_the_others_nothing_unless_it_was_named(
    brightness, monkeypatch
):
    monkeypatch.setattr(DIAGNOSTICS, "_modules", {})

    class Refusing(Brightness):
        def measure(self, subject, seed):
            raise DataError("48 images are too few")

    DIAGNOSTICS.register(
        Entry(name="refusing", summary="", settings=BrightnessConfig, needs=Refusing.needs, build=Refusing)
    )
    result = measure("digits", quiet=True)
    assert {one.diagnostic for one in result.measured} == {"brightness"}
    assert result.notes == ("refusing is left out: 48 images are too few",)
    with pytest.raises(DataError, match="too few"):
        measure("digits", diagnostics=["refusing"], quiet=True)


def test_what_cannot_be_measured_is_refused(brightness, encoder, tmp_path, capsys):
    vectors = tmp_path / "vectors.npz"
    np.savez(vectors, features=np.eye(3), id=["a", "b", "c"])
    for words, message in [
        ([vectors, "--dataset", "digits"], "--dataset is given, which a file of vectors would ignore"),
        ([vectors, "-d", "brightness"], "has no 'train'"),
        (["digits", "-d", "brightnes"], "no diagnostic 'brightnes'; did you mean 'brightness'"),
        (["digits", "-d", "brightness", "--set", "num_imags=3"], "did you mean 'num_images'"),
        (["digits", "-d", "brightness", "--set", "knn.metrics=3"], "no diagnostic 'knn' is run"),
        (["digits", "-d", "brightness", "--set", "num_images=0"], "brightness: num_images is 0"),
        (["digitz"], "nothing to measure at 'digitz'"),
        ([tmp_path], "nothing to measure at"),
        (["digits", "--workers", "3"], "--workers 3"),
        (["digits", "--limit", "0"], "--limit"),
        (["digits", "--weights", "best"], "--weights is given, which a dataset would ignore"),
        (["digits", "--storage-option", "anon=true"], "--storage-option is given"),
    ]:
        code, _, err = run(capsys, *words)
        assert code == 2, words
        assert message in err
    with pytest.raises(MissingFileError):
        measure("digits", diagnostics=["knn"], networks={"encoder": "nothing"}, quiet=True)


def test_on_a_narrow_terminal_words_wrap_and_numbers_stay_whole():
    long = Measure(
        name="frechet_distance[another feature network]", value=-0.0012345, on="a long subject " * 4
    )
    console = Console(width=60, file=io.StringIO())
    console.print(measure_table([Measured(diagnostic="", seed=0, measure=long)]))
    assert "-0.001234" in console.file.getvalue()


def test_plots_are_written_with_the_numbers_behind_them(tmp_path):
    few = {"num_per_class": 8, "num_views": 2, "num_deltas": 6, "num_pooled": 40, "per_class": True}
    found = measure("digits", diagnostics=["concentration"], settings=few, plots=tmp_path / "new", quiet=True)
    rows = [row.measure for row in found.measured]
    groups = [row.group for row in rows if row.name == "area"]
    assert groups[:3] == ["expert", "expert, 1 of 2 views", "images alone"]
    assert len(groups) == 13
    names = ["curves.json", "curves.png", "main-parts.png"]
    paths = [tmp_path / "new" / f"concentration-{name}" for name in names]
    assert found.files == tuple(map(str, paths))
    assert found.to_json()["files"] == list(found.files)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[1:])
    document = json.loads(paths[0].read_text())
    assert len(document["delta"]) == len(document["sigma_low"]) == 6
    assert document["area"]["value"] == rows[0].value
    assert list(document["by_num_views"]) == ["0", "1", "2"]
    part = document["classes"][3]["main_parts"]["0.5"]
    assert len(part["members"]) >= 4
    assert len(part["members"]) + len(part["outliers"]) == 8


def test_no_file_is_written_unless_asked_for_and_plots_need_a_diagnostic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = measure("digits", diagnostics=["concentration"], settings=FEW, quiet=True)
    assert found.files == ()
    assert "files" not in found.to_json()
    assert not list(tmp_path.iterdir())


def test_a_composition_of_expert_views_is_measured_by_its_name(tmp_path, caplog):
    def values(augment):
        options = {"plots": tmp_path / str(augment), "augment": augment, "quiet": True}
        found = measure("digits", diagnostics=["concentration"], settings=FEW, **options)
        document = json.loads((tmp_path / str(augment) / "concentration-curves.json").read_text())
        assert document["augment"] == augment
        return [row.measure.value for row in found.measured]

    assert values("a") != values(None)
    assert "hue" not in caplog.text
    values("ad")
    assert "hue and saturation do nothing there; brightness and contrast act" in caplog.text


def test_a_composition_without_effect_is_refused(encoder, tmp_path, make_spec, write_cache, no_flushing):
    from viewgen.store import open_storage

    def refused(subject, message, *names, augment="ab", **options):
        with pytest.raises(UsageError, match=message):
            measure(str(subject), diagnostics=names, augment=augment, quiet=True, **options)

    refused("digits", "c drops the colour", "concentration", augment="abc")
    refused("digits", "a is there twice", "concentration", augment="aa")
    refused("digits", "none of what is measured .* add -d conc", "concentration", settings={"views": "cache"})
    refused(encoder, "takes expert views", "knn", "probe", dataset="digits")
    np.savez(tmp_path / "vectors.npz", features=np.eye(3), id=["a", "b", "c"])
    refused(tmp_path / "vectors.npz", "--augment is given, which a file of vectors would ignore", "outcomes")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    refused(tmp_path / "run", "views that it was trained with; for others measure its encoder", "bounds")

    made_of = {"name": "digits", "split": "train", "digest": load_dataset("digits").digest}
    url = str(tmp_path / "c.zarr")
    write_cache(open_storage(url), make_spec(dataset=made_of, height=32, width=32, num_images=40))
    refused(url, "--augment ab: none .* add --set views=expert", "concentration", settings=FEW)
    refused(url, "takes expert views", write_columns=True)
    found = measure(
        url, diagnostics=["concentration"], settings=FEW | {"views": "expert"}, augment="ab", quiet=True
    )
    assert found.measured[0].measure.group == "expert"
