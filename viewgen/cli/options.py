"""Shared parts of commands with many options: a table of options, and settings as NAME=VALUE."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import click

from viewgen.views.compositions import PRESETS

__all__ = ["GroupedCommand", "add_options", "augment_option", "parse_settings"]

Command = TypeVar("Command", bound=Callable[..., Any])


def add_options(options: Sequence[Callable[[Command], Command] | str]) -> Callable[[Command], Command]:
    """Return a decorator that adds the options to a command; `--help` lists them in this order.

    Args:
        options: decorators of options, and headings of those that follow, which `GroupedCommand` shows.
    """

    def decorate(command: Command) -> Command:
        waiting: list[Any] = []
        for option in reversed(options):
            if isinstance(option, str):
                for one in waiting:
                    _HEADINGS[one] = option
                waiting = []
                continue
            command = option(command)
            waiting.append(command.__click_params__[-1])  # type: ignore[attr-defined]
        return command

    return decorate


_HEADINGS: "WeakKeyDictionary[click.Parameter, str]" = WeakKeyDictionary()


class GroupedCommand(click.Command):
    """A command whose `--help` has its options under the headings that `add_options` was given."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those without a heading first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(_HEADINGS.get(parameter, "Options"), []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


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
