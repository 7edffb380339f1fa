"""Where a data set's networks come from: a run folder, named files, or the cards of known weights.

``cards.toml`` lists the known weights; they ship in this package.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from viewgen.errors import CorruptDataError, MissingFileError, UsageError, nearest_name
from viewgen.models import NETWORKS, file_digest

__all__ = ["Card", "cards", "find_card", "find_models", "local_file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is known of one weights file.

    Attributes:
        name: for example ``"digits/generator"``.
        kind: of network.
        dataset: it was trained on.
        image_size: side of its images in pixels.
        sha256: of the file, in hexadecimal.
        licence: under which it may be used.
        path: inside this package.
        command: that trained it.
        details: everything else on the card (configuration, training, measured quality).
    """

    name: str
    kind: str
    dataset: str
    image_size: int
    sha256: str
    licence: str
    path: str
    command: str
    details: Mapping[str, Any]

    @property
    def measured(self) -> dict[str, Any]:
        """The measured quality, name → value."""
        return dict(self.details.get("measured", {}))


def cards() -> dict[str, Card]:
    """Return every known card by name."""
    text = resources.files("viewgen_pretrained").joinpath("cards.toml").read_text("utf-8")
    table: dict[str, dict[str, Any]] = tomllib.loads(text)
    known = {}
    for dataset, kinds in table.items():
        for kind, entry in kinds.items():
            name = f"{dataset}/{kind}"
            fields = {key: entry[key] for key in ("image_size", "sha256", "licence", "path", "command")}
            details = {key: value for key, value in entry.items() if key not in fields}
            known[name] = Card(name=name, kind=kind, dataset=dataset, details=details, **fields)
    return known


def find_card(name: str) -> Card:
    """Return the card called `name`.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    known = cards()
    if name not in known:
        raise UsageError(f"no model {name!r}{nearest_name(name, known)}; `viewgen models list` names them")
    return known[name]


def local_file(card: Card) -> Path:
    """Return the card's file.

    Raises:
        MissingFileError: the installation lacks it.
        CorruptDataError: the file's sha256 is not the card's.
    """
    path = Path(str(resources.files("viewgen_pretrained").joinpath(card.path)))
    if not path.is_file():
        raise MissingFileError(f"the weights of {card.name} are missing at {path}; install viewgen again")
    if file_digest(path) != f"sha256:{card.sha256}":
        raise CorruptDataError(
            f"{path} is not the file that the card {card.name} describes (its sha256); install viewgen again"
        )
    return path


def find_models(
    dataset: str,
    kinds: Iterable[str],
    *,
    models_dir: str | Path | None = None,
    overrides: Mapping[str, str | Path] | None = None,
) -> dict[str, Path]:
    """Return the weights file of every kind of network that a job needs.

    A file named in `overrides` comes first, then `models_dir` (the ``--out`` of `viewgen pretrain`), then the
    cards of the data set.

    Args:
        dataset: name of the data set.
        kinds: of networks, such as ``{"generator", "encoder"}``.
        models_dir: folder of a `viewgen pretrain` run.
        overrides: kind → file.

    Raises:
        MissingFileError: there are no weights for a kind; the message gives the commands that make them.
    """
    known = cards()
    found: dict[str, Path] = {}
    for kind in sorted(set(kinds) & NETWORKS.keys()):
        if overrides and overrides.get(kind):
            path = Path(overrides[kind])
            if not path.is_file():
                raise MissingFileError(f"no weights at {path}, given as the {kind}")
        elif models_dir is not None:
            path = Path(models_dir) / f"{kind}.safetensors"
            if not path.is_file():
                raise MissingFileError(
                    f"no {kind}.safetensors in {models_dir}; make it with\n  "
                    + _pretrain_command(kind, dataset, str(models_dir))
                )
        elif f"{dataset}/{kind}" in known:
            path = local_file(known[f"{dataset}/{kind}"])
        else:
            raise MissingFileError(_no_weights(dataset, kind))
        found[kind] = path
    return found


def _pretrain_command(kind: str, dataset: str, out: str) -> str:
    # the discriminator comes out of the generator's training
    trained = "generator" if kind == "discriminator" else kind
    return f"viewgen pretrain {trained} --dataset {dataset} --out {out}"


def _no_weights(dataset: str, kind: str) -> str:
    out = f"runs/{dataset.replace(':', '-').replace('/', '-').strip('-')}"
    lines = [_pretrain_command(name, dataset, out) for name in ("encoder", "generator", "inverter")]
    shipped = sorted({card.dataset for card in cards().values()})
    return (
        f"no {kind} is known for data set {dataset!r} (weights ship for: {', '.join(shipped) or 'none'}). "
        "Train the networks, in this order:\n  "
        + "\n  ".join(lines)
        + f"\nand add --models {out}, or name a "
        f"file of your own with --{kind} FILE"
    )
