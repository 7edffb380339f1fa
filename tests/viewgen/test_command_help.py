"""Options of the large commands stand under headings, each once."""

import re

import pytest
from click.testing import CliRunner

from viewgen.cli import cli

HEADINGS = {
    "cache": ["Options", "Images", "Views", "Networks", "Execution"],
    "train": ["Options", "Images", "Views made in the training step", "Execution"],
    "mi": ["Options", "Images", "Estimate", "Execution"],
    "measure": ["Options", "Output", "Subject", "Execution"],
    "export": ["Options", "Of a cache", "Of a training"],
    "pretrain encoder": ["Options", "Images", "Training", "Execution"],
    "pretrain inverter": ["Options", "Images", "Training", "Networks", "Execution"],
}


@pytest.mark.parametrize("name", HEADINGS)
def test_options_stand_under_headings(name):
    text = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="viewgen").output
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE) == HEADINGS[name]
    command = cli
    for word in name.split():
        command = command.get_command(None, word)
    for parameter in command.params:
        if parameter.param_type_name == "option":
            long = max(parameter.opts, key=len)
            assert len(re.findall(rf"^ .*?{long}(?![\w-])", text, re.MULTILINE)) >= 1, long


def test_an_option_is_under_its_heading():
    text = CliRunner().invoke(cli, ["train", "--help"], prog_name="viewgen").output
    before, _, images = text.partition("\nImages:")
    images, _, _ = images.partition("\nViews made")
    assert "--assimilation" in before
    assert "--limit" not in before
    assert "--limit" in images
    assert "--workers" not in images
