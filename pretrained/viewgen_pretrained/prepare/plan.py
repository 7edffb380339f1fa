"""The plan of `viewgen prepare`: every choice of every stage, from the data, a file and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.config_file import toml_value
from viewgen.datasets import ImageDataset
from viewgen.diagnostics.calibration import CalibrationConfig
from viewgen.errors import MissingFileError, UsageError, nearest_name
from viewgen.networks.weights import find_models, network_file
from viewgen.registry import Choice
from viewgen.views import VIEWS
from viewgen.views.entry import ViewEntry
from viewgen_pretrained.dry_run import own_settings
from viewgen_pretrained.prepare.data import DataReport
from viewgen_pretrained.prepare.gates import GateSettings
from viewgen_pretrained.pretrain import encoder_settings, training_config
from viewgen_pretrained.settings import GeneratorTrainingConfig, InverterTrainingConfig
from viewgen_pretrained.sizes import data_size, defaults
from viewgen_train.plan import resolved_precision
from viewgen_train.settings import TrainSettings

__all__ = ["Plan", "make_plan"]

SECTIONS = ("encoder", "generator", "inverter", "epsilon", "cache", "gates")
TOP = ("dataset", "split", "networks", "seed")
# what a plan says of an encoder's training; everything else is what `viewgen train` takes by default
NETWORK = ("backbone", "width", "projection_dim")
OPTIMISER = ("batch_size", "learning_rate", "weight_decay")
# ε₂ in units of ε₁: that of the published pairs, 0.3 with 0.5 and 0.2 with 0.35
SPREAD_OF_EPSILON = 5 / 3
AUTO = "auto"
HEADS = {
    "encoder": "f: `viewgen train` on expert views; more names: viewgen list settings train",
    "generator": "g: viewgen list settings generator",
    "inverter": "e: viewgen list settings inverter",
    "epsilon": "ε₁: sample of its calibration",
    "cache": "the views: a method of `viewgen list views`",
    "gates": "numbers at which a stage stops the command; stop = false only warns",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every choice of every stage.

    Attributes:
        dataset, split: name and split of the training images.
        networks: row of `viewgen_pretrained.sizes`.
        seed: root of all random numbers.
        encoder: resolved settings of f's training; None if its file is given.
        encoder_given: the same settings as overrides of `pretrain_encoder`.
        generator, inverter: settings of the trainings; None if their files are given.
        files: kind of network → file that is used instead of a training.
        epsilon: sample of the calibration.
        method: view method; ``"auto"`` distances stand for those of the calibration.
        inversion: settings of the inversion before it, or None.
        views: V.
        gates: limits of the gates.
        auto: settings of the method that are measured, by name.
    """

    dataset: str
    split: str
    networks: str
    seed: int
    encoder: TrainSettings | None
    encoder_given: Mapping[str, Any]
    generator: GeneratorTrainingConfig | None
    inverter: InverterTrainingConfig | None
    files: Mapping[str, Path]
    epsilon: CalibrationConfig
    method: Choice[ViewEntry]
    inversion: Choice[ViewEntry] | None
    views: int
    gates: GateSettings
    auto: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the contents of the configuration file, as dotted names."""
        found: dict[str, Any] = {name: getattr(self, name) for name in TOP}
        found |= {f"{kind}.file": str(path) for kind, path in self.files.items()}
        if self.encoder is not None:
            found |= {f"encoder.{name}": value for name, value in self.encoder_given.items()}
        for name, own in (("generator", self.generator), ("inverter", self.inverter)):
            if own is not None:
                settings = own_settings(own)
                settings.pop("seed")
                found |= {f"{name}.{setting}": value for setting, value in settings.items()}
        found |= {f"epsilon.{name}": value for name, value in self.epsilon.to_json().items()}
        found |= {"cache.method": self.method.name, "cache.views": self.views}
        for name, choice in (("settings", self.method), ("invert", self.inversion)):
            if choice is not None:
                own_values = own_settings(choice.settings)
                values = own_values | {one: AUTO for one in self.auto if choice is self.method}
                found |= {f"cache.{name}.{key}": value for key, value in values.items()}
        found |= {f"gates.{name}": value for name, value in self.gates.to_json().items()}
        return {name: value for name, value in found.items() if value is not None}

    def toml(self) -> str:
        """Return the configuration file."""
        lines = [
            "# Every choice of `viewgen prepare`. Edit it and run the same command again, or give it to",
            "# another run with --config. What is trained already is trained again only with --overwrite.",
        ]
        table = ""
        for name, value in self.document().items():
            place, _, field = name.rpartition(".")
            if place != table:
                about = HEADS.get(place)
                lines += ["", f"[{place}]" + (f" # {about}" if about else "")]
                table = place
            lines.append(f"{field} = {toml_value(value)}")
        return "\n".join(lines) + "\n"


def make_plan(images: ImageDataset, report: DataReport, given: Mapping[str, Any], device: str) -> Plan:
    """Return the plan for a data set.

    Args:
        images: training images.
        report: what was found in them.
        given: dotted name → value of choices in the place of the defaults.
        device: torch device.

    Raises:
        UsageError: a name is unknown, or a value is invalid or would be ignored.
        MissingFileError: a given file is missing.
    """
    parts = _parts(given)
    top, sections = parts[""], {name: parts[name] for name in SECTIONS}
    networks = top.get("networks") or data_size(len(images))
    if not isinstance(seed := top.get("seed", 0), int) or isinstance(seed, bool):
        raise UsageError(f"seed is {seed!r}; expected a whole number")

    def base(section: str) -> dict[str, Any]:
        return defaults(
            images.name, section, num_images=len(images), image_size=images.image_size, size=networks
        )

    files = _files(images.name, sections)
    encoder, encoder_given = None, dict[str, Any]()
    if "encoder" not in files:
        grey = {"expert.hue": 0.0, "expert.grayscale_probability": 0.0} if report.grey else {}
        encoder, encoder_given = _encoder(images, base("encoder"), grey, sections["encoder"], seed, device)
    trained: dict[str, Any] = {}
    for kind, cls in (("generator", GeneratorTrainingConfig), ("inverter", InverterTrainingConfig)):
        if kind in files:
            _refuse_beside_file(kind, sections[kind])
            continue
        own = base(kind) | sections[kind] | {"seed": seed}
        trained[kind] = training_config(cls, kind, images.name, own)
    method, inversion, views, auto = _cache(images.name, base, sections["cache"])
    return Plan(
        dataset=images.name,
        split=images.split,
        networks=networks,
        seed=seed,
        encoder=encoder,
        encoder_given=encoder_given,
        generator=trained.get("generator"),
        inverter=trained.get("inverter"),
        files=files,
        epsilon=CalibrationConfig(**sections["epsilon"]),
        method=method,
        inversion=inversion,
        views=views,
        gates=GateSettings(**sections["gates"]),
        auto=auto,
    )


def _parts(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the given choices by section; those without one under an empty name."""
    found: dict[str, dict[str, Any]] = {name: {} for name in ("", *SECTIONS)}
    for name, value in given.items():
        section, dot, field = name.partition(".")
        if not dot:
            section, field = "", name
        if section not in found or (not section and field not in TOP):
            known = [*TOP, *(f"{one}.…" for one in SECTIONS)]
            near = nearest_name(section or field, [*TOP, *SECTIONS])
            raise UsageError(f"prepare has no choice {name!r}{near} (known: {', '.join(known)})")
        found[section][field] = value
    return found


def _files(dataset: str, sections: Mapping[str, dict[str, Any]]) -> dict[str, Path]:
    """Return the networks that need no training: those given by ``.file``, and those at hand."""
    found: dict[str, Path] = {}
    for kind in ("encoder", "generator", "inverter"):
        text = sections[kind].pop("file", None)
        if text:
            found[kind] = network_file(text, kind)
        elif text is None and not sections[kind]:
            found |= _at_hand(dataset, kind)
    if "generator" in found:
        beside = found["generator"].parent / "discriminator.safetensors"
        found["discriminator"] = (
            beside if beside.is_file() else _at_hand(dataset, "discriminator")["discriminator"]
        )
    elif "inverter" in found:
        del found["inverter"]  # codes of another generator
    return found


def _at_hand(dataset: str, kind: str) -> dict[str, Path]:
    try:
        return find_models(dataset, {kind})
    except MissingFileError:
        return {}


def _refuse_beside_file(kind: str, settings: Mapping[str, Any]) -> None:
    if settings:
        raise UsageError(
            f"{kind}.{next(iter(settings))} is given beside {kind}.file, which needs no training; leave one "
            "out"
        )


def _encoder(
    images: ImageDataset,
    base: Mapping[str, Any],
    grey: Mapping[str, Any],
    given: Mapping[str, Any],
    seed: int,
    device: str,
) -> tuple[TrainSettings, dict[str, Any]]:
    """Return the settings of the encoder's training, and the same as overrides."""
    first = {**_tabled(base), **grey, **given, "seed": seed}
    found = resolved_precision(encoder_settings(images, first), device)
    optimiser, expert = found.optimiser, own_settings(found.expert)
    chosen = {name: getattr(found.network, name) for name in NETWORK}
    chosen |= {name: getattr(optimiser, name) for name in OPTIMISER}
    length = "epochs" if optimiser.num_steps is None else "num_steps"
    chosen[length] = getattr(optimiser, length)
    chosen |= {f"expert.{name}": value for name, value in expert.items()}
    own = {name: value for name, value in given.items() if name not in chosen}
    return found, chosen | own


def _tabled(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's settings of an encoder; recipes with a length of their own are found again."""
    return dict(base) if "num_steps" in base else {}


def _cache(
    dataset: str, base: Any, given: Mapping[str, Any]
) -> tuple[Choice[ViewEntry], Choice[ViewEntry] | None, int, tuple[str, ...]]:
    """Return the method, the inversion before it, V, and the settings that are measured."""
    own: dict[str, Any] = {}
    inversion: dict[str, Any] = {}
    rest = dict(given)
    name, views = rest.pop("method", "wsearch"), rest.pop("views", None)
    for key, value in rest.items():
        place, dot, field = key.partition(".")
        if not dot or place not in ("settings", "invert"):
            raise UsageError(
                f"cache.{key} is no choice; expected cache.method, cache.views, cache.settings.NAME or "
                "cache.invert.NAME"
            )
        (own if place == "settings" else inversion)[field] = value
    entry = VIEWS.entry(name)
    auto = tuple(
        field
        for field in ("epsilon_boundary", "epsilon_uniformity")
        if field in entry.settings.model_fields and own.get(field, AUTO) == AUTO
    )
    own = {field: value for field, value in own.items() if field not in auto}
    method = VIEWS.resolve(name, dataset, own, base(name))
    before = None
    if "inversions" in entry.needs:
        before = VIEWS.resolve("invert", dataset, inversion, base("invert"))
    elif inversion:
        raise UsageError(f"cache.invert.{min(inversion)} is given, and {name!r} starts from no inversions")
    if views is None:
        views = entry.num_views or 8
    if not isinstance(views, int) or views < 1:
        raise UsageError(f"cache.views is {views!r}; expected a whole number from 1 on")
    return method, before, views, auto
