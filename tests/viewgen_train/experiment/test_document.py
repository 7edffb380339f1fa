"""The file of an experiment: what it builds on, what a scale lays over it, and what is refused."""

import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from viewgen.config_file import toml_text
from viewgen.errors import MissingFileError, UsageError
from viewgen_train.experiment.document import _read, load_document, presets
from viewgen_train.experiment.grid import rows_and_caches
from viewgen_train.experiment.plan import make_plan, with_encoders
from viewgen_train.objectives import OBJECTIVES
from viewgen_train.recipes import method_recipes
from viewgen_train.resolve import train_settings

BASE = """
[experiment]
seeds = [7]
[train]
width = 2
epochs = 3
[scales.small.digits.train]
epochs = 1
[scales.paper.cifar10.train]
width = 64
"""
OWN = """
extends = "base.toml"
[experiment]
baseline = "plain"
[train]
width = 3
[rows.plain]
train = {assimilation = "none"}
[scales.small.digits.rows.plain.train]
loss = "infonce"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


def test_what_is_nearer_comes_first(file):
    found = load_document(str(file))
    assert (found.name, found.scale, found.experiment.dataset) == ("own", "small", "digits")
    # its own width before that of what it extends, the scale's epochs before both, seeds of what it extends
    assert found.train == {"width": 3, "epochs": 1}
    assert found.experiment.seeds == (7,)
    assert found.rows["plain"].train == {"assimilation": "none", "loss": "infonce"}
    paper = load_document(str(file), scale="paper")
    assert (paper.experiment.dataset, paper.train["width"]) == ("cifar10", 3)


def test_the_merged_file_is_the_same_experiment(file, tmp_path):
    for source in (str(file), "table1", "flows", "mi-table", "concentration-augmentations", "sweep-crop"):
        document = load_document(source)
        path = tmp_path / f"{document.name}.toml"
        path.write_text(document.text)
        again = load_document(str(path))
        assert again.scale == ""
        whole = {"source": "", "scale": "", "text": ""}
        assert again.replace(**whole) == document.replace(**whole)


def test_tables_and_back():
    tables = {
        "a b": {"x": [1.5, float("inf"), -float("inf")], "ü": 'del \x7f, "quoted"\n', "on": True, "none": []},
        "rows": {"plain": {}, "grid": {"train.alpha": [[0.1, "auto"], [0.2, "x"]]}},
        "questions": [{"ask": "Is it?", "more": {"a": 1}}, {"ask": "😀"}],
        "mixed": [1, {"a": [{"b": 2}]}],
        "day": date(2026, 11, 30),
    }
    assert tomllib.loads(toml_text(tables)) == tables


def test_a_scale_of_a_data_set_is_that_of_its_paths_too():
    found = load_document("sweep-patches", scale="paper", dataset="photos:/data/DIV2K?size=256")
    assert found.experiment.dataset == "photos:/data/DIV2K?size=256"
    assert found.rows["patches"].grid == {"train.views.distance": (32, 48, 64, 80, 96, 128, 160, 192)}
    assert found.measure.readout == "cifar10"
    with pytest.raises(UsageError, match="photoss:x has no settings at scale 'paper'"):
        load_document("sweep-patches", scale="paper", dataset="photoss:x")


def test_a_file_cannot_extend_itself(tmp_path):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('extends = "second.toml"\n')
    second.write_text('extends = "first.toml"\n')
    with pytest.raises(UsageError, match="a file cannot extend itself"):
        load_document(str(first))
    first.write_text(f'extends = "{first.name}"\n')
    with pytest.raises(UsageError, match=r"first.toml extends .*first.toml: a file cannot"):
        load_document(str(first))


def plan(path: Path, text: str = "", **options):
    if text:
        path.write_text(text)
    return make_plan(load_document(str(path)), path.parent / "out", with_data=False, **options)


A2 = """
[experiment]
dataset = "digits"
[caches.views]
method = "wperturb"
[rows.plain]
train = {assimilation = "none"}
[rows.a2]
cache = "views"
train = {assimilation = "A2"}
"""


def test_a_grid_has_a_row_and_a_cache_for_every_place(file):
    text = A2 + '[rows.a2.grid]\n"cache.sigma" = [0.1, 0.2]\n"train.alpha" = [0.5, 1.0]\n'
    found = plan(file, text)
    assert [*found.rows] == ["plain", *(
        f"a2[sigma={s},alpha={a}]" for s in (0.1, 0.2) for a in (0.5, 1.0)
    )]  # fmt: skip
    assert [task.name for task in found.caches] == ["views[sigma=0.1]", "views[sigma=0.2]"]
    assert found.caches[1].options is not None
    assert found.caches[1].options["sigma"] == 0.2
    assert found.settings["a2[sigma=0.2,alpha=1.0]"].assimilation.alpha == 1.0
    joint = A2 + '[rows.a2.grid]\n"cache.sigma+train.alpha" = [[0.1, 0.5], [0.2, 1.0]]\n'
    assert [*plan(file, joint).rows] == ["plain", "a2[sigma=0.1,alpha=0.5]", "a2[sigma=0.2,alpha=1.0]"]


def test_trainings_are_ordered_seed_by_seed(file):
    found = plan(file, A2, seeds=(3, 1))
    assert [task.name for task in found.trainings] == [
        "plain, seed 3", "a2, seed 3", "plain, seed 1", "a2, seed 1",
    ]  # fmt: skip
    assert found.trainings[1].settings["seed"] == 3


def test_rows_may_be_chosen_with_the_caches_that_they_need(file):
    text = (
        A2
        + '[caches.matched]\nmethod = "wperturb"\nstrength = "match:views"\n[rows.other]\ncache = "matched"\n'
    )
    found = plan(file, text, only=("other",))
    assert found.selected == ("other",)
    assert [task.name for task in found.caches] == ["views", "matched"]
    assert found.caches[1].options is not None
    assert found.caches[1].options["strength"] == f"match:{found.caches[0].url}"
    assert plan(file, text, only=("plain",)).caches == ()


def test_an_encoder_is_trained_where_a_cache_needs_it(file):
    text = A2 + '[encoders.mine]\ntrain = {assimilation = "none"}\n'
    assert plan(file, text).encoders == ()
    found = plan(file, text.replace('method = "wperturb"', 'method = "wperturb"\nencoder = "mine"'))
    assert [task.name for task in found.encoders] == ["mine"]
    assert found.caches[0].options is not None
    assert found.caches[0].options["encoder"] == f"{found.encoders[0].out}/last.safetensors"


def test_a_diagnostic_may_name_an_encoder_that_is_trained_first(file):
    text = A2 + (
        '[encoders.labels]\ntrain = {assimilation = "none", objective = "supervised"}\n'
        '[measure]\ntrainings = ["suppression"]\n'
        '[measure.settings]\n"suppression.supervised" = "encoder:labels"\nepochs = 3\n'
    )
    found = plan(file, text)
    assert [task.name for task in found.encoders] == ["labels"]
    settings = with_encoders(found.document.measure.settings, found.folder)
    assert settings == {"suppression.supervised": found.encoders[0].out, "epochs": 3}


def test_a_diagnostic_may_name_several_encoders(file):
    text = A2 + (
        '[encoders.one]\ntrain = {assimilation = "none"}\n[encoders.two]\ntrain = {assimilation = "none"}\n'
        '[measure]\ncaches = ["seen"]\n[measure.settings]\n'
        '"seen.encoders" = ["encoder:two", "mine.safetensors", "encoder:one"]\n'
    )
    found = plan(file, text)
    one, two = (task.out for task in found.encoders)
    settings = with_encoders(found.document.measure.settings, found.folder)
    assert settings == {"seen.encoders": [two, "mine.safetensors", one]}
    with pytest.raises(UsageError, match="did you mean 'two'"):
        plan(file, text.replace("encoder:two", "encoder:twoo"))


def test_a_row_is_not_named_twice(file):
    alike = A2 + '[rows.alpha]\ncache = "views"\n[rows.alpha.grid]\n"train.alpha" = [0.25, 1.0]\n'
    labels = {row.label for row in plan(file, alike).rows.values() if row.group == "alpha"}
    assert labels == {"α 0.25", "α 1.0"}


def test_a_search_may_name_encoders_that_are_trained_first(file):
    text = A2 + (
        '[encoders.one]\ntrain = {assimilation = "none"}\n[encoders.idle]\ntrain = {assimilation = "none"}\n'
        '[caches.two]\nmethod = "wsearch"\nencoders = ["encoder:one", "mine.safetensors"]\n'
    )
    found = plan(file, text)
    (encoder,) = found.encoders
    assert encoder.name == "one"
    (task,) = [task for task in found.caches if task.name == "two"]
    assert task.options["encoders"] == [f"{encoder.out}/last.safetensors", "mine.safetensors"]
    with pytest.raises(
        UsageError, match=r"\[caches.two\]: encoders is .*; expected one of \[encoders\]: one, idle"
    ):
        plan(file, text.replace("encoder:one", "encoder:none"))


B = '[rows.b]\ncache = "views"\n'
GRID = B + "[rows.b.grid]\n"
CACHE = '[caches.c]\nmethod = "wperturb"\n'
WRONG = {
    "an unknown table": ("[rowz.a]\n", "no setting 'rowz'; did you mean 'rows'"),
    "an unknown setting of a training": (
        '[rows.b]\ntrain = {alhpa = 1.0, assimilation = "none"}\n',
        r"\[rows.b\]: the training has no setting 'alhpa'; did you mean 'alpha'",
    ),
    "an ignored setting": (
        '[rows.b]\ntrain = {alpha = 1.0, assimilation = "none"}\n',
        r"\[rows.b\]: alpha .*ignore",
    ),
    "an unknown setting of a cache": (CACHE + "sigmo = 1\n", r"\[caches.c\]: .*sigmo"),
    "a setting of another method": (
        CACHE + "uniformity_weight = 1.0\n",
        r"\[caches.c\]: uniformity_weight is a setting of wsearch",
    ),
    "a value of another type": ("[rows.b]\nlabel = 3\n", r"\[rows.b\]: label is 3; expected a valid string"),
    "an empty axis": (GRID + '"train.alpha" = []\n', r"\[rows.b\]: the axis 'train.alpha' is empty"),
    "an axis of nothing": (GRID + "alpha = [1.0]\n", "neither train.NAME nor cache.NAME"),
    "an axis of an unknown setting": (
        GRID + '"cache.sigmo" = [0.1]\n',
        r"\[caches.views\[sigmo=0.1\]\]: .*sigmo",
    ),
    "rows with one folder": (
        '[rows."a b"]\ntrain = {assimilation = "none"}\n[rows.a-b]\ntrain = {assimilation = "none"}\n',
        "the rows 'a b' and 'a-b' would share their files",
    ),
    "a place twice": (GRID + '"train.alpha" = [1.0, 1.0]\n', "twice"),
    "a pair that is none": (GRID + '"train.alpha+train.epochs" = [[1.0]]\n', "expected a list of 2"),
    "an unknown cache": ('[rows.b]\ncache = "view"\n', r"cache is 'view'; did you mean 'views'"),
    "a cache that would be ignored": (B + 'train = {assimilation = "none"}\n', "would ignore"),
    "a missing cache": (
        '[rows.b]\ntrain = {assimilation = "A1"}\n',
        r"\[rows.b\]: cache views need a cache",
    ),
    "an unknown row": (
        '[[questions]]\nask = "?"\nrow = "a2"\nagainst = "plane"\n',
        "did you mean 'plain'",
    ),
    "an unknown row of a plot": (
        '[[scatter]]\nx = "loss"\nrows = ["plane"]\n',
        r"\[\[scatter\]\] 1: rows has 'plane'; did you mean 'plain'",
    ),
    "a seed among the settings": ("[rows.b]\ntrain = {seed = 1}\n", "give seeds"),
    "caches in a circle": (
        CACHE + 'strength = "match:d"\n[caches.d]\nmethod = "wperturb"\nstrength = "match:c"\n',
        "need each other",
    ),
    "an unknown diagnostic": ('[measure]\ncaches = ["alignmentt"]\n', "did you mean 'alignment'"),
    "an encoder after a cache": (
        '[encoders.e]\ntrain = {assimilation = "A2"}\n',
        r"\[encoders.e\]: its training needs cache",
    ),
    "an unknown encoder of a diagnostic": (
        '[measure]\ntrainings = ["suppression"]\n'
        '[measure.settings]\n"suppression.supervised" = "encoder:labels"\n',
        r"suppression.supervised is 'encoder:labels'; expected one of \[encoders\]: there is none",
    ),
    "an unknown probe setting": (
        "[measure.probe]\nepoch = 3\n",
        r"\[measure.probe\]: .*'epoch'; did you mean 'epochs'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(file, name):
    more, message = WRONG[name]
    with pytest.raises(UsageError, match=message):
        plan(file, A2 + more)


def test_refused_files(file, tmp_path):
    with pytest.raises(UsageError, match="no experiment 'table'; did you mean 'table1'"):
        load_document("table")
    with pytest.raises(MissingFileError, match="no such file"):
        load_document(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"--scale smal; did you mean 'small'"):
        load_document(str(file), scale="smal")
    with pytest.raises(UsageError, match="cifar10 has no settings at scale 'small'"):
        load_document(str(file), dataset="cifar10")
    file.write_text("[rows")
    with pytest.raises(UsageError, match="cannot be read"):
        load_document(str(file))
    file.write_text(A2)
    with pytest.raises(UsageError, match="the file has no"):
        load_document(str(file), scale="small")
    with pytest.raises(UsageError, match="--only a3: no such row; did you mean 'a2'"):
        plan(file, only=("a3",))


def places() -> list[tuple[str, str, str]]:
    """Return every shipped experiment at every scale and data set."""
    found = []
    for name in presets():
        scales = {}
        for layer in _read(name)[1]:
            for scale, datasets in layer.get("scales", {}).items():
                scales[scale] = {**scales.get(scale, {}), **datasets}
        found += [(name, scale, one) for scale, datasets in scales.items() for one in datasets]
    return found


@pytest.mark.parametrize(("name", "scale", "dataset"), places())
def test_shipped_experiments_can_be_planned(name, scale, dataset, tmp_path):
    document = load_document(name, scale=scale, dataset=dataset)
    found = make_plan(document, tmp_path, with_data=False)
    assert document.experiment.description
    assert len({task.name for task in found.trainings}) == len(found.trainings)
    assert {row.cache for row in found.rows.values()} - {None} <= {task.name for task in found.caches}
    for one in document.questions:
        assert {one.row, one.against} <= found.rows.keys()
    if scale == "paper" and name != "shared-factors":  # which has the published network
        # the recipe of the data set as it is
        assert {one.network.width for one in found.settings.values()} <= {64}


def test_table1_has_the_papers_rows_in_its_settings(tmp_path):
    found = make_plan(load_document("table1", scale="paper", dataset="cifar10"), tmp_path, with_data=False)
    published = {
        name: row.published["cifar10"] for name, row in found.rows.items() if "cifar10" in row.published
    }
    assert sorted(published.values()) == [80.07, 82.91, 83.59, 91.09, 91.46, 91.86, 92.04, 92.38, 92.90]
    best = found.settings["a2-wsearch"]
    assert (best.assimilation.kind, best.assimilation.alpha) == ("A2", 0.5)
    assert best.objective.settings.temperature == 0.5
    optimiser = best.optimiser
    assert (optimiser.batch_size, optimiser.epochs, optimiser.learning_rate) == (128, 800, 0.015)
    assert found.settings["simclr"].objective.name == "simclr"
    # f is a baseline of its own, another than that of the control
    encoders = {task.name: task.train["seed"] for task in found.encoders}
    assert encoders.keys() == {"f", "other"}
    assert len(set(encoders.values())) == 2


@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist"])
def test_objectives_has_every_objective_by_the_settings_of_our_own_recipes(dataset, tmp_path):
    found = make_plan(load_document("objectives", dataset=dataset), tmp_path, with_data=False)
    assert {len(row.seeds) for row in found.rows.values()} == {3}
    groups: dict[str, set[str]] = {}
    for name, row in found.rows.items():
        groups.setdefault(row.group, set()).add(found.settings[name].objective.name)
    entries = {name: OBJECTIVES.entry(name) for name in OBJECTIVES.built_in}
    bearing = {how: {name for name, one in entries.items() if how in one.bears} for how in ("A1", "A2")}
    assert groups["a2"] == bearing["A2"]
    assert groups["a1"] == bearing["A1"] - {"supcon"}
    # of two views SupCon is SimCLR; the others need clips and classes
    assert groups["simclr"] | groups["alone"] == set(entries) - {"supcon", "sequence", "supervised"}
    assert groups["ifm"] == groups["hard"] == {"simclr", "moco"}
    recipes = {one.name: one for one in method_recipes() if one.name.startswith("quick-")}
    assert recipes
    for name in recipes:
        objective = name.removeprefix("quick-")
        row = "simclr" if objective == "simclr" else f"alone[objective={objective}]"
        # one learning rate for all, where VICReg's recipe has a smaller one
        own = train_settings(dataset, {"recipe": name, "learning_rate": 0.1})
        assert replace(found.settings[row], diagnostics=own.diagnostics) == own


def test_recipes_runs_all_of_our_own():
    own = [one for one in method_recipes() if one.name.startswith("quick-")]
    found = load_document("recipes")
    assert {*found.rows["recipe"].grid["train.recipe"]} == {one.name for one in own}
    for dataset in {one.dataset for one in own} - {"trifeature"}:
        assert load_document("recipes", dataset=dataset).experiment.dataset == dataset


def test_published_numbers_of_a_grid_stand_at_their_place():
    rows, _ = rows_and_caches(load_document("ablation-epsilon", scale="paper", dataset="cifar10"))
    assert rows["epsilon[epsilon_boundary=0.3,epsilon_uniformity=0.5]"].published == {"cifar10": 92.898}
    assert len([row for row in rows.values() if row.published]) == 10


def test_a_file_in_the_working_directory_is_not_taken_for_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("table1", "scales"):
        (tmp_path / name).write_text("no TOML at all")
    assert load_document("table1").name == "table1"
