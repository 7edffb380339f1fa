"""Defaults per data set, read from ``recipes.toml``."""

import functools
import re
import tomllib
from importlib import resources
from typing import Any

__all__ = ["has_recipe", "recipe"]


@functools.cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(resources.files("viewgen").joinpath("recipes.toml").read_text("utf-8"))


def recipe(dataset: str, section: str) -> dict[str, Any]:
    """Return the defaults of one section (``"wsearch"``, ``"expert"``, ``"generator"`` …) for a data set.

    A data set's own table overrides ``[default.<section>]`` value by value. A name such as ``"folder:PATH"``
    or ``"trifeature:32"`` uses the table of the part before the colon or question mark.
    """
    table = _table()
    return {**table["default"].get(section, {}), **table.get(_base(dataset), {}).get(section, {})}


def has_recipe(dataset: str) -> bool:
    """Return True if there are defaults of this data set's own."""
    return _base(dataset) in _table()


def _base(dataset: str) -> str:
    return re.split("[:?]", dataset, maxsplit=1)[0]
