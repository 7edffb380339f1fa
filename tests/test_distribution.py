"""What the packages need besides Python files is in the wheel: `make dist` builds and tries one."""

import tomllib
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
IGNORED = {".py", ".pyc"}


def packages() -> dict[str, Path]:
    """Return dotted name → folder of every package that the wheel has."""
    include = SETUPTOOLS["packages"]["find"]["include"]
    found = {}
    for where in SETUPTOOLS["packages"]["find"]["where"]:
        for name in find_namespace_packages(str(ROOT / where), include=include):
            found[name] = ROOT / where / name.replace(".", "/")
    return found


def data_files() -> set[Path]:
    """Return the files that the wheel has as data."""
    found: set[Path] = set()
    for name, folder in packages().items():
        for pattern in (*SETUPTOOLS["package-data"]["*"], *SETUPTOOLS["package-data"].get(name, ())):
            found.update(folder.glob(pattern))
    return found


@pytest.mark.parametrize("package", ["viewgen", "viewgen_pipelines", "viewgen_train", "viewgen_pretrained"])
def test_every_file_of_a_package_is_in_the_wheel(package):
    root = packages()[package]
    known = data_files()
    left_out = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in IGNORED and path not in known
    ]
    assert left_out == []
