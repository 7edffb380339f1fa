"""The notebook of the documentation runs from its first cell to its last, and becomes a page."""

import json
import runpy
from pathlib import Path

import pytest

from viewgen.cli import main

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs/notebook.ipynb"


@pytest.fixture(scope="module")
def scripts():
    return runpy.run_path(str(ROOT / "docs/scripts/notebook.py"))


def _results(notebook):
    return [
        output["data"] for cell in notebook["cells"] for output in cell.get("outputs", ()) if "data" in output
    ]


def test_it_runs_from_its_command_on(scripts, tmp_path, monkeypatch, no_flushing):
    notebook = json.loads(PATH.read_text("utf-8"))
    (command,) = ["".join(cell["source"]) for cell in notebook["cells"] if cell["source"][0].startswith("!")]
    monkeypatch.chdir(tmp_path)
    short = ["--limit", "24", "--executor", "local", "--no-quality", "--set", "invert.max_steps=3"]
    with pytest.raises(SystemExit) as end:
        main([*command.removeprefix("!viewgen ").split(), *short])
    assert not end.value.code
    ran = scripts["run"](json.loads(PATH.read_text("utf-8")))
    kept = [[output["output_type"] for output in cell.get("outputs", ())] for cell in notebook["cells"]]
    found = [[output["output_type"] for output in cell.get("outputs", ())] for cell in ran["cells"]]
    (shown,) = [data for data in _results(ran) if "text/html" in data]
    assert "<img" in "".join(shown["text/html"]), "the reader shows views of some images"
    assert [[*data] for data in _results(ran)] == [[*data] for data in _results(notebook)]
    assert found == kept, "run `python docs/scripts/notebook.py docs/notebook.ipynb` and keep its outputs"


def test_its_page_has_text_code_and_pictures(scripts):
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "words"]},
            {"cell_type": "code", "source": ["!viewgen doctor"], "outputs": []},
            {"cell_type": "code", "source": ["print(1)\n", "2 + 3"]},
            {"cell_type": "code", "source": ["import matplotlib.pyplot as plt\n", "figure = plt.figure()"]},
        ]
    }
    page = scripts["to_markdown"](scripts["run"](notebook))
    ((name, picture),) = scripts["pictures"](notebook)
    assert picture.startswith(b"\x89PNG")
    assert page.split("\n\n") == [
        "# Title\nwords",
        "```console\nviewgen doctor\n```",
        "```python\nprint(1)\n2 + 3\n```",
        "```text\n1\n```",
        "```text\n5\n```",
        "```python\nimport matplotlib.pyplot as plt\nfigure = plt.figure()\n```",
        f"![What the cell above draws]({name})\n",
    ]
