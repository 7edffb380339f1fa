"""The registry: built-in, installed and registered names, settings by recipe, plug-ins that are broken."""

import pickle
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

import viewgen.registry
from viewgen.errors import UsageError, ViewgenError
from viewgen.registry import Choice, Entry, Registry
from viewgen.settings import Settings, setting


class RoundSettings(Settings):
    title = "round"

    radius: float = setting(1.0, "radius", gt=0)
    late: int = setting(0, "a later field", since=2)


class SquareSettings(Settings):
    title = "square"

    side: float = setting(2.0, "side", gt=0)


def build(settings, scale=1):
    return scale * settings.radius


ENTRY = Entry(name="round", summary="a circle", settings=RoundSettings, build=build)
SQUARE = Entry(name="square", summary="a square", settings=SquareSettings, build=build)


@pytest.fixture
def shapes(monkeypatch) -> Registry:
    """Two built-in shapes; nothing is installed."""
    module = ModuleType("shapes_for_tests")
    module.ENTRY, module.SQUARE = ENTRY, SQUARE
    monkeypatch.setitem(sys.modules, "shapes_for_tests", module)
    monkeypatch.setattr(viewgen.registry, "entry_points", lambda group: ())
    return Registry(
        "shape", "viewgen.shapes", {"round": "shapes_for_tests", "square": "shapes_for_tests:SQUARE"}
    )


@pytest.fixture
def install(monkeypatch):
    """Return a function that installs an entry point ``oval``."""

    def add(value: str, entry: object = None) -> None:
        module = ModuleType("oval_for_tests")
        module.ENTRY = entry
        monkeypatch.setitem(sys.modules, "oval_for_tests", module)
        point = EntryPoint("oval", value, "viewgen.shapes")
        monkeypatch.setattr(viewgen.registry, "entry_points", lambda group: (point,))

    return add


def test_built_in_names_stand_in_their_order(shapes):
    assert shapes.names == shapes.built_in == ("round", "square")
    assert (shapes.entry("round"), shapes.entry("square")) == (ENTRY, SQUARE)
    assert ("round" in shapes, "oval" in shapes) == (True, False)
    assert shapes.origin("round") == "built-in"


def test_an_unknown_name_gets_the_nearest(shapes):
    with pytest.raises(UsageError, match=r"no shape 'squar'; did you mean 'square'\? \(known: round, square"):
        shapes.entry("squar")


def test_nothing_is_imported_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(viewgen.registry, "entry_points", lambda group: ())
    lazy = Registry("shape", "viewgen.shapes", {"round": "no_such_module_anywhere"})
    assert lazy.names == ("round",)
    with pytest.raises(ModuleNotFoundError):
        lazy.entry("round")


def test_a_script_registers_a_name_once(shapes):
    oval = Entry(name="oval", summary="an oval", settings=RoundSettings, build=build)
    assert shapes.register(oval) is oval
    assert shapes.names == ("round", "square", "oval")
    assert (shapes.entry("oval"), shapes.origin("oval")) == (oval, "registered")
    for entry in (oval, ENTRY):
        with pytest.raises(UsageError, match=f"there is a shape named {entry.name!r} already"):
            shapes.register(entry)


def test_a_recipe_lies_over_the_defaults_and_what_is_given_over_both(shapes, monkeypatch):
    recipes = {("moon", "round"): {"radius": 3.0}}
    monkeypatch.setattr(viewgen.registry, "recipe", lambda *key: recipes.get(key, {}))
    assert shapes.resolve("round", "sun", {}).settings.radius == 1.0
    assert shapes.resolve("round", "moon", {}).settings.radius == 3.0
    assert shapes.resolve("round", "moon", {"radius": 4}).settings.radius == 4.0


def test_an_ignored_setting_names_its_users(shapes):
    with pytest.raises(UsageError, match="side is a setting of square; shape 'round' ignores it"):
        shapes.resolve("round", "sun", {"side": 1.0})
    with pytest.raises(UsageError, match="round: no setting 'raduis'; did you mean 'radius'"):
        shapes.resolve("round", "sun", {"raduis": 1.0})
    with pytest.raises(UsageError, match="round: radius is -1; expected greater than 0"):
        shapes.resolve("round", "sun", {"radius": -1})


def test_a_choice_is_built_recorded_read_and_pickled(shapes):
    choice = shapes.resolve("round", "sun", {"radius": 2})
    assert (choice.name, choice.build(scale=3)) == ("round", 6.0)
    assert choice.record() == {"name": "round", "settings": {"radius": 2.0}}
    assert shapes.read(choice.record()) == choice
    assert pickle.loads(pickle.dumps(choice)) == choice
    assert choice != Choice(ENTRY, RoundSettings())


def test_an_installed_name_needs_no_import(shapes, install):
    oval = Entry(name="oval", summary="an oval", settings=RoundSettings, build=build)
    install("oval_for_tests:ENTRY", oval)
    assert shapes.names == ("round", "square", "oval")
    assert shapes.entry("oval") is oval
    assert shapes.origin("oval") == "oval_for_tests"
    with pytest.raises(UsageError, match="already"):
        shapes.register(oval)


@pytest.mark.parametrize(
    ("value", "entry", "message"),
    [
        (
            "no_such_module_at_all:ENTRY",
            None,
            "ModuleNotFoundError: .*; mend or uninstall",
        ),
        ("oval_for_tests:NOTHING", None, "cannot be imported: AttributeError"),
        ("oval_for_tests:ENTRY", "text", "expected an entry of that name, got 'text'"),
        ("oval_for_tests:ENTRY", ENTRY, "as shape 'oval'; expected an entry of that name"),
    ],
)
def test_a_broken_plug_in_is_named_and_leaves_the_others_alone(shapes, install, value, entry, message):
    install(value, entry)
    with pytest.raises(ViewgenError, match=message):
        shapes.entry("oval")
    assert shapes.entry("round") is ENTRY
    assert shapes.resolve("round", "sun", {"radius": 2}).settings.radius == 2.0
