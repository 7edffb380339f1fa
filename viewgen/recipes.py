"""Defaults per data set, read from ``recipes.toml``."""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from viewgen.errors import UsageError, nearest_name

__all__ = ["checked_config", "recipe"]


@functools.cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(resources.files("viewgen").joinpath("recipes.toml").read_text("utf-8"))


def recipe(dataset: str, section: str) -> dict[str, Any]:
    """Return the defaults of one section (``"wsearch"``, ``"expert"``, ``"generator"`` …) for a data set.

    A data set's own table overrides ``[default.<section>]`` value by value. A name such as ``"folder:PATH"``
    or ``"trifeature:32"`` uses the table of the part before the colon or question mark.
    """
    table = _table()
    base = re.split("[:?]", dataset, maxsplit=1)[0]
    return {**table["default"].get(section, {}), **table.get(base, {}).get(section, {})}


def checked_config(config_class: type, title: str, values: Mapping[str, Any]) -> Any:
    """Build a configuration from named values.

    Args:
        config_class: a dataclass.
        title: name of the configuration in messages.
        values: field → value; missing fields take their defaults.

    Raises:
        UsageError: a name is not a field, or a value is invalid for its field.
    """
    if not dataclasses.is_dataclass(config_class):
        return config_class(**values)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for name, value in values.items():
        if name not in fields:
            raise UsageError(f"{title} has no setting {name!r}{nearest_name(name, fields)}")
        field = fields[name]
        if field.default is dataclasses.MISSING:
            continue
        kind = type(field.default)
        accepted = {float: (int, float), tuple: (list, tuple)}.get(kind, (kind,))
        if not isinstance(value, accepted) or isinstance(value, bool) != (kind is bool):
            raise UsageError(f"{title}: {name} is {value!r}; expected a value such as {field.default!r}")
    try:
        return config_class(**values)
    except TypeError as error:
        raise UsageError(f"{title}: {error}") from error
