"""Flags, ``--set`` and ``--config`` for the settings of registered components."""

import types
import typing
from collections.abc import Callable
from typing import Any

import click
from pydantic.fields import FieldInfo

from viewgen.cli.options import parse_settings
from viewgen.config_file import read_config
from viewgen.errors import UsageError
from viewgen.registry import Registry
from viewgen.settings import facts

__all__ = ["config_option", "given_settings", "set_option", "setting_flags", "setting_names"]


class _NumberOr(click.ParamType[float | str]):
    """A number, or one of some words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.name = "|".join(("F", *words))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value in self.words:
            return str(value)
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor one of {', '.join(self.words)}", param, ctx)


def setting_flags(registry: Registry[Any]) -> list[Callable[[Any], Any]]:
    """Return an option for every setting of the built-in entries that asks for a flag.

    Settings of one name share a flag; its help names the entries.
    """
    return [_flag(name, users) for name, users in _flagged(registry).items()]


def setting_names(registry: Registry[Any]) -> list[str]:
    """Return the settings that have a flag."""
    return list(_flagged(registry))


def _flagged(registry: Registry[Any]) -> dict[str, list[tuple[str, FieldInfo]]]:
    """Return setting → the entries that ask for its flag, with their fields."""
    found: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name in registry.built_in:
        for setting, field in registry.entry(name).settings.model_fields.items():
            if facts(field)["flag"]:
                found.setdefault(setting, []).append((name, field))
    return found


def _flag(name: str, users: list[tuple[str, FieldInfo]]) -> Callable[[Any], Any]:
    kinds = [_click_type(field.annotation) for _, field in users]
    kind = kinds[0]
    if all(isinstance(one, click.Choice) for one in kinds):
        # the settings refuse the choices of another entry
        kind = click.Choice(list(dict.fromkeys(choice for one in kinds for choice in one.choices)))
    described: dict[str, list[str]] = {}
    for user, field in users:
        described.setdefault((field.description or "").strip(), []).append(user)
    return click.option(
        "--" + name.replace("_", "-"),
        name,
        type=kind,
        metavar=None if isinstance(kind, click.Choice) else _metavar(kind),
        help=". ".join(f"{', '.join(names)}: {text}" for text, names in described.items()) + ".",
    )


def _click_type(annotation: Any) -> Any:
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        given = [part for part in parts if part is not types.NoneType]
        if len(given) == 1:
            return _click_type(given[0])
        words = [word for part in parts for word in typing.get_args(part) if isinstance(word, str)]
        return _NumberOr(tuple(words))
    if typing.get_origin(annotation) is typing.Literal:
        return click.Choice(list(parts))
    return annotation


def _metavar(kind: Any) -> str:
    return kind.name if isinstance(kind, click.ParamType) else {int: "N", float: "F"}.get(kind, "TEXT")


def set_option(what: str) -> Callable[[Any], Any]:
    """Return the option ``--set NAME=VALUE``, whose values arrive as ``settings``."""
    return click.option(
        "--set", "settings", multiple=True, callback=parse_settings, metavar="NAME=VALUE", help=what
    )


def config_option() -> Callable[[Any], Any]:
    """Return the option ``--config FILE``, whose values arrive as ``config``."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False),
        callback=lambda _ctx, _param, path: {} if path is None else read_config(path, f"--config {path}"),
        metavar="FILE",
        help="Settings in a TOML or YAML file; flags and --set come before it.",
    )


def given_settings(config: dict[str, Any], settings: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return all settings that were given: a configuration file's, then those of ``--set`` and flags.

    Raises:
        UsageError: ``--set`` and a flag give one setting two values.
    """
    named = {name: value for name, value in flags.items() if value is not None}
    for name in named.keys() & settings.keys():
        if named[name] != settings[name]:
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} {named[name]} and --set {name}={settings[name]} differ; give one of them"
            )
    return {**config, **settings, **named}
