"""Copy of the networks of a `viewgen pretrain` run to the package: weights, and cards in ``cards.toml``.

    python -m viewgen_pretrained.ship runs/digits --licence "Apache-2.0; trained on digits (CC BY 4.0)"

A registry entry is derived from the run's model cards; only the licence is entered by hand.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.networks.files import file_digest

__all__ = ["ship"]

KINDS = ("generator", "discriminator", "inverter", "encoder")
TRAININGS = ("encoder", "generator", "inverter")  # the discriminator is trained with the generator
PACKAGE = Path(__file__).parent


def ship(run: Path, licence: str, package: Path = PACKAGE) -> list[Path]:
    """Copy a run's four networks and training metrics to the package, and add them to ``cards.toml``.

    Args:
        run: folder of the run, with ``<kind>.safetensors``, ``<kind>.card.json`` and
            ``<kind>-training/metrics.csv``.
        licence: licence of weights and data.
        package: folder that holds ``cards.toml`` and ``weights/``.

    Returns:
        written files.

    Raises:
        MissingFileError: a network, its card or its metrics are missing from the run.
        CorruptDataError: a file does not match its card.
    """
    cards = {kind: _card(run, kind) for kind in KINDS}
    metrics = {kind: _metrics(run, kind) for kind in TRAININGS}
    name = cards["encoder"]["dataset"]["name"]
    folder = package / "weights" / name
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for card in cards.values():
        written.append(folder / card["file"])
        shutil.copyfile(run / card["file"], written[-1])
    for kind, table in metrics.items():
        written.append(folder / f"{kind}-training.csv")
        shutil.copyfile(table, written[-1])
    registry = package / "cards.toml"
    other = [entry for entry in _entries(registry.read_text("utf-8")) if not entry.startswith(f"[{name}.")]
    entries = [_entry(name, kind, card, licence) for kind, card in cards.items()]
    registry.write_text("\n\n".join([other[0], *entries, *other[1:]]) + "\n", "utf-8")
    return [*written, registry]


def _card(run: Path, kind: str) -> dict[str, Any]:
    path = run / f"{kind}.card.json"
    if not path.is_file():
        raise MissingFileError(f"no {path.name} in {run}; `viewgen pretrain` writes it at a training's end")
    card: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if file_digest(run / card["file"]) != f"sha256:{card['sha256']}":
        raise CorruptDataError(f"{run / card['file']} is not the file that {path.name} describes")
    return card


def _metrics(run: Path, kind: str) -> Path:
    path = run / f"{kind}-training" / "metrics.csv"
    if not path.is_file():
        raise MissingFileError(f"no {path.parent.name}/{path.name} in {run}; a training writes it as it goes")
    return path


def _entries(text: str) -> list[str]:
    """Split the table at the empty line before each network's entry; the first part is the heading."""
    return [part.strip("\n") for part in re.split(r"\n\n+(?=\[|#)", text)]


def _entry(name: str, kind: str, card: Mapping[str, Any], licence: str) -> str:
    top = {
        "path": f"weights/{name}/{card['file']}",
        "curves": f"weights/{name}/{'generator' if kind == 'discriminator' else kind}-training.csv",
        "sha256": card["sha256"],
        "licence": licence,
        "image_size": card["network"]["image_size"],
        **{key: card[key] for key in ("command", "parameters", "storage_dtype", "steps", "seconds", "seed")},
    }
    tables = {
        "": top,
        ".trained_on": card["dataset"],
        ".network": card["network"],
        ".training": card["training"],
        ".depends": card["depends"],
        ".measured": card["measured"],
    }
    return "\n".join(_table(f"{name}.{kind}{key}", values) for key, values in tables.items() if values)


def _table(name: str, values: Mapping[str, Any]) -> str:
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"[{name}]"]
    lines += [f"{key} = {_value(value)}" for key, value in values.items() if _is_plain(value)]
    return "\n".join([*lines, *(_table(f"{name}.{key}", value) for key, value in inner.items() if value)])


def _is_plain(value: Any) -> bool:
    # TOML has no null: what is None is left out
    return value is not None and not isinstance(value, Mapping)


def _value(value: Any) -> str:
    # strings, numbers, booleans and lists of them are written in TOML as in JSON
    return json.dumps(value, ensure_ascii=False)


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--licence", required=True, help="Of the weights and the data they were trained on.")
def main(run: Path, licence: str) -> None:
    """Put the networks of RUN into the package."""
    for path in ship(run, licence):
        click.echo(path)


if __name__ == "__main__":
    main()
