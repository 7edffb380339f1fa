"""Shared parts of commands with many options: a table of options, and settings as NAME=VALUE."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from viewgen.views.compositions import PRESETS

__all__ = ["add_options", "augment_option", "parse_settings"]

Command = TypeVar("Command", bound=Callable[..., Any])


def add_options(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Return a decorator that adds the options to a command; `--help` lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def augment_option(what: str) -> Callable[[Command], Command]:
    """Return the option ``--augment NAME[:S]``, a combination of expert operations.

    Args:
        what: start of its help.
    """
    return click.option(
        "--augment",
        metavar="NAME[:S]",
        help=f"{what}: {', '.join(PRESETS)}, or letters of a crop, b blur, c grayscale, d jitter, e flip "
        "(abcde, for example); S is the strength of the jitter.  [default: the data set's recipe]",
    )


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
