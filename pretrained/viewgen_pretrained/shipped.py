"""Weights in this package, and public checkpoints that can be imported, from ``cards.toml``.

The table ``[public]`` lists third-party checkpoints that `viewgen models import` reads.
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from viewgen.networks.weights import Card, PublicFile
from viewgen.registry import Entry
from viewgen.settings import Settings

__all__ = ["ENTRY", "Shipped"]

PUBLIC = "public"


class Shipped:
    """Provider of the weights in this package."""

    def __init__(self, _: Settings) -> None:
        package = resources.files("viewgen_pretrained")
        self._package = Path(str(package))
        self._table: dict[str, dict[str, dict[str, Any]]] = tomllib.loads(
            package.joinpath("cards.toml").read_text("utf-8")
        )

    def cards(self) -> dict[str, Card]:
        """Return the cards of the weights in this package, by name."""
        known = {}
        for dataset, kinds in self._table.items():
            for kind, entry in kinds.items() if dataset != PUBLIC else ():
                name = f"{dataset}/{kind}"
                fields = {key: entry[key] for key in ("image_size", "sha256", "licence", "path", "command")}
                details = {key: value for key, value in entry.items() if key not in fields}
                file = self._package / entry["path"]
                known[name] = Card(
                    name=name, kind=kind, dataset=dataset, details=details, file=file, **fields
                )
        return known

    def public_files(self) -> dict[str, PublicFile]:
        """Return the third-party checkpoints, by name."""
        return {name: PublicFile(name=name, **entry) for name, entry in self._table.get(PUBLIC, {}).items()}


ENTRY = Entry(name="shipped", summary="weights that ship with viewgen", settings=Settings, build=Shipped)
