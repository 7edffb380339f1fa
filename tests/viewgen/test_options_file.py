"""`--config FILE` of commands whose options are what there is to configure."""

import json

import click
import pytest
from click.testing import CliRunner

from viewgen.cli import cli
from viewgen.cli.options import options_file, parse_settings
from viewgen.errors import UsageError


@click.command(name="sum")
@click.option("--num-images", type=int, required=True)
@click.option("-d", "--diagnostic", "diagnostics", multiple=True)
@click.option("--fast", is_flag=True)
@click.option("--set", "settings", multiple=True, callback=parse_settings)
@options_file()
def with_settings(**options):
    click.echo(json.dumps(options))


@click.command(name="plain")
@click.option("--num-images", type=int, default=3)
@options_file()
def plain(**options):
    click.echo(json.dumps(options))


def run(command, *words):
    return CliRunner().invoke(command, list(words))


def values(command, *words):
    result = run(command, *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_a_file_holds_options_and_settings(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('num-images = 7\ndiagnostic = ["knn", "probe"]\nfast = true\n[probe]\nepochs = 5\n')
    assert values(with_settings, "--config", str(path)) == {
        "num_images": 7,
        "diagnostics": ["knn", "probe"],
        "fast": True,
        "settings": {"probe.epochs": 5},
    }


def test_the_command_line_comes_before_the_file_wherever_it_stands(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("num_images: 7\ndiagnostic: knn\nprobe: {epochs: 5, seeds: 2}\n")
    words = ["--num-images", "9", "--set", "probe.epochs=6", "-d", "probe"]
    expected = {"num_images": 9, "diagnostics": ["probe"], "fast": False}
    for order in ([*words, "--config", str(path)], ["--config", str(path), *words]):
        found = values(with_settings, *order)
        assert found.pop("settings") == {"probe.epochs": 6, "probe.seeds": 2}
        assert found == expected


def test_a_name_that_is_no_option_is_refused_with_the_nearest(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("num-image = 7\n")
    with pytest.raises(UsageError, match=r"plain has no option 'num-image'.*num-images"):
        raise run(plain, "--config", str(path)).exception


def test_a_wrong_value_is_refused_as_on_the_command_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('num-images = "many"\n')
    result = run(plain, "--config", str(path))
    assert result.exit_code == 2
    assert "'--num-images': 'many' is not a valid integer" in result.output


@pytest.mark.parametrize(
    "name", ["mi", "measure", "calibrate", "eval", "cache", "train", "prepare", "pretrain encoder"]
)
def test_commands_take_a_file(name):
    assert "--config FILE" in CliRunner().invoke(cli, [*name.split(), "--help"]).output


def test_calibrate_from_a_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('dataset = "digits"\nnum-images = 8\nnum-views = 2\njson = true\n')
    result = CliRunner().invoke(cli, ["calibrate", "--config", str(path), "--num-views", "1"])
    found = json.loads(result.output)
    assert (found["num_images"], found["num_views"]) == (8, 1)
