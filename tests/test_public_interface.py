"""The public names and the command line's options, listed: a change of either is a decision."""

import ast
import json
from pathlib import Path

import click
import pytest

from viewgen.cli import cli

ROOT = Path(__file__).parents[1]
SNAPSHOT = Path(__file__).parent / "golden" / "public_interface.json"
SOURCE_ROOTS = (".", "pipelines", "pretrained", "train")


def public_names() -> dict[str, list[str]]:
    names = {}
    for source_root in SOURCE_ROOTS:
        for path in sorted((ROOT / source_root).glob("viewgen*/**/*.py")):
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                    module = path.relative_to(ROOT / source_root).with_suffix("").as_posix()
                    names[module.replace("/", ".").removesuffix(".__init__")] = ast.literal_eval(node.value)
    return names


def options(command: click.Command, name: str) -> dict[str, list[str]]:
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        found: dict[str, list[str]] = {}
        for child in command.list_commands(context):
            inner = command.get_command(context, child)
            assert inner is not None
            found |= options(inner, f"{name} {child}")
        return found
    flags = [flag for parameter in command.params for flag in (parameter.opts or [parameter.name])]
    return {name: sorted(flags)}


def commands() -> list[str]:
    return sorted(options(cli, "viewgen"))


def test_interface_is_the_recorded_one():
    found = {"names": public_names(), "options": options(cli, "viewgen")}
    assert found == json.loads(SNAPSHOT.read_text()), (
        "the public interface changed; if that is meant, write it down with\n"
        "  python tests/test_public_interface.py"
    )


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help_with_an_example(name):
    command: click.Command = cli
    context = click.Context(cli, info_name="viewgen")
    for word in name.split()[1:]:
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command = found
    text = command.get_help(click.Context(command, info_name=name))
    assert "Example" in text
    assert "viewgen " in text.split("Example")[1]


if __name__ == "__main__":
    document = {"names": public_names(), "options": options(cli, "viewgen")}
    SNAPSHOT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
