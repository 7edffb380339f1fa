"""`viewgen list`: names with summaries, settings with defaults and bounds, JSON."""

import json
import re
import unicodedata
from importlib.metadata import EntryPoint

import pytest

from viewgen.cli import main
from viewgen.cli.list import REGISTRIES, TRAININGS
from viewgen.views import VIEWS
from viewgen.views.wsearch.settings import WSearchConfig


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            main(["list", *words])
        return int(ending.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize("noun", REGISTRIES)
def test_every_noun_is_listed_on_80_columns(run, noun):
    code, text, _ = run(noun)
    assert code == 0
    assert max(len(line) for line in text.splitlines()) <= 80
    code, document, _ = run(noun, "--json")
    rows = json.loads(document)[noun]
    assert rows
    # other tests of the same process may have registered names of their own
    built_in = [row for row in rows if row["origin"] == "built-in"]
    assert built_in
    assert all(row["summary"] for row in built_in)
    assert re.findall(r"^(\S+)  ", text, re.MULTILINE) == [row["name"] for row in rows]


def test_settings_have_defaults_bounds_choices_and_descriptions(run):
    code, text, _ = run("settings", "wsearch")
    assert code == 0
    assert "needs: encoder, generator, inversions" in text
    for line in (
        r"epsilon_boundary +0\.3 +0 < number ≤ 2 \| auto +--epsilon-boundary",
        r"boundary +squared +squared \| hinge$",
        r"max_steps +1000 +whole number ≥ 1 +--max-steps",
        r"learning_rate +0\.01 +number > 0$",
    ):
        assert re.search(rf"^{line}", text, re.MULTILINE), line
    words = " ".join(text.split())
    for field in WSearchConfig.model_fields.values():
        assert " ".join(field.description.split()) in words
    assert max(len(unicodedata.normalize("NFC", line)) for line in text.splitlines()) <= 80
    assert "[0.2, 1]" in run("settings", "expert")[1]


def test_the_schema_is_pydantics(run):
    assert json.loads(run("settings", "wsearch", "--json")[1]) == WSearchConfig.model_json_schema()


@pytest.mark.parametrize("name", TRAININGS)
def test_the_settings_of_trainings(run, name):
    code, text, _ = run("settings", name)
    assert code == 0
    line = {
        "train": r"optimiser\.batch_size +512",
        "encoder": r"optimiser\.batch_size +512",
        "prepare": "noise +0.5",
        "generator": "r1_weight +10",
        "inverter": "hidden_dim +256",
        "learned-views": "num_blocks +6",
    }
    assert re.search(rf"^{line[name]}", text, re.MULTILINE)
    commands = {"train": "train", "learned-views": "pretrain views", "prepare": "prepare"}
    command = commands.get(name, f"pretrain {name}")
    assert f"viewgen {command} " in text
    assert max(len(row) for row in text.splitlines()) <= 80
    schema = json.loads(run("settings", name, "--json")[1])
    assert schema["type"] == "object"
    described = schema["properties"]
    if name in ("train", "encoder"):
        described = described["network"]["properties"]
    assert all(field["description"] for field in described.values())


def test_what_has_settings_is_listed_without_a_name(run):
    code, text, _ = run("settings")
    assert code == 0
    assert re.search(r"^trainings +train, encoder, prepare, generator", text, re.MULTILINE)
    assert re.search(r"^views .*wsearch", text, re.MULTILINE | re.DOTALL)
    assert "knn" in json.loads(run("settings", "--json")[1])["diagnostics"]


def test_one_name_of_two_nouns(run):
    code, text, _ = run("settings", "infonce")
    assert code == 0
    assert re.findall(r"^(\w+) infonce: ", text, re.MULTILINE) == ["objective", "estimator"]
    code, _, errors = run("settings", "infonce", "--json")
    assert (code, "add --of, for example --of estimators" in errors) == (2, True)
    schema = json.loads(run("settings", "infonce", "--of", "objectives", "--json")[1])
    assert "temperature" in schema["properties"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("views", "wsearch"), "did you mean: viewgen list settings wsearch"),
        (("settings", "wserch"), "nothing is called 'wserch'; did you mean 'wsearch'?"),
        (("settings", "digits", "--of", "views"), "nothing is called 'digits'"),
        (("views", "--of", "views"), "--of views is an option of"),
        (("view",), "'views'"),
    ],
)
def test_what_makes_no_sense_is_refused(run, words, message):
    code, text, errors = run(*words)
    assert (code, text) == (2, "")
    assert message in errors


def test_a_broken_plug_in_does_not_hide_the_others(run, monkeypatch):
    point = EntryPoint("swirl", "no_such_module_of_swirls:ENTRY", "viewgen.views")
    monkeypatch.setattr("viewgen.registry.entry_points", lambda group: (point,))
    monkeypatch.delitem(vars(VIEWS), "_installed", raising=False)
    code, text, _ = run("views")
    assert code == 0
    assert "swirl" in text
    assert "broken: view method 'swirl' of the installed package" in " ".join(text.split())
    rows = json.loads(run("views", "--json")[1])["views"]
    assert [row["name"] for row in rows if "error" in row] == ["swirl"]
    monkeypatch.delitem(vars(VIEWS), "_installed")
