"""`viewgen models import` as a function: conversion of a public checkpoint to safetensors and model cards.

No code in a file is executed: `viewgen_pretrained.imports.restricted_pickle` interprets its pickles.
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.errors import UsageError
from viewgen.networks import weights
from viewgen.networks.files import file_digest, read_header, save_model
from viewgen_pretrained.imports.imported import Imported
from viewgen_pretrained.imports.official import read_official
from viewgen_pretrained.imports.public import read_public
from viewgen_pretrained.imports.restricted_pickle import read_pickle

__all__ = ["ImportResult", "import_model", "read_checkpoint"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """Result of an import.

    Attributes:
        name: name under which the networks are found.
        folder: folder with one ``.safetensors`` and one ``.card.json`` per network.
        cards: kind → model card.
        public: registry entry of this file, or None.
    """

    name: str
    folder: Path
    cards: dict[str, dict[str, Any]]
    public: weights.PublicFile | None


def read_checkpoint(path: str | Path) -> Imported:
    """Read a public StyleGAN2 file; its content, not its extension, determines the format.

    Raises:
        MissingFileError: the file does not exist.
        ModelError: the file is damaged, holds objects other than tensors and plain containers, or holds an
            unsupported network.
    """
    document = read_pickle(path)
    if isinstance(document, dict) and not document.keys() & {"G_ema", "G", "D"}:
        return read_public(document, path)
    return read_official(document, path)


def import_model(
    path: str | Path,
    name: str,
    *,
    models_root: str | Path | None = None,
    dataset: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    command: list[str] | None = None,
) -> ImportResult:
    """Convert a public StyleGAN2 file and store its networks under `name`.

    Args:
        path: ``.pt`` file of the public PyTorch StyleGAN2, or ``.pkl`` file of the official
            stylegan2-ada-pytorch.
        name: name of the folder; under a data set's name, `viewgen cache` finds the networks for that data
            set.
        models_root: folder of imported networks; by default ``VIEWGEN_MODELS``, else the user's data folder.
        dataset: training data of the networks, for the card; by default the registry's value.
        licence: licence for the card; by default the registry's value for this file.
        overwrite: True to replace existing networks of this name.
        command: command line, for the card.

    Raises:
        UsageError: the name is invalid or taken.
        MissingFileError, ModelError: see `read_checkpoint`.
    """
    path = Path(path)
    shipped = {card.dataset for card in weights.cards().values()}
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--as {name!r}: expected letters, digits and . _ + -, starting with a letter or digit"
        )
    if name in shipped:
        raise UsageError(f"--as {name!r} is the name of weights that ship with viewgen; choose another")
    folder = weights.models_root(models_root) / name
    if folder.exists() and not overwrite:
        raise UsageError(f"there are networks named {name!r} in {folder}; give --overwrite to replace them")
    imported = read_checkpoint(path)
    digest = file_digest(path).removeprefix("sha256:")
    public = next((entry for entry in weights.public_files().values() if entry.sha256 == digest), None)
    networks = {"generator": imported.generator, "discriminator": imported.discriminator}
    source: dict[str, Any] = {"file": path.name, "sha256": digest, "layout": imported.layout}
    if public is not None:
        source["url"] = public.url
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    cards = {}
    for kind, network in networks.items():
        if network is None:
            continue
        file = part / f"{kind}.safetensors"
        save_model(network, file, notes={"imported": source})
        cards[kind] = {
            "kind": kind,
            "file": file.name,
            "sha256": file_digest(file).removeprefix("sha256:"),
            "dataset": {"name": dataset or (public.dataset if public else "unknown")},
            "licence": licence or (public.licence if public else "unknown: see where the file comes from"),
            "network": read_header(file)["config"],
            "source": source,
            "imported": imported.facts if kind == "generator" else {},
            "command": shlex.join(command or []),
            "storage_dtype": "float32",
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "measured": {},
        }
        text = json.dumps(cards[kind], indent=1, ensure_ascii=False) + "\n"
        (part / f"{kind}.card.json").write_text(text, encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return ImportResult(name=name, folder=folder, cards=cards, public=public)
