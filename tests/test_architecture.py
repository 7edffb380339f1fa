"""Dependencies point inward, and the source roots stay what they are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "viewgen": ROOT / "viewgen",
    "viewgen_pipelines": ROOT / "pipelines/viewgen_pipelines",
    "viewgen_pretrained": ROOT / "pretrained/viewgen_pretrained",
    "viewgen_train": ROOT / "train/viewgen_train",
}
OUTER = {"ray", "viewgen_pipelines", "viewgen_pretrained", "viewgen_train"}


def imports(path: Path, *, anywhere: bool) -> set[str]:
    """Return the top-level packages that a file imports: when it is loaded, or `anywhere` in it."""
    found = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(alias.name.split(".")[0] for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.add(child.module.split(".")[0])
            elif isinstance(child, ast.Call) and _is_import_call(child):
                found.add(str(child.args[0].value).split(".")[0])  # type: ignore[attr-defined]
            if anywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                if not anywhere and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                    continue
                visit(child)

    visit(ast.parse(path.read_text()))
    return found


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


def violations(
    package: str, forbidden: set[str], *, anywhere: bool, allowed: tuple[str, ...] = ()
) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {', '.join(hit)}"
        for path in files(package)
        if not str(path.relative_to(PACKAGES[package])).startswith(allowed or "\0")
        and (hit := sorted(imports(path, anywhere=anywhere) & forbidden))
    ]


def test_the_core_knows_neither_ray_nor_the_outer_packages():
    assert violations("viewgen", OUTER, anywhere=True, allowed=("cli/",)) == []
    assert violations("viewgen", OUTER, anywhere=False) == [], "commands import them inside their functions"


def test_training_imports_no_ray():
    assert violations("viewgen_train", {"ray"}, anywhere=True, allowed=("launch.py",)) == []


def test_pipelines_load_ray_when_they_need_it_only():
    """`--executor local` and `viewgen --help` work where Ray is broken or slow to import."""
    assert violations("viewgen_pipelines", {"ray"}, anywhere=False) == []


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
def test_the_reader_of_imports_sees_all_of_them(tmp_path, source, on_load, anywhere):
    file = tmp_path / "m.py"
    file.write_text(source)
    assert imports(file, anywhere=False) == on_load
    assert imports(file, anywhere=True) == anywhere
