"""Dependencies point inward, and the source roots stay what they are."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "viewgen": ROOT / "viewgen",
    "viewgen_pipelines": ROOT / "pipelines/viewgen_pipelines",
    "viewgen_pretrained": ROOT / "pretrained/viewgen_pretrained",
    "viewgen_train": ROOT / "train/viewgen_train",
}
# Each may import those before it. Commands import anything, inside their functions.
ORDER = ("viewgen", "viewgen_pipelines", "viewgen_train", "viewgen_pretrained")
COMMANDS = "viewgen.cli"
# Made late on purpose: a storage is opened by the function that is beside its base class.
LATE = {("viewgen.store.storage", "viewgen.store.remote")}


def imports(text: str, *, anywhere: bool) -> set[str]:
    """Return what a file imports, `a.b` and for ``from a.b import c`` also `a.b.c`.

    Args:
        text: contents of the file.
        anywhere: inside functions and for types too, not only when the file is loaded.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.add(child.module)
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            elif isinstance(child, ast.Call) and _is_import_call(child):
                found.add(str(child.args[0].value))  # type: ignore[attr-defined]
            if not anywhere and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if not anywhere and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            visit(child)

    visit(ast.parse(text))
    return found


def tops(names: set[str]) -> set[str]:
    """Return the top-level packages of imported names."""
    return {name.split(".")[0] for name in names}


def _is_import_call(call: ast.Call) -> bool:
    return (
        ast.unparse(call.func) in ("__import__", "importlib.import_module", "import_module")
        and bool(call.args)
        and isinstance(call.args[0], ast.Constant)
    )


def files(package: str) -> list[Path]:
    found = sorted(PACKAGES[package].rglob("*.py"))
    assert found
    return found


def modules() -> dict[str, str]:
    """Return dotted name → text of every file of the packages."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in files(package):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return found


def against_the_order(texts: dict[str, str]) -> list[str]:
    """Return every import of a package that stands later in the order."""
    found = []
    for name, text in sorted(texts.items()):
        later = set(ORDER[ORDER.index(name.split(".")[0]) + 1 :])
        anywhere = name != COMMANDS and not name.startswith(f"{COMMANDS}.")
        found += [
            f"{name} imports {other}" for other in sorted(tops(imports(text, anywhere=anywhere)) & later)
        ]
    return found


def circle(texts: dict[str, str], *, anywhere: bool) -> list[str]:
    """Return the names of files that import each other in a circle, or nothing."""
    edges = {}
    for name, text in texts.items():
        named = imports(text, anywhere=anywhere)
        # of `a.b` and `a.b.c` only the file that is meant: the module `c`, or `b`, which has a name `c`
        meant = {other for other in named & texts.keys() if not _only_a_way(other, named, texts)}
        edges[name] = {other for other in meant - {name} if (name, other) not in LATE}
    try:
        tuple(TopologicalSorter(edges).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def _only_a_way(package: str, named: set[str], texts: dict[str, str]) -> bool:
    """Whether all that is imported from a package are modules in it."""
    inner = {name for name in named if name.rpartition(".")[0] == package}
    return bool(inner) and inner <= texts.keys()


def test_imports_point_one_way():
    assert against_the_order(modules()) == []


@pytest.mark.parametrize("anywhere", [False, True], ids=["when loaded", "anywhere"])
@pytest.mark.parametrize("package", ORDER)
def test_no_files_of_a_package_import_each_other_in_a_circle(package, anywhere):
    own = {name: text for name, text in modules().items() if name.split(".")[0] == package}
    assert circle(own, anywhere=anywhere) == []


@pytest.mark.parametrize(
    ("name", "planted", "expected"),
    [
        ("viewgen.images", "import viewgen_train.loop", ["viewgen.images imports viewgen_train"]),
        (
            "viewgen.images",
            "def f():\n    from viewgen_pretrained import ship",
            ["viewgen.images imports viewgen_pretrained"],
        ),
        (
            "viewgen_pipelines.cache",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from viewgen_train.run import Run",
            ["viewgen_pipelines.cache imports viewgen_train"],
        ),
        ("viewgen_train.plan", "def f():\n    import viewgen_pipelines.cache", []),
        ("viewgen.cli.train", "import viewgen_train.training", ["viewgen.cli.train imports viewgen_train"]),
        ("viewgen.cli.train", "def f():\n    import viewgen_train.training", []),
    ],
)
def test_a_planted_import_against_the_order_is_found(name, planted, expected):
    assert against_the_order({name: planted}) == expected


def test_planted_circles_are_found():
    texts = {
        "p": "",
        "p.a": "from p.b import f",
        "p.b": "from p import c\ndef f(): ...",
        "p.c": "def g():\n    import p.a",
    }
    assert circle(texts, anywhere=False) == []
    assert set(circle(texts, anywhere=True)) == {"p.a", "p.b", "p.c"}
    texts["p.c"] = "import p.a"
    assert set(circle(texts, anywhere=False)) == {"p.a", "p.b", "p.c"}
    # a package's file that imports from its modules, one of which takes a name from the package itself
    texts = {"p": "from p.a import f", "p.a": "from p import g"}
    assert set(circle(texts, anywhere=False)) == {"p", "p.a"}
    assert circle({"p": "from p.a import f", "p.a": "from p import b", "p.b": ""}, anywhere=False) == []


def users_of_ray(package: str, *, anywhere: bool) -> list[str]:
    texts = {name: text for name, text in modules().items() if name.split(".")[0] == package}
    return sorted(name for name, text in texts.items() if "ray" in tops(imports(text, anywhere=anywhere)))


def test_ray_is_used_by_the_executors_and_the_one_launcher_of_training():
    commands = [name for name in users_of_ray("viewgen", anywhere=True) if not name.startswith(COMMANDS)]
    assert commands == []
    assert users_of_ray("viewgen", anywhere=False) == []
    assert users_of_ray("viewgen_train", anywhere=True) == ["viewgen_train.launch"]


def test_pipelines_load_ray_when_they_need_it_only():
    """`--executor local` and `viewgen --help` work where Ray is broken or slow to import."""
    assert users_of_ray("viewgen_pipelines", anywhere=False) == []


@pytest.mark.parametrize("root", ["train", "pipelines", "pretrained"])
def test_source_roots_are_no_packages(root):
    assert (ROOT / root).is_dir()
    assert not (ROOT / root / "__init__.py").exists()


def test_no_drawer_for_everything():
    names = {path.name for package in PACKAGES for path in files(package)}
    assert not names & {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}


def test_files_stay_short():
    long = {
        str(path.relative_to(ROOT)): count
        for package in PACKAGES
        for path in files(package)
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


@pytest.mark.parametrize(
    ("source", "on_load", "anywhere"),
    [
        ("import ray.data", {"ray"}, {"ray"}),
        ("def f():\n    from ray import serve", set(), {"ray"}),
        ("class A:\n    import ray", {"ray"}, {"ray"}),
        ("try:\n    import ray\nexcept ImportError: pass", {"ray"}, {"ray"}),
        (
            "import importlib\nr = importlib.import_module('ray.data')",
            {"importlib", "ray"},
            {"importlib", "ray"},
        ),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray",
            {"typing"},
            {"typing", "ray"},
        ),
    ],
)
def test_the_reader_of_imports_sees_all_of_them(source, on_load, anywhere):
    assert tops(imports(source, anywhere=False)) == on_load
    assert tops(imports(source, anywhere=True)) == anywhere
