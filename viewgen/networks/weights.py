"""Sources of a data set's networks: a run folder, named files, the user's imports, known weights.

Known weights have cards. `PROVIDERS` names their providers: the package of pretrained networks, if installed,
and those that installed plug-ins add in the entry-point group ``viewgen.weights``. A plug-in's entry builds a
`Provider` from the defaults of its settings.
"""

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import platformdirs

from viewgen.datasets.registry import chosen_dataset
from viewgen.documents import read_object
from viewgen.errors import (
    CorruptDataError,
    MissingFileError,
    StorageError,
    UsageError,
    ViewgenError,
    nearest_name,
)
from viewgen.networks.files import KINDS, file_digest
from viewgen.registry import Entry, Registry
from viewgen.terminal import program

__all__ = [
    "PROVIDERS",
    "Card",
    "Provider",
    "PublicFile",
    "cards",
    "find_card",
    "find_models",
    "local_file",
    "models_folder",
    "models_root",
    "network_file",
    "public_files",
    "trained_file",
    "user_cards",
]

PROVIDERS: Registry[Entry] = Registry(
    "provider of weights", "viewgen.weights", {"shipped": "viewgen_pretrained.shipped"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Model card of one weights file.

    Attributes:
        name: ``"<data set>/<kind>"``, for example ``"digits/generator"``.
        kind: kind of network.
        dataset: name of its training data set.
        image_size: side of its images in pixels.
        sha256: digest of the file, in hexadecimal.
        licence: licence of the weights.
        path: path inside its provider's package, or absolute path for networks of the user.
        command: command line that trained or imported it.
        details: everything else on the card (configuration, training, measured quality).
        file: file of the weights.
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
    file: Path

    @property
    def measured(self) -> dict[str, Any]:
        """The measured quality, name → value."""
        return dict(self.details.get("measured", {}))


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicFile:
    """A checkpoint published by a third party; viewgen never downloads it.

    Attributes:
        name: name of the entry.
        title: description of the checkpoint.
        dataset: name of its training data set.
        image_size: side of its images in pixels.
        url: address of its publication.
        licence: licence, and the address of its text.
        layout: layout of the file.
        config: shapes of its networks.
        sha256: digest of the file, in hexadecimal; empty if unknown.
        sha256_source: source of the digest.
        expected: published quality, name → value or source.
    """

    name: str
    title: str
    dataset: str
    image_size: int
    url: str
    licence: str
    layout: str
    config: Mapping[str, Any]
    sha256: str = ""
    sha256_source: str = ""
    expected: Mapping[str, Any]

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]


class Provider(Protocol):
    """A provider of known weights."""

    def cards(self) -> Mapping[str, Card]:
        """Return the cards of the available weights, by name ``"<data set>/<kind>"``."""
        ...

    def public_files(self) -> Mapping[str, PublicFile]:
        """Return checkpoints published by third parties, by name."""
        ...


def providers() -> list[Provider]:
    """Return all providers; a built-in one whose package is not installed is left out."""
    names = [
        name
        for name in PROVIDERS.names
        if name not in PROVIDERS.built_in or find_spec(PROVIDERS.module(name).partition(".")[0])
    ]
    entries = [PROVIDERS.entry(name) for name in names]
    return [entry.build(entry.settings()) for entry in entries]


def cards() -> dict[str, Card]:
    """Return the cards of the shipped weights and of those added by plug-ins, by name."""
    return {name: card for provider in providers() for name, card in provider.cards().items()}


def public_files() -> dict[str, PublicFile]:
    """Return the checkpoints published by third parties, by name."""
    return {name: file for provider in providers() for name, file in provider.public_files().items()}


def models_root(folder: str | Path | None = None) -> Path:
    """Return `folder`, else the environment's ``VIEWGEN_MODELS``, else the user's data folder."""
    chosen = folder or os.environ.get("VIEWGEN_MODELS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_data_path("viewgen") / "models"


def user_cards(root: str | Path | None = None) -> dict[str, Card]:
    """Return the cards of imported networks (and of those trained beside them), by name.

    Raises:
        CorruptDataError: a card cannot be read.
    """
    found = {}
    for path in _card_files(models_root(root)):
        try:
            entry = read_object(path)
            kind, dataset = str(entry["kind"]), str(entry["dataset"]["name"])
            file = str(entry["file"])
            if not file or Path(file).name != file or kind not in KINDS:
                raise ValueError(
                    f"file is {file!r} of kind {kind!r}; expected a file beside the card, of {KINDS}"
                )
            name = f"{path.parent.name}/{kind}"
            found[name] = Card(
                name=name,
                kind=kind,
                dataset=dataset,
                image_size=int(entry["network"]["image_size"]),
                sha256=str(entry["sha256"]),
                licence=str(entry.get("licence", "your own training")),
                path=str(path.parent / file),
                command=str(entry.get("command", "")),
                details={
                    key: value
                    for key, value in entry.items()
                    if key not in ("kind", "dataset", "sha256", "licence", "file", "command")
                },
                file=path.parent / file,
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise CorruptDataError(
                f"the model card {path} cannot be read ({type(error).__name__}: {error}); import the model "
                "again"
            ) from error
    return found


def _card_files(root: Path) -> list[Path]:
    """Return the cards in the folders of a root, sorted; a folder that cannot be listed is an error."""
    try:
        folders = [folder for folder in root.iterdir() if folder.name[0] != "." and folder.is_dir()]
        return sorted(
            file for folder in folders for file in folder.iterdir() if file.name.endswith(".card.json")
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot list {error.filename or root}: {error.strerror}") from error


def find_card(name: str) -> Card:
    """Return the card called `name`, of the shipped weights or of the user's.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    known = user_cards() | cards()
    if name not in known:
        raise UsageError(f"no model {name!r}{nearest_name(name, known)}; `viewgen models list` names them")
    return known[name]


def local_file(card: Card) -> Path:
    """Return the card's file.

    Raises:
        MissingFileError: the file is missing.
        CorruptDataError: the file's sha256 is not the card's.
    """
    path = card.file
    again = "import or train it again" if Path(card.path).is_absolute() else "install viewgen again"
    if not path.is_file():
        raise MissingFileError(f"the weights of {card.name} are missing at {path}; {again}")
    if file_digest(path) != f"sha256:{card.sha256}":
        raise CorruptDataError(
            f"{path} is not the file that the card {card.name} describes (its sha256); {again}"
        )
    return path


def models_folder(text: str | Path) -> Path:
    """Return the folder that ``--models`` names: a path, or the name of an import."""
    folder = Path(text)
    if not folder.is_dir() and len(folder.parts) == 1 and (models_root() / folder).is_dir():
        return models_root() / folder
    return folder


def network_file(text: str | Path, kind: str) -> Path:
    """Return the file named by an option such as ``--generator``: a path, an import's name, or a card's name.

    Raises:
        MissingFileError: there is none of these.
    """
    path = Path(text)
    if path.is_file():
        return path
    for name in (f"{text}/{kind}", str(text)):
        card = (user_cards() | cards()).get(name)
        if card is not None and card.kind == kind:
            return local_file(card)
    raise MissingFileError(
        f"no weights at {path}, given as the {kind}: neither a file nor a name of `viewgen models list`"
    )


def find_models(
    dataset: str,
    kinds: Iterable[str],
    *,
    models_dir: str | Path | None = None,
    overrides: Mapping[str, str | Path] | None = None,
) -> dict[str, Path]:
    """Return the weights file of every kind of network that a job needs.

    Order of precedence: a file named in `overrides`, `models_dir`, the shipped weights for the data set, an
    import of the user under the data set's name.

    Args:
        dataset: name of the data set.
        kinds: kinds of networks, such as ``{"generator", "encoder"}``.
        models_dir: folder of a `viewgen pretrain` run, or the name of an import.
        overrides: kind → file, or name of an import or card.

    Raises:
        MissingFileError: there are no weights for a kind; the message gives the commands that produce them.
    """
    known = cards()
    own = models_root() / dataset
    if models_dir is None and own.is_dir() and dataset not in {card.dataset for card in known.values()}:
        models_dir = own
    found: dict[str, Path] = {}
    unknown = []
    for kind in sorted(set(kinds) & set(KINDS)):
        if overrides and overrides.get(kind):
            path = network_file(overrides[kind], kind)
        elif models_dir is not None:
            folder = models_folder(models_dir)
            path = folder / f"{kind}.safetensors"
            if not path.is_file():
                raise MissingFileError(
                    f"no {kind}.safetensors in {folder}; make it with\n  "
                    + _pretrain_command(kind, dataset, str(folder))
                )
        elif f"{dataset}/{kind}" in known:
            path = local_file(known[f"{dataset}/{kind}"])
        else:
            unknown.append(kind)
            continue
        found[kind] = path
    if unknown:
        raise MissingFileError(_no_weights(dataset, unknown))
    return found


def trained_file(path: str | Path) -> Path:
    """Return the weights file of an encoder: the file itself, or that of a training's folder."""
    path = Path(path).expanduser()
    return path / "last.safetensors" if path.is_dir() else path


def _pretrain_command(kind: str, dataset: str, out: str) -> str:
    # the discriminator comes out of the generator's training, and a flow makes views
    trained = {"discriminator": "generator", "flow": "views"}.get(kind, kind)
    return f"{program()} pretrain {trained} --dataset {shlex.quote(dataset)} --out {shlex.quote(out)}"


def _no_weights(dataset: str, kinds: list[str]) -> str:
    out = f"runs/{dataset.replace(':', '-').replace('/', '-').strip('-')}"
    shipped = sorted({card.dataset for card in cards().values()})
    *first, last = kinds
    missing = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    parts = [
        f"no {missing} known for data set {dataset!r} (weights ship for: {', '.join(shipped) or 'none'})."
    ]
    public = [entry for entry in public_files().values() if entry.dataset == dataset]
    for entry in public:
        digest = f"{entry.sha256} ({entry.sha256_source})" if entry.sha256 else "no digest is published"
        parts.append(
            f"{entry.title} is public; viewgen does not download it. Get it, if its licence suits you:\n"
            f"  file     {entry.file}\n"
            f"  from     {entry.url}\n"
            f"  licence  {entry.licence}\n"
            f"  sha256   {digest}"
        )
    if public:
        parts.append(
            "Then import it; the other networks are trained by one plan, and the views made:\n"
            f"  {program()} models import {public[0].file} --as {dataset}\n"
            f"  {program()} prepare --dataset {shlex.quote(dataset)}\n"
            "Or train all of them by one plan; --dry-run says what that costs on this machine:"
        )
    else:
        parts.append(
            "No public file of this data set is known; `viewgen models list` shows those of others, and "
            "`viewgen models import FILE` takes a StyleGAN2 checkpoint of yours.\n"
            "Train all networks by one plan; --dry-run says what that costs on this machine:"
        )
    parts.append(f"  {program()} prepare --dataset {shlex.quote(dataset)} --dry-run")
    own = f"name a file of your own with --{last} FILE"
    if _has_pictures_of_any_size(dataset):
        parts.append(f"It scales the pictures to a side that the networks take. Or {own}")
    else:
        lines = [_pretrain_command(name, dataset, out) for name in ("encoder", "generator", "inverter")]
        parts.append(
            "Or one after the other:\n  "
            + "\n  ".join(lines)
            + f"\nand add --models {shlex.quote(out)}, or {own}"
        )
    return "\n".join(parts)


def _has_pictures_of_any_size(dataset: str) -> bool:
    """Return True if ``?size=`` is a setting of the data set and is not given."""
    try:
        settings = chosen_dataset(dataset).settings
    except ViewgenError:  # of networks whose data set is not known here
        return False
    return "size" in type(settings).model_fields and settings.size is None
