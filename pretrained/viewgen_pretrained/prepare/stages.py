"""Stages of `viewgen prepare`: the record of a finished one names what it was made of, and its numbers.

OUT/prepare.toml            the plan
    prepared/STAGE.json     record of a finished stage
    encoder.safetensors …   networks, cards and training folders of `viewgen pretrain`
    views.zarr              the cache, and the inversions beside it
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from viewgen.datasets import ImageDataset
from viewgen.diagnostics.calibration import calibrate
from viewgen.documents import read_object
from viewgen.errors import CacheMismatchError, CorruptDataError
from viewgen.files import write_atomically
from viewgen.networks.files import Kind, Models, file_digest, load_model, load_models
from viewgen.progress import Progress
from viewgen.views.compositions import dataset_expert
from viewgen_pretrained.dry_run import own_settings
from viewgen_pretrained.prepare.measured import (
    encoder_numbers,
    epsilon_numbers,
    generator_numbers,
    inverter_numbers,
)
from viewgen_pretrained.prepare.plan import SPREAD_OF_EPSILON, Plan
from viewgen_pretrained.pretrain import pretrain_encoder, pretrain_generator, pretrain_inverter

__all__ = ["STAGES", "Work", "cache_settings"]

STAGES = ("encoder", "epsilon", "generator", "inverter")
RECORDS = "prepared"


@dataclass(kw_only=True)
class Work:
    """The stages of a plan in a folder.

    Attributes:
        plan: the plan.
        images: training images.
        test: held-out images, or None.
        out: folder of the run.
        device: torch device.
        data_root: folder of data sets.
        overwrite: True to train networks again that were made of something else.
        command: command line, for the cards.
        records: records of the finished stages, by name.
    """

    plan: Plan
    images: ImageDataset
    test: ImageDataset | None
    out: Path
    device: str
    data_root: str | None
    overwrite: bool = False
    command: list[str] | None = None
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def file(self, kind: str) -> Path:
        """Return the file of a network."""
        return self.plan.files.get(kind, self.out / f"{kind}.safetensors")

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Return the record of a stage if it is finished, and made of what the plan names."""
        try:
            record = read_object(self.out / RECORDS / f"{stage}.json")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except CorruptDataError:
            return None  # it is made again
        if record.get("key") != self._key(stage):
            return None
        files = record.get("files", {})
        same = all(
            self.file(kind).is_file() and file_digest(self.file(kind)) == digest
            for kind, digest in files.items()
        )
        return record if same and isinstance(record.get("measured"), dict) else None

    def done(self) -> frozenset[str]:
        """Return the names of the stages that are finished; one ends the row of those after it."""
        found = []
        for stage in STAGES:
            if self.finished(stage) is None:
                break
            found.append(stage)
        return frozenset(found)

    def run(self, stage: str) -> tuple[dict[str, Any], bool]:
        """Return the record of a stage, made if it is not finished, and True if it was there."""
        record = self.finished(stage)
        there = record is not None
        if record is None:
            started = time.monotonic()
            make: Callable[[], Mapping[str, float]] = getattr(self, f"_{stage}")
            measured = dict(make())
            record = {
                "key": self._key(stage),
                "measured": measured,
                "seconds": round(time.monotonic() - started, 1),
                "files": {kind: file_digest(self.file(kind)) for kind in self._makes(stage)},
            }
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            write_atomically(self.out / RECORDS / f"{stage}.json", text.encode())
        self.records[stage] = record
        return record, there

    @property
    def epsilon(self) -> float:
        """ε₁ of the views, after the stage that calibrates it."""
        return self.plan.epsilon_boundary(float(self.records["epsilon"]["measured"]["epsilon_boundary"]))

    def _makes(self, stage: str) -> tuple[str, ...]:
        if stage == "epsilon":
            return ()
        return ("generator", "discriminator") if stage == "generator" else (stage,)

    def _key(self, stage: str) -> str:
        """Return the digest of all that a stage is made of."""
        plan = self.plan
        made_of: dict[str, Any] = {"stage": stage, "data": self.images.digest, "seed": plan.seed}
        made_of["test"] = None if self.test is None else self.test.digest
        if stage in plan.files:
            made_of["file"] = file_digest(plan.files[stage])
        elif stage == "encoder":
            made_of["settings"] = dict(plan.encoder_given)
        elif stage == "epsilon":
            made_of["settings"] = plan.epsilon.to_json() | own_settings(self._expert())
        else:
            own = plan.generator if stage == "generator" else plan.inverter
            assert own is not None
            made_of["settings"] = own_settings(own)
        needs = {"encoder": (), "epsilon": ("encoder",), "generator": ("encoder",)}
        for kind in needs.get(stage, ("encoder", "generator")):
            path = self.file(kind)
            made_of[kind] = file_digest(path) if path.is_file() else ""
        if stage == "inverter" and plan.inversion is not None:
            made_of["inversion"] = own_settings(plan.inversion.settings)
            given = getattr(plan.method.settings, "epsilon_boundary", None)
            if given is not None and "epsilon_boundary" not in plan.auto:
                made_of["epsilon_boundary"] = given
        text = json.dumps(made_of, sort_keys=True, default=list)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def _train(self, function: Callable[..., Any], **options: Any) -> None:
        """Train a network or resume its training; replace another one only where that is asked for."""
        train = partial(
            function,
            self.plan.dataset,
            self.out,
            split=self.plan.split,
            data_root=self.data_root,
            device=self.device,
            command=self.command,
            **options,
        )
        try:
            train()
        except CacheMismatchError:
            if not self.overwrite:
                raise
            train(overwrite=True)

    def _models(self, *kinds: Kind) -> Models:
        return load_models({kind: self.file(kind) for kind in kinds}, self.device)

    def _expert(self) -> Any:
        if self.plan.encoder is not None:
            return self.plan.encoder.expert
        return dataset_expert(self.plan.dataset)

    def _encoder(self) -> dict[str, float]:
        plan = self.plan
        if "encoder" not in plan.files:
            settings = {**plan.encoder_given, "seed": plan.seed}
            self._train(pretrain_encoder, settings=settings)
        encoder = load_model(self.file("encoder"), "encoder", self.device)
        with _measuring("encoder"):
            return encoder_numbers(encoder, self.images, self.test, self.device)

    def _epsilon(self) -> dict[str, float]:
        epsilon = self.plan.epsilon
        return epsilon_numbers(
            calibrate(
                load_model(self.file("encoder"), "encoder", self.device),
                self.images,
                self._expert(),
                num_images=epsilon.num_images,
                num_views=epsilon.num_views,
                seed=self.plan.seed,
            )
        )

    def _generator(self) -> dict[str, float]:
        plan = self.plan
        if plan.generator is not None:
            self._train(
                pretrain_generator, settings=own_settings(plan.generator), encoder=self.file("encoder")
            )
        with _measuring("generator"):
            return generator_numbers(self._models("generator", "encoder"), self.images, plan.seed)

    def _inverter(self) -> dict[str, float]:
        plan = self.plan
        if plan.inverter is not None:
            self._train(
                pretrain_inverter,
                generator=self.file("generator"),
                discriminator=self.file("discriminator"),
                encoder=self.file("encoder"),
                settings=own_settings(plan.inverter),
            )
        with _measuring("inverter"):
            return inverter_numbers(
                self._models("generator", "discriminator", "inverter", "encoder"),
                self.images if self.test is None else self.test,
                plan.inversion,
                self.epsilon,
                plan.seed,
            )


@contextmanager
def _measuring(kind: str) -> Iterator[None]:
    """Show that the numbers of a gate are measured, now and then if it takes long."""
    with Progress(logger=__name__).bar(f"measuring the {kind}", 1, brief=True) as bar:
        yield
        bar.update(1)


def cache_settings(plan: Plan, epsilon: float) -> dict[str, Any]:
    """Return the settings of the cache's method, with ε₁ and ε₂ as numbers, and those of its inversion.

    ε₂ is 5/3 of ε₁, the ratio of the published pairs, where none is given.

    Args:
        plan: the plan.
        epsilon: calibrated ε₁, for a plan that gives none.
    """
    epsilon = plan.epsilon_boundary(epsilon)
    measured = {
        "epsilon_boundary": epsilon,
        "epsilon_uniformity": min(2.0, round(SPREAD_OF_EPSILON * epsilon, 3)),
    }
    found = own_settings(plan.method.settings)
    found |= {name: measured[name] for name in plan.auto}
    if plan.inversion is not None:
        found |= {f"invert.{name}": value for name, value in own_settings(plan.inversion.settings).items()}
    return {name: value for name, value in found.items() if value is not None}
