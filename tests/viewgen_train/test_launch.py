"""What a training's launch does around Ray Train: a worker's output, result and failures."""

import json
import os
import sys

import pytest
import torch

from viewgen.errors import DataError, UsageError, ViewgenError
from viewgen_train.launch import _raise_what_was_raised, _shown, _work, distribute


def speak(word, failing=False):
    print(word, file=sys.stderr)
    if failing:
        raise DataError("the images are gone")
    return {"folder": os.getcwd(), "threads": torch.get_num_threads(), "terminal": sys.stderr.isatty()}


@pytest.mark.parametrize("terminal", [True, False])
def test_a_workers_words_and_result_arrive(terminal, tmp_path, monkeypatch, capfd):
    """`_work` runs in a Ray actor, whose folder is not that of the command."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("COLUMNS", "80")
    task = {
        "function": speak,
        "arguments": {"word": "half a batch, ½"},
        "scratch": str(tmp_path),
        "cwd": str(home),
        "num_threads": torch.get_num_threads(),
        "terminal": terminal,
        "columns": 123,
    }
    with _shown(tmp_path / "output"):
        _work(task)
        assert os.environ["COLUMNS"] == "123"
        with pytest.raises(DataError, match="the images are gone"):
            _work(task | {"arguments": {"word": "and then", "failing": True}})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "folder": str(home),
        "threads": torch.get_num_threads(),
        "terminal": terminal,
    }
    assert capfd.readouterr().err == "half a batch, ½\nand then\n"


def test_no_worker_is_refused(tmp_path):
    with pytest.raises(UsageError, match="0 workers"):
        distribute(speak, {"word": ""}, num_workers=0, folder=tmp_path)


class LostError(Exception):
    __module__ = "ray.exceptions"


def test_which_failure_is_told():
    lost, connection, ours = LostError("gone"), RuntimeError("connection closed"), DataError("bad data")
    with pytest.raises(DataError, match="bad data"):
        _raise_what_was_raised({0: connection, 1: ours})
    with pytest.raises(ViewgenError, match="rank 0: RuntimeError: connection closed; rank 1: KeyError: 'x'"):
        _raise_what_was_raised({0: connection, 1: KeyError("x")})
    # a worker that died: no error of the training
    assert _raise_what_was_raised({0: connection, 1: lost}) is None
