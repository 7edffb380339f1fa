"""The plan of `viewgen prepare`: every choice of every stage, from the data, a file and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.config_file import dotted, toml_value
from viewgen.datasets import ImageDataset
from viewgen.diagnostics.calibration import CalibrationConfig
from viewgen.errors import UsageError
from viewgen.recipes import recipe
from viewgen.registry import Choice
from viewgen.sizes import data_size, defaults
from viewgen.views import VIEWS
from viewgen.views.compositions import expert_values
from viewgen.views.entry import ViewEntry
from viewgen.views.expert_settings import ExpertConfig
from viewgen_pipelines.shards.plan import views_per_image
from viewgen_pretrained.cost import shape_of
from viewgen_pretrained.dry_run import own_settings
from viewgen_pretrained.prepare.choices import (
    NETWORK,
    OPTIMISER,
    TOP,
    by_section,
    choice_name,
    network_files,
    not_replaced,
)
from viewgen_pretrained.prepare.data import DataReport
from viewgen_pretrained.prepare.gates import GateSettings
from viewgen_pretrained.pretrain import encoder_settings
from viewgen_pretrained.settings import GeneratorTrainingConfig, InverterTrainingConfig
from viewgen_train.plan import resolved_precision
from viewgen_train.settings import TrainSettings

__all__ = ["Plan", "make_plan"]

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
        networks: row of `viewgen.sizes`.
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
        tables: dict[str, list[str]] = {"": []}
        for name, value in self.document().items():
            place, _, field = name.rpartition(".")
            tables.setdefault(place, []).append(f"{field} = {toml_value(value)}")
        lines += tables.pop("")
        for place, values in tables.items():
            about = HEADS.get(place)
            lines += ["", f"[{place}]" + (f" # {about}" if about else ""), *values]
        return "\n".join(lines) + "\n"

    def epsilon_boundary(self, calibrated: float) -> float:
        """Return ε₁ of the views: the given one, or the calibrated one."""
        own = getattr(self.method.settings, "epsilon_boundary", None)
        return calibrated if own is None or "epsilon_boundary" in self.auto else float(own)


def make_plan(
    images: ImageDataset,
    report: DataReport,
    given: Mapping[str, Any],
    device: str,
    kept: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan for a data set.

    Args:
        images: training images.
        report: what was found in them.
        given: dotted name → value of choices in the place of the defaults.
        device: torch device.
        kept: choices of the configuration file. Those that would be ignored beside the given ones are left
            out; another row of networks leaves out the values of the file's own row.

    Raises:
        UsageError: a name is unknown, or a value is invalid or would be ignored.
        MissingFileError: a given file is missing.
        ModelError: an inverter would be trained for a generator that needs none.
    """
    kept = _of_other_networks(images, report, kept or {}, given, device)
    chosen = by_section(given)
    left = not_replaced(by_section(kept), chosen)
    sections = {name: left[name] | chosen[name] for name in left}
    top = sections[""]
    networks = top.get("networks") or data_size(len(images))
    if not isinstance(seed := top.get("seed", 0), int) or isinstance(seed, bool):
        raise UsageError(f"seed is {seed!r}; expected a whole number")
    for kind in ("encoder", "generator", "inverter"):
        if "seed" in sections[kind]:
            raise UsageError(f"{kind}.seed would be ignored: seed is that of all networks; give it alone")

    def base(section: str) -> dict[str, Any]:
        return defaults(
            images.name, section, num_images=len(images), image_size=images.image_size, size=networks
        )

    files = network_files(images.name, sections)
    for kind in ("encoder", "generator", "inverter"):
        for choices in (left[kind], chosen[kind], sections[kind]):
            choices.pop("file", None)
        if kind in files and sections[kind]:
            raise UsageError(
                f"{kind}.{next(iter(sections[kind]))} is given beside {kind}.file, which needs no training; "
                "leave one out"
            )
    encoder, encoder_given = None, dict[str, Any]()
    if "encoder" not in files:
        grey = {"expert.hue": 0.0, "expert.grayscale_probability": 0.0} if report.grey else {}
        parts = _strict(left["encoder"], chosen["encoder"])
        encoder, encoder_given = _encoder(images, base("encoder"), grey, parts, seed, device)
    trained: dict[str, Any] = {}
    for kind, cls in (("generator", GeneratorTrainingConfig), ("inverter", InverterTrainingConfig)):
        if kind not in files:
            weak, strict = _strict(left[kind], chosen[kind])
            trained[kind] = cls(**{**base(kind), **weak, **strict, "seed": seed})
            trained[kind].refuse_ignored(strict)
    if "generator" in files and "inverter" in trained:
        shape_of(files["generator"])
    method, inversion, views, auto = _cache(images.name, base, left["cache"], chosen["cache"])
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


def _of_other_networks(
    images: ImageDataset, report: DataReport, kept: Mapping[str, Any], given: Mapping[str, Any], device: str
) -> Mapping[str, Any]:
    """Return the file's choices; without those of its row of networks if another row is asked for."""
    kept = {choice_name(name): value for name, value in dotted(kept)}
    row = kept.get("networks")
    if row is None or given.get("networks", row) == row:
        return kept
    # the file's own row with nothing chosen but what is no part of a row
    same = {"networks": row} | {name: kept[name] for name in ("seed", "cache.method") if name in kept}
    same |= {f"{kind}.file": kept.get(f"{kind}.file", "") for kind in ("encoder", "generator", "inverter")}
    same |= {name: value for name, value in kept.items() if name == "discriminator.file"}
    of_row = make_plan(images, report, same, device).document()
    return {
        name: value
        for name, value in kept.items()
        if name.endswith(".file") or name in same or name not in of_row or of_row[name] != value
    }


def _strict(kept: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the choices of a section that may be without effect, and those that must have one.

    The former are those of the file, if there are given ones beside them.
    """
    return (kept, given) if given else ({}, kept)


def _encoder(
    images: ImageDataset,
    base: Mapping[str, Any],
    grey: Mapping[str, Any],
    parts: tuple[Mapping[str, Any], Mapping[str, Any]],
    seed: int,
    device: str,
) -> tuple[TrainSettings, dict[str, Any]]:
    """Return the settings of the encoder's training, and the same as overrides.

    Args:
        images: training images.
        base: defaults of the section.
        grey: expert views of grey images.
        parts: choices that may be without effect, and those that must have one.
        seed: root of all random numbers.
        device: torch device.
    """
    weak, strict = parts
    tabled, weak = _tabled(base), _effective(images.name, {**grey, **weak}, strict)
    given = {**weak, **strict}
    if "epochs" in given:
        tabled.pop("num_steps", None)
    first = {**tabled, **given, "seed": seed}
    found = resolved_precision(encoder_settings(images, first), device)
    optimiser, expert = found.optimiser, own_settings(found.expert)
    chosen = {name: getattr(found.network, name) for name in NETWORK}
    chosen |= {name: getattr(optimiser, name) for name in OPTIMISER}
    length = "epochs" if optimiser.num_steps is None else "num_steps"
    chosen[length] = getattr(optimiser, length)
    chosen |= {f"expert.{name}": value for name, value in expert.items()}
    own = {name: value for name, value in given.items() if name not in chosen}
    return found, chosen | own


def _effective(dataset: str, weak: Mapping[str, Any], strict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices `weak` without the settings of expert views that have no effect beside `strict`."""
    augment = strict.get("augment", weak.get("augment"))
    expert = dict(recipe(dataset, "expert") if augment is None else expert_values(augment))
    expert |= {
        name.removeprefix("expert."): value
        for name, value in {**weak, **strict}.items()
        if name.startswith("expert.")
    }
    idle = {f"expert.{name}" for name in ExpertConfig(**expert).ignored()}
    return {name: value for name, value in weak.items() if name not in idle}


def _tabled(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's settings of an encoder; recipes with a length of their own are found again."""
    return dict(base) if "num_steps" in base else {}


def _cache(
    dataset: str, base: Any, kept: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Choice[ViewEntry], Choice[ViewEntry] | None, int, tuple[str, ...]]:
    """Return the method, the inversion before it, V, and the settings that are measured."""
    both = {**kept, **given}
    entry = VIEWS.entry(both.get("method", "wsearch"))
    views = both.get("views")
    if views is not None and (not isinstance(views, int) or isinstance(views, bool) or views < 1):
        raise UsageError(f"cache.views is {views!r}; expected a whole number from 1 on")
    views = views_per_image(entry, views, option="cache.views")
    weak, strict = (_of_stages(choices) for choices in _strict(kept, given))
    own = weak["settings"] | strict["settings"]
    auto = tuple(
        field
        for field in ("epsilon_boundary", "epsilon_uniformity")
        if field in entry.settings.model_fields and own.get(field, AUTO) == AUTO
    )
    for choices in (weak["settings"], strict["settings"]):
        for field in auto:
            choices.pop(field, None)
    method = VIEWS.resolve(entry.name, dataset, strict["settings"], base(entry.name) | weak["settings"])
    before = None
    if "inversions" in entry.needs:
        before = VIEWS.resolve("invert", dataset, strict["invert"], base("invert") | weak["invert"])
    elif inversion := strict["invert"]:
        raise UsageError(
            f"cache.invert.{min(inversion)} is given, and {entry.name!r} starts from no inversions"
        )
    idle = method.settings.ignored()
    return method, before, views, tuple(field for field in auto if field not in idle)


def _of_stages(choices: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the given settings of the method and of the inversion before it."""
    found: dict[str, dict[str, Any]] = {"settings": {}, "invert": {}}
    for key, value in choices.items():
        place, dot, field = key.partition(".")
        if dot and place in found:
            found[place][field] = value
        elif key not in ("method", "views"):
            raise UsageError(
                f"cache.{key} is no choice; expected cache.method, cache.views, cache.settings.NAME or "
                "cache.invert.NAME"
            )
    return found
