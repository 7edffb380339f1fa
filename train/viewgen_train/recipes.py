"""Recipes of methods, from ``recipes.toml``: settings of a published training, with its number and source.

A data set's own defaults are in `viewgen.recipes`; a method's recipe (``--recipe``) overrides them.
"""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from viewgen.errors import UsageError, nearest_name

__all__ = ["MethodRecipe", "method_recipe", "method_recipes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRecipe:
    """Recipe of a method for a data set.

    Attributes:
        name: name for ``--recipe``.
        dataset: name of the data set.
        summary: method, network and length in words.
        expected: expected accuracy, with its origin, or ``"not run"``.
        source: where settings and number are published, or where they come from.
        differs: what is not as in the source; empty if nothing is known.
        settings: tables of settings, as for `viewgen_train.resolve.train_settings`.
    """

    name: str
    dataset: str
    summary: str
    expected: str
    source: str
    differs: str
    settings: Mapping[str, Any]

    def lines(self) -> list[str]:
        """Return the recipe's description as lines of text."""
        lines = [f"{self.name}: {self.summary}", f"expected: {self.expected}", f"source: {self.source}"]
        return [*lines, f"differs: {self.differs}"] if self.differs else lines

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        names = ("name", "dataset", "summary", "expected", "source", "differs", "settings")
        return {name: getattr(self, name) for name in names}


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("viewgen_train").joinpath("recipes.toml").read_text("utf-8"))


def method_recipes() -> list[MethodRecipe]:
    """Return all recipes, one for each data set that they are for."""
    return [_recipe(name, dataset) for name, entry in _table().items() for dataset in entry["expected"]]


def method_recipe(name: str, dataset: str) -> MethodRecipe:
    """Return the recipe called `name` for a data set.

    Raises:
        UsageError: there is no such recipe, or it is for other data sets.
    """
    table = _table()
    if name not in table:
        near = nearest_name(str(name), table)
        raise UsageError(f"no recipe {name!r}{near} (`viewgen list recipes` shows them)")
    base = re.split("[:?]", dataset, maxsplit=1)[0]
    if base not in table[name]["expected"]:
        known = ", ".join(table[name]["expected"])
        wrong = f"not for {dataset}" if dataset else "and no data set is named; give --dataset"
        raise UsageError(f"recipe {name!r} is for {known}, {wrong}")
    return _recipe(name, base)


def _recipe(name: str, dataset: str) -> MethodRecipe:
    entry = _table()[name]
    return MethodRecipe(
        name=name,
        dataset=dataset,
        summary=entry["summary"],
        expected=entry["expected"][dataset],
        source=entry["source"],
        differs=entry.get("differs", ""),
        settings=entry["settings"],
    )
