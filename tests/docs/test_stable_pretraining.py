"""The snippet of docs/how-to/stable-pretraining.md, in a process of its own: that library patches others."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from viewgen_pipelines.cache import cache

PAGE = Path(__file__).parents[2] / "docs/how-to/stable-pretraining.md"
BEFORE = """
from viewgen.networks.torchvision_import import import_torchvision

import_torchvision()  # PyPI's torchvision beside a CPU torch
"""
AFTER = """
changed = [name for name, value in encoder.state_dict().items() if not value.equal(weights[name])]
assert trainer.global_step > 0
assert {name.split(".")[0] for name in changed} == {"backbone", "projector"}
assert trainer.callback_metrics["train/probe_loss_epoch"] > 0
"""


@pytest.mark.skipif(find_spec("stable_pretraining") is None, reason="needs stable-pretraining")
def test_the_snippet_trains_an_encoder_and_its_probe(tmp_path, no_flushing):
    url = str(tmp_path / "views.zarr")
    cache("digits", method="expert", views=2, limit=48, executor="local", quiet=True, out=url)
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    first, loader, rest = snippet.partition("\nloader = ")
    keep = "\nweights = {name: value.clone() for name, value in encoder.state_dict().items()}"
    program = BEFORE + first + keep + loader + rest + AFTER
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr[-3000:]
