"""`--config FILE` of commands whose options are what there is to configure."""

import json

import click
import pytest
from click.testing import CliRunner

from viewgen.cli import cli
from viewgen.cli.options import options_file, parse_settings
from viewgen.cli.setting_options import given_settings
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


@pytest.mark.parametrize(("value", "read"), [('"many"', "many"), ("7.9", "7.9"), ("true", "True")])
def test_a_wrong_value_is_refused_as_on_the_command_line(tmp_path, value, read):
    path = tmp_path / "a.toml"
    path.write_text(f"num-images = {value}\n")
    result = run(plain, "--config", str(path))
    assert result.exit_code == 2
    assert f"'--num-images': '{read}' is not a valid integer" in result.output


def test_a_list_for_one_value_and_a_number_for_a_flag_are_refused(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("num-images = [1, 2]\n")
    with pytest.raises(UsageError, match=r"num-images is \[1, 2\]; expected one value"):
        raise run(plain, "--config", str(path)).exception
    path.write_text("num-images = 1\nfast = 2\n")
    assert "'--fast': '2' is not a valid boolean" in run(with_settings, "--config", str(path)).output


def test_names_without_a_value_are_left_out(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# nothing\n")
    assert values(plain, "--config", str(path)) == {"num_images": 3}
    path.write_text("num-images:\n")
    assert values(plain, "--config", str(path)) == {"num_images": 3}


def test_a_setting_of_the_command_line_replaces_that_of_the_file_under_any_name(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        "num-images = 1\nepochs = 2\n[probe]\nepochs = 5\n[network]\nwidth = 8\n[sum.other]\nx = 1\n"
    )
    found = values(with_settings, "--config", str(path), "--set", "epochs=3", "--set", "network.width=4")
    assert found["settings"] == {"epochs": 3, "network.width": 4, "other.x": 1}


def test_a_setting_of_the_inversion_is_not_that_of_the_method():
    """The file of `viewgen cache` has both, and the flag means the method's."""
    found = given_settings({"invert.max_steps": 5, "max_steps": 7}, {}, {"max_steps": 9})
    assert found == {"invert.max_steps": 5, "max_steps": 9}


def test_what_a_dry_run_prints_is_such_a_file(tmp_path):
    words = ["pretrain", "generator", "--dataset", "digits", "--out", str(tmp_path / "run"), "--dry-run"]
    printed = CliRunner().invoke(cli, [*words, "--set", "num_images=77"]).output
    path = tmp_path / "a.toml"
    path.write_text(printed)
    again = CliRunner().invoke(cli, [*words, "--config", str(path)]).output
    assert "num_images = 77" in printed
    head, tail = printed.partition("\n\n")[0], printed.rpartition("[generator]")[2].splitlines()
    assert head in again
    assert [line for line in tail if " = " in line] == [line for line in again.splitlines() if " = " in line]


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
