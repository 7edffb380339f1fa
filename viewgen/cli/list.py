"""``viewgen list``."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from viewgen.cli import print_json
from viewgen.errors import UsageError, ViewgenError, nearest_name
from viewgen.registry import Entry, Registry
from viewgen.settings import Settings, facts

__all__ = ["list"]

# noun → module and name of its registry
REGISTRIES = {
    "views": ("viewgen.views", "VIEWS"),
    "objectives": ("viewgen_train.objectives", "OBJECTIVES"),
    "diagnostics": ("viewgen.diagnostics", "DIAGNOSTICS"),
    "datasets": ("viewgen.datasets", "DATASETS"),
    "generators": ("viewgen.networks.generator", "GENERATORS"),
    "estimators": ("viewgen.diagnostics", "ESTIMATORS"),
}
# settings of trainings: name → module and name of the settings, or of a table of components' settings
TRAININGS = {
    "train": ("viewgen_train.settings", "COMPONENTS"),
    "encoder": ("viewgen_train.settings", "COMPONENTS"),
    "prepare": ("viewgen_pretrained.prepare.gates", "GateSettings"),
    "generator": ("viewgen_pretrained.settings", "GeneratorTrainingConfig"),
    "inverter": ("viewgen_pretrained.settings", "InverterTrainingConfig"),
    "learned-views": ("viewgen_pretrained.settings", "ViewsTrainingConfig"),
}
WIDEST = 100


@click.command()
@click.argument("noun", type=click.Choice([*REGISTRIES, "recipes", "settings"]), metavar="NOUN")
@click.argument("name", required=False)
@click.option(
    "--of", type=click.Choice([*REGISTRIES]), metavar="NOUN", help="Of settings: where NAME is looked for."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; of settings, the JSON schema.")
def list(noun: str, name: str | None, of: str | None, as_json: bool) -> None:
    """List what can be chosen by name, or the settings of NAME: default, what is allowed, meaning.

    NOUN is views, objectives, diagnostics, datasets, generators, estimators, recipes (of published trainings,
    with the number that each reached) or settings. The package that
    adds a name stands in brackets behind it; the others are built in. NAME is one of those names, or train,
    generator, inverter or learned-views for the settings of these trainings.

    \b
    Examples:
      viewgen list views
      viewgen list recipes
      viewgen list settings wsearch
      viewgen list settings wsearch --json
      viewgen list settings train
    """
    if noun != "settings" and name is not None:
        raise click.UsageError(
            f"viewgen list {noun} takes no further word, got {name!r}; did you mean: "
            f"viewgen list settings {name}"
        )
    if of is not None and name is None:
        raise click.UsageError(f"--of {of} is an option of: viewgen list settings NAME")
    if noun == "recipes":
        _list_recipes(as_json)
    elif name is None and noun == "settings":
        _list_configurable(as_json)
    elif name is None:
        _list_names(noun, as_json)
    elif name in TRAININGS and of is None:
        _list_training(name, as_json)
    else:
        _list_settings(name, [*REGISTRIES] if of is None else [of], as_json)


def _registry(noun: str) -> Registry[Any] | None:
    """Return the registry of a noun, or None where the installation has none."""
    module, attribute = REGISTRIES[noun]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return None
    found: Registry[Any] | None = getattr(importlib.import_module(module), attribute, None)
    return found


def _list_names(noun: str, as_json: bool) -> None:
    registry = _registry(noun)
    if registry is None:
        raise UsageError(f"this installation has no {noun}")
    rows = [_described(registry, name) for name in registry.names]
    if as_json:
        print_json({noun: rows})
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        summary = row["summary"] if "error" not in row else f"broken: {row['error']}"
        origin = "" if row["origin"] == "built-in" else f" [{row['origin']}]"
        _echo(f"{row['name']:{width}}  ", summary + origin, width + 2)
    click.echo(f"\nviewgen list settings {rows[0]['name']}  shows what can be set.", err=True)


def _list_recipes(as_json: bool) -> None:
    """Show the recipes of methods, with their numbers."""
    if importlib.util.find_spec("viewgen_train") is None:
        raise UsageError("this installation has no recipes of trainings")
    from viewgen_train.recipes import method_recipes

    found = method_recipes()
    if as_json:
        print_json({"recipes": [recipe.to_json() for recipe in found]})
        return
    for recipe in found:
        click.echo(f"{recipe.dataset} {recipe.name}")
        for line in (recipe.summary, *recipe.lines()[1:]):
            _echo("    ", line, 4)
    click.echo("\nviewgen train --dataset D --recipe R  trains with one of them.", err=True)


def _described(registry: Registry[Any], name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "summary": "", "origin": registry.origin(name)}
    try:
        entry = registry.entry(name)
    except ViewgenError as error:
        return row | {"error": str(error)}
    return row | {"summary": entry.summary, "needs": sorted(entry.needs)}


def _list_configurable(as_json: bool) -> None:
    """Show what has settings: trainings, and the entries of every registry."""
    found: dict[str, tuple[str, ...]] = {"trainings": tuple(TRAININGS)}
    found |= {noun: registry.names for noun in REGISTRIES if (registry := _registry(noun)) is not None}
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for noun, names in found.items():
        _echo(f"{noun:{width}}  ", ", ".join(names), width + 2)
    click.echo("\nviewgen list settings NAME  shows what can be set.", err=True)


def _list_training(name: str, as_json: bool) -> None:
    """Show the settings of a training."""
    module, attribute = TRAININGS[name]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise UsageError(f"this installation has no {module.partition('.')[0]}")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, dict):
        if as_json:
            print_json(found.model_json_schema())
            return
        if name == "prepare":
            _echo(
                "",
                "viewgen prepare --set gates.NAME=VALUE; encoder.NAME, generator.NAME and inverter.NAME are "
                "settings of their trainings, cache.NAME of the cache",
                2,
            )
        else:
            _echo("", f"viewgen pretrain {name.removeprefix('learned-')} --set NAME=VALUE", 2)
        _show_rows([*_rows(found)])
        return
    if as_json:
        print_json(
            {
                "title": name,
                "type": "object",
                "properties": {part: settings.model_json_schema() for part, settings in found.items()},
            }
        )
        return
    command = "pretrain encoder" if name == "encoder" else name
    _echo("", f"viewgen {command} --set NAME=VALUE, with the name of its part before a dot or without", 2)
    _show_rows([row for part, settings in found.items() for row in _rows(settings, f"{part}.")])
    _echo(
        "\n",
        "views.NAME and objective.NAME are the settings of the chosen ones, for example viewgen list "
        "settings infonce",
        0,
    )


def _list_settings(name: str, nouns: Any, as_json: bool) -> None:
    """Show the settings of every entry called `name`."""
    registries = {noun: registry for noun in nouns if (registry := _registry(noun)) is not None}
    found = {noun: registry for noun, registry in registries.items() if name in registry}
    if not found:
        known = [*TRAININGS, *(other for registry in registries.values() for other in registry.names)]
        raise UsageError(
            f"nothing is called {name!r}{nearest_name(name, known)} "
            f"(viewgen list {'|'.join(registries)} shows the names; trainings: {', '.join(TRAININGS)})"
        )
    if as_json:
        if len(found) > 1:
            raise UsageError(
                f"{name!r} is one of {', '.join(found)}; add --of, for example --of {min(found)}"
            )
        (registry,) = found.values()
        print_json(registry.entry(name).settings.model_json_schema())
        return
    for place, registry in enumerate(found.values()):
        if place:
            click.echo()
        _show_settings(registry.noun, registry.entry(name))


def _show_settings(noun: str, entry: Entry) -> None:
    _echo("", f"{noun} {entry.name}: {entry.summary}", 2)
    if entry.needs:
        _echo("", f"needs: {', '.join(sorted(entry.needs))}", 2)
    _show_rows([*_rows(entry.settings)])


def _show_rows(rows: Sequence[tuple[str, FieldInfo]]) -> None:
    if not rows:
        click.echo("nothing can be set")
        return
    names = max(len(name) for name, _ in rows)
    defaults = min(24, max(len(_default(field)) for _, field in rows))
    for name, field in rows:
        flag = f"  --{name.replace('_', '-')}" if facts(field)["flag"] else ""
        label, allowed = f"{name:{names}}", _allowed(field) + flag
        fits = names + defaults + 4 + len(allowed) <= _width()
        click.echo(f"\n{label}  {_default(field):{defaults}}  {allowed if fits else ''}".rstrip())
        if not fits:
            _echo("    ", allowed, 4)
        _echo("    ", field.description or "", 4)


def _rows(settings: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting; settings of a nested component have dotted names."""
    for name, field in settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from _rows(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def _allowed(field: FieldInfo) -> str:
    """Return a description of the values that a setting accepts."""
    return " | ".join(_kinds(field.annotation, _bounds(field.metadata)))


def _bounds(metadata: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            found |= _bounds(item.metadata)
        for name in ("gt", "ge", "lt", "le"):
            if (value := getattr(item, name, None)) is not None:
                found[name] = value
    return found


def _kinds(annotation: Any, bounds: Mapping[str, Any]) -> Iterator[str]:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            yield from _kinds(part, bounds)
    elif origin is typing.Annotated:
        yield from _kinds(parts[0], _bounds(parts[1:]))
    elif origin is typing.Literal:
        yield from map(str, parts)
    elif origin is tuple:
        inner = "|".join(
            dict.fromkeys(word for part in parts if part is not ... for word in _kinds(part, {}))
        )
        yield f"[{inner}, …]" if ... in parts else f"[{', '.join([inner] * len(parts))}]"
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation in (int, float):
        yield _range("whole number" if annotation is int else "number", bounds)
    else:
        names = {str: "text", type(None): "null"}
        yield names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _range(noun: str, bounds: Mapping[str, Any]) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    if len(bounds) < 2:
        return noun + "".join(f" {signs[name]} {value:g}" for name, value in bounds.items())
    (_, low), (upper, high) = bounds.items()
    return f"{low:g} {'<' if 'gt' in bounds else '≤'} {noun} {signs[upper]} {high:g}"


def _width() -> int:
    return min(WIDEST, shutil.get_terminal_size().columns)


def _echo(first: str, text: str, indent: int) -> None:
    """Print text that wraps at the terminal's width, its further lines indented."""
    lines = textwrap.wrap(text, width=_width() - indent) or [""]
    click.echo(first + f"\n{' ' * indent}".join(lines))
