"""Choices of `viewgen prepare` by section: those of the configuration file under those of the command line.

A file that the command wrote holds every choice. A choice on the command line therefore replaces not only the
one of its name, but also those of the file that say something else about the same thing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from viewgen.config_file import dotted
from viewgen.errors import MissingFileError, UsageError, nearest_name
from viewgen.networks.weights import find_models, network_file
from viewgen.views import VIEWS
from viewgen_train.resolve import NAMES

__all__ = ["NETWORK", "OPTIMISER", "TOP", "by_section", "choice_name", "network_files", "not_replaced"]

SECTIONS = ("encoder", "generator", "discriminator", "inverter", "epsilon", "cache", "gates")
TOP = ("dataset", "split", "networks", "seed")
LENGTHS = {"epochs": "num_steps", "num_steps": "epochs"}
# what a plan says of an encoder's training; everything else is what `viewgen train` takes by default
NETWORK = ("backbone", "width", "projection_dim")
OPTIMISER = ("batch_size", "learning_rate", "weight_decay")

Sections = dict[str, dict[str, Any]]


def choice_name(name: str) -> str:
    """Return the one name of a choice: ``encoder.width`` for ``encoder.network.width``."""
    section, _, field = name.partition(".")
    if section != "encoder":
        return name
    component, _, last = field.partition(".")
    short = {"network": NETWORK, "optimiser": (*OPTIMISER, *LENGTHS)}.get(component, ())
    return f"{section}.{last if last in short else NAMES.get(field, field)}"


def by_section(given: Mapping[str, Any]) -> Sections:
    """Return choices by section; those without one under an empty name.

    Raises:
        UsageError: there is no such section, or the encoder's training has two lengths.
    """
    found: Sections = {name: {} for name in ("", *SECTIONS)}
    for name, value in dotted(given):
        section, dot, field = choice_name(name).partition(".")
        if not dot:
            section, field = "", name
        if section not in found or (not section and field not in TOP):
            known = [*TOP, *(f"{one}.…" for one in SECTIONS)]
            near = nearest_name(section or field, [*TOP, *SECTIONS])
            raise UsageError(f"prepare has no choice {name!r}{near} (known: {', '.join(known)})")
        if section == "discriminator" and field != "file":
            raise UsageError(f"prepare has no choice {name!r}; the discriminator has only discriminator.file")
        found[section][field] = value
    if found["encoder"].keys() >= LENGTHS.keys():
        raise UsageError("encoder.epochs and encoder.num_steps are given; leave one of them out")
    return found


def not_replaced(kept: Sections, given: Sections) -> Sections:
    """Return the file's choices without those that the given ones replace.

    A file of weights replaces the settings of its training and the other way round, another generator its
    discriminator and its inverter, a length the other one, another method the settings of the old one.

    Args:
        kept: choices of the file.
        given: choices of the command line.
    """
    left = {section: dict(choices) for section, choices in kept.items()}
    for kind in ("encoder", "generator", "inverter"):
        if given[kind].get("file"):
            left[kind] = {}
        elif given[kind]:
            left[kind].pop("file", None)
    if given["generator"]:
        left["discriminator"] = {}
        left["inverter"].pop("file", None)
    for length, other in LENGTHS.items():
        if length in given["encoder"]:
            left["encoder"].pop(other, None)
    if "augment" in given["encoder"]:
        left["encoder"] = _without(left["encoder"], "expert.")
    method = given["cache"].get("method")
    if method is not None and method != left["cache"].get("method"):
        inverts = "inversions" in VIEWS.entry(method).needs
        rest = _without(left["cache"], "settings." if inverts else "")
        left["cache"] = {name: value for name, value in rest.items() if name != "views"}
    return left


def _without(choices: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name: value for name, value in choices.items() if not name.startswith(prefix)}


def network_files(dataset: str, sections: Sections) -> dict[str, Path]:
    """Return the networks that need no training: those given by ``.file``, and those at hand.

    Args:
        dataset: name of the data set.
        sections: choices; an empty file asks for a training where a network is at hand.

    Raises:
        MissingFileError: a given file is missing, or a generator has no discriminator.
        UsageError: a discriminator or an inverter is given, and the generator is trained.
    """
    found: dict[str, Path] = {}
    for kind in ("encoder", "generator"):
        found |= _file(dataset, kind, sections[kind], at_hand=True)
    generator = found.get("generator")
    if generator is None:
        for kind in ("discriminator", "inverter"):
            if sections[kind].get("file"):
                raise UsageError(
                    f"{kind}.file is given, and the generator is trained, which makes it the {kind} of "
                    f"another one; give its generator.file too, or leave {kind}.file out"
                )
        return found
    own = _at_hand(dataset, "generator").get("generator")
    at_hand = own is not None and own.samefile(generator)
    beside = generator.parent / "discriminator.safetensors"
    if "file" not in sections["discriminator"] and beside.is_file():
        found["discriminator"] = beside
    else:
        found |= _file(dataset, "discriminator", sections["discriminator"], at_hand=at_hand)
    if "discriminator" not in found:
        raise MissingFileError(
            f"there is no {beside}, and the inverter of the generator at {generator} is trained with its "
            "discriminator; give that with --set discriminator.file=FILE, or train a generator with "
            "--set generator.file="
        )
    return found | _file(dataset, "inverter", sections["inverter"], at_hand=at_hand)


def _file(dataset: str, kind: str, choices: Mapping[str, Any], *, at_hand: bool) -> dict[str, Path]:
    """Return the file of a kind, if it is given or, with `at_hand`, known and not to be trained anew."""
    text = choices.get("file")
    if text:
        return {kind: network_file(text, kind).absolute()}
    return _at_hand(dataset, kind) if at_hand and not choices else {}


def _at_hand(dataset: str, kind: str) -> dict[str, Path]:
    try:
        return find_models(dataset, {kind})
    except MissingFileError:
        return {}
