"""Commands of the documentation, run in the order of their page, on a few images."""

import logging
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from viewgen.cli import main
from viewgen.diagnostics.probe import probe_config
from viewgen.store import CacheReader

ROOT = Path(__file__).parents[2]
# what makes a command short: fewer images and steps, narrow networks, one process
SHORT = {
    "cache": ["--limit", "16", "--views", "2", "--executor", "local", "--set", "invert.max_steps=5"],
    "calibrate": ["--num-images", "32"],
    "train": ["--limit", "16", "--epochs", "1", "--batch-size", "16", "--set", "width=4"],
    "pretrain": ["--set", "num_steps=1", "--set", "batch_size=8"],
    "inspect": ["--static", "gallery", "--images", "4"],
}


def console_lines(page: str) -> list[list[str]]:
    """Return the words of every line in the page's console blocks that runs viewgen or a script."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [words for words in lines if words[0] == "viewgen" or "docs/scripts/" in " ".join(words)]


def run(words: list[str]) -> str:
    """Run one line and return what a script printed."""
    if words[0] == "python":
        files = [path for word in words[2:] for path in sorted(map(str, Path().glob(word))) or [word]]
        command = [sys.executable, ROOT / words[1], *files]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with pytest.raises(SystemExit) as end:
        main(words[1:] + SHORT.get(words[1], []))
    assert not end.value.code, words
    return ""


def run_snippets(page: str) -> dict[str, Any]:
    """Run a page's Python and return its names."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    names: dict[str, Any] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(compile(snippet, page, "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flushing: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("viewgen_train.evaluate.probe_config", partial(probe_config, epochs=3, num_seeds=2))
    return tmp_path


def test_the_tutorial_from_nothing_to_the_table(folder):
    # the last line, viewgen mi, has a test of its own that is as long as this one
    *lines, measure = console_lines("tutorial.md")
    assert measure[1] == "mi"
    printed = "".join(run(words) for words in lines)
    for name in ("none", "A1-wsearch", "A2-wsearch", "A2-wperturb"):
        assert re.search(rf"^\| {name} \| 1 \| \d+\.\d\d ± \d+\.\d\d \| \d+\.\d\d \|$", printed, re.MULTILINE)
    assert (folder / "training.png").stat().st_size > 5_000
    assert list((folder / "gallery").glob("*.html"))


def test_how_tos_on_digits(folder):
    for page in ("how-to/resume.md", "how-to/epsilon.md", "explanation/w-perturb.md"):
        for words in console_lines(page):
            run(words)
    assert {len(CacheReader(str(url))) for url in folder.glob("digits*.zarr")} == {16}


def test_a_generator_of_ones_own(folder):
    run_snippets("how-to/generator.md")
    lines = [words for words in console_lines("how-to/generator.md") if "digits" in words]
    assert [words[1] for words in lines] == ["pretrain", "cache"]
    for words in lines:
        run(words)
    assert len(CacheReader("mine.zarr")) == 16


@pytest.mark.chaos
def test_s3(folder, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        for words in console_lines("how-to/s3.md"):
            run([word.replace("http://127.0.0.1:9000", endpoint) for word in words])
        names = run_snippets("how-to/s3.md")
        assert len(names["reader"]) == 16
        assert any(path.is_file() for path in (folder / "copies").rglob("*"))
    finally:
        server.stop()
