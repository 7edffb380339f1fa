"""Every Python snippet of the documentation runs, and viewgen takes every viewgen command in it."""

import re
import shlex
from pathlib import Path

import click
import pytest

from viewgen.methods import METHODS
from viewgen_pipelines import cache

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# pages whose snippets other tests run
ELSEWHERE = {"README.md"}


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> list[list[str]]:
    """Return the viewgen command lines in a page's console blocks, without `viewgen`."""
    found = []
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            quoted = [shlex.split(word)[1:] for word in words if word.startswith("viewgen ")]
            found += quoted
            if words[:1] in (["viewgen"], [".venv/bin/viewgen"], ["docker/bin/submit"]):
                found.append(words[1:])
            elif "job" in words and words[0] == "docker" and words[-1] != "job":
                found.append(words[words.index("job") + 1 :])
    return found


@pytest.fixture(scope="module")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snippets")
    cache(
        "digits", method="expert", views=2, limit=48, shard_images=16, executor="local", quiet=True,
        out=str(folder / "views.zarr"),
    )  # fmt: skip
    return folder / "views.zarr"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python") and page.name not in ELSEWHERE],
    ids=name_of,
)
def test_python_snippets_run(page, digits_cache, tmp_path, monkeypatch, no_flushing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "views.zarr").symlink_to(digits_cache)
    methods = dict(METHODS)
    namespace = {"__name__": "__main__"}
    try:
        for snippet in blocks(page, "python"):
            exec(compile(snippet, name_of(page), "exec"), namespace)
    finally:
        METHODS.clear()
        METHODS.update(methods)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_are_commands(page, check_command):
    for words in commands(page):
        check_command(words)


def test_other_files_that_pages_name_exist():
    for page in PAGES:
        for path in re.findall(r"\b((?:docs|docker|benchmarks)/[\w./-]+\w)", page.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{name_of(page)} names {path}"


def test_a_wrong_command_is_noticed(check_command):
    with pytest.raises(click.UsageError):
        check_command(["cache", "--dataset", "digits", "--epsilon", "0.3"])
    with pytest.raises(click.UsageError):
        check_command(["generate"])
