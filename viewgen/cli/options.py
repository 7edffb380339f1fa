"""Shared parts of commands with many options: a table of options, and settings as NAME=VALUE."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import click

from viewgen.config_file import read_config
from viewgen.errors import UsageError, nearest_name
from viewgen.views.compositions import PRESETS

__all__ = ["GroupedCommand", "add_options", "augment_option", "options_file", "parse_settings"]

Command = TypeVar("Command", bound=Callable[..., Any])
# key of the context's meta data: settings of the file of `options_file`
FILE_SETTINGS = "viewgen.file_settings"


def add_options(options: Sequence[Callable[[Any], Any] | str]) -> Callable[[Command], Command]:
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


def options_file() -> Callable[[Command], Command]:
    """Return the option ``--config FILE`` of a command whose options are what there is to configure.

    A name in the file is that of an option, with ``-`` or ``_``, or that of a setting, where the command has
    ``--set``. What the command line says comes before it.
    """
    return click.option(
        "--config",
        type=click.Path(dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read_options,
        metavar="FILE",
        help="Options and settings in a TOML or YAML file; those of the command line come before it.",
    )


def _read_options(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    options = {
        flag[2:].replace("-", "_"): one
        for one in ctx.command.params
        if isinstance(one, click.Option) and one.name not in (param.name, "settings")
        for flag in one.opts
        if flag.startswith("--")
    }
    takes_settings = any(one.name == "settings" for one in ctx.command.params)
    values: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in read_config(path, f"--config {path}").items():
        option = options.get(name.replace("-", "_"))
        if value is None:  # of YAML: a name without a value
            continue
        if option is not None:
            values[str(option.name)] = _as_on_the_command_line(path, name, value, multiple=option.multiple)
        elif takes_settings:
            # as `viewgen pretrain encoder --dry-run` prints them, [encoder.network]
            settings[name.removeprefix(f"{ctx.info_name}.")] = value
        else:
            known = sorted(flag.replace("_", "-") for flag in options)
            raise UsageError(
                f"--config {path}: {ctx.info_name} has no option {name!r}{nearest_name(name, known)} "
                f"(known: {', '.join(known)})"
            )
    ctx.default_map = {**(ctx.default_map or {}), **values}
    ctx.meta[FILE_SETTINGS] = settings


def _as_on_the_command_line(path: str, name: str, value: Any, *, multiple: bool) -> Any:
    """Return a value of the file as text, so that an option reads it as it reads its argument."""
    if isinstance(value, list):
        if not multiple:
            raise UsageError(f"--config {path}: {name} is {value!r}; expected one value")
        return [str(one) for one in value]
    return [str(value)] if multiple else str(value)


def parse_settings(ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse repeated NAME=VALUE arguments (a click callback); a value that is not JSON is a string.

    They come before the settings of a file that `options_file` has read.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return _not_given(ctx.meta.get(FILE_SETTINGS, {}), values) | values


def _not_given(kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's settings without those that are given by their whole or their last name."""
    return {name: value for name, value in kept.items() if not {name, name.rpartition(".")[2]} & given.keys()}
