"""Every declared version of Python that is on this machine compiles the packages, and imports what it can."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
DECLARED = [name.rpartition(" ")[2] for name in CLASSIFIERS if "Python :: 3." in name]
FOLDERS = [ROOT / "viewgen", *(ROOT / name for name in ("pipelines", "train", "pretrained"))]
COMPILE = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
files = [path for folder in sys.argv[1:] for path in Path(folder).rglob("*.py")]
for path in files:
    compile(path.read_text("utf-8"), str(path), "exec")
print(len(files))
"""
# none of these needs torch
IMPORT = """
import importlib, importlib.util, sys
needed = ("numpy", "pydantic", "click", "rich", "platformdirs", "fsspec", "google_crc32c", "zarr")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    print("missing", *missing)
    sys.exit()
for name in ("settings", "registry", "roles", "messages", "progress", "recipes", "store", "datasets", "views",
             "views.entry", "views.wsearch.settings", "diagnostics", "cli", "cli.list"):
    importlib.import_module(f"viewgen.{name}")
for name in ("viewgen_train.settings", "viewgen_train.objectives.entry", "viewgen_pretrained.settings"):
    importlib.import_module(name)
assert "torch" not in sys.modules
print("imported")
"""


def run(interpreter: str, *words: str) -> str:
    done = subprocess.run([interpreter, *words], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(params=DECLARED)
def interpreter(request) -> str:
    """An interpreter of a declared version."""
    if request.param == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{request.param}")
    # a shim of a version manager may name a version that is not active
    managed = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for candidate in (found, *sorted(managed.glob(f"{request.param}.*/bin/python"))):
        if candidate and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0:
            return str(candidate)
    pytest.skip(f"no Python {request.param} on this machine")


def test_all_files_compile_without_a_warning(interpreter):
    assert int(run(interpreter, "-c", COMPILE, *map(str, FOLDERS))) > 200


def test_what_needs_no_torch_is_imported(interpreter):
    paths = [str(ROOT), *(str(folder) for folder in FOLDERS[1:])]
    setup = f"import sys; sys.path[:0] = {paths!r}\n"
    said = run(interpreter, "-c", setup + IMPORT)
    if said.startswith("missing"):
        pytest.skip(f"it lacks {said.removeprefix('missing ')}")
    assert said == "imported"


def test_the_declared_versions_are_those_of_the_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == f">={DECLARED[0]}"
    assert DECLARED == ["3.11", "3.12", "3.13"]
