"""Shared parts of commands with many options: a table of options, and settings as NAME=VALUE."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

__all__ = ["add_options", "parse_settings"]

Command = TypeVar("Command", bound=Callable[..., Any])


def add_options(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Return a decorator that adds the options to a command; `--help` lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def parse_settings(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse repeated NAME=VALUE arguments (a click callback); a value that is not JSON is a string."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values
