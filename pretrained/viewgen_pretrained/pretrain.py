"""`viewgen pretrain` as functions: train a network, measure it, write weights and model card."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import ModelError, UsageError
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import Kind, file_digest, load_model, read_header, save_model
from viewgen.networks.stylegan2 import Generator
from viewgen.networks.weights import network_file
from viewgen.recipes import checked_config, recipe
from viewgen.views.expert import ExpertConfig
from viewgen_pretrained import quality
from viewgen_pretrained.encoder import EncoderTrainer, EncoderTrainingConfig
from viewgen_pretrained.generator import GeneratorTrainer, GeneratorTrainingConfig
from viewgen_pretrained.inverter import InverterTrainer, InverterTrainingConfig
from viewgen_pretrained.training_curves import TrainingCurves
from viewgen_train.loop import run_training

__all__ = ["pretrain_encoder", "pretrain_generator", "pretrain_inverter", "training_config"]

STORAGE_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def training_config(config_class: type, section: str, dataset: str, overrides: Mapping[str, Any]) -> Any:
    """Build a training configuration: the dataclass's defaults, the data set's recipe, then `overrides`.

    Raises:
        UsageError: a name is not a field of the configuration, or a value cannot be one of that field.
    """
    values = {**recipe(dataset, section), **overrides}
    if "expert" in {field.name for field in dataclasses.fields(config_class)}:
        expert = values.get("expert", {})
        if not isinstance(expert, Mapping):
            raise UsageError(f'expert is {expert!r}; expected an object such as {{"hue": 0.0}}')
        values["expert"] = checked_config(ExpertConfig, "expert", {**recipe(dataset, "expert"), **expert})
    return checked_config(config_class, f"{section} training", values)


def _finish(
    network: torch.nn.Module,
    out: Path,
    kind: Kind,
    dataset: ImageDataset,
    trainer: Any,
    *,
    seconds: float,
    measure: Callable[[Any], dict[str, Any]],
    command: list[str] | None,
    dtype: str,
    depends: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write weights and card; measured is the file as written, the rounding of its storage type included."""
    path = out / f"{kind}.safetensors"
    save_model(network, path, dtype=STORAGE_DTYPES[dtype], notes={"dataset": dataset.name})
    stored = load_model(path, kind, next(network.parameters()).device)
    card = {
        "kind": kind,
        "file": path.name,
        "sha256": file_digest(path).removeprefix("sha256:"),
        "dataset": {
            "name": dataset.name,
            "split": dataset.split,
            "digest": dataset.digest,
            "images": len(dataset),
        },
        "network": read_header(path)["config"],
        "training": trainer.identity,
        "depends": dict(depends or {}),
        "seed": trainer.seed,
        "steps": trainer.num_steps,
        "seconds": round(seconds),
        "command": shlex.join(command or []),
        "storage_dtype": dtype,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "measured": measure(stored),
    }
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    (out / f"{kind}.card.json").write_text(text, encoding="utf-8")
    return card


def _network(named: str | Path | None, out: Path, kind: str) -> Path:
    """Return a network's file: as named (a path, or a name of `viewgen models list`), or the run's own."""
    return out / f"{kind}.safetensors" if named is None else network_file(named, kind)


def _feature_net(path: Path, images: ImageDataset, device: str) -> Encoder:
    """Load the encoder that measures a training; one for other images is refused before the training."""
    encoder = load_model(path, "encoder", device)
    if encoder.config.image_size != images.image_size:
        raise ModelError(
            f"the encoder at {path} is for {encoder.config.image_size}-px images, those of {images.name} "
            f"have {images.image_size} px; give one of that size (--encoder FILE) or none"
        )
    return encoder


def pretrain_encoder(
    dataset: str,
    out: str | Path,
    *,
    split: str = "train",
    data_root: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    overwrite: bool = False,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Train the contrastive encoder f, and measure its 5-NN accuracy on the test split.

    Args:
        dataset: name of the data set.
        out: folder for ``encoder.safetensors``, ``encoder.card.json`` and the training's checkpoint.
        split: images to train on.
        data_root: where data sets are.
        settings: fields of `EncoderTrainingConfig` that differ from the recipe.
        device: torch device.
        dtype: storage type of the weights, ``"float32"`` or ``"float16"``.
        overwrite: start afresh instead of resuming.
        command: the command line, for the card.

    Returns:
        the model card.
    """
    images = load_dataset(dataset, split, data_root=data_root)
    config = training_config(EncoderTrainingConfig, "encoder", dataset, settings or {})
    trainer = EncoderTrainer(images, config, torch.device(device))
    out = Path(out)
    seconds = run_training(trainer, out, observer=TrainingCurves(), overwrite=overwrite)
    return _finish(
        trainer.encoder, out, "encoder", images, trainer, seconds=seconds, command=command, dtype=dtype,
        measure=lambda stored: quality.measure_encoder(stored, images, data_root),
    )  # fmt: skip


def pretrain_generator(
    dataset: str,
    out: str | Path,
    *,
    split: str = "train",
    data_root: str | None = None,
    settings: Mapping[str, Any] | None = None,
    encoder: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    overwrite: bool = False,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Train the generator g and the discriminator d̃.

    Args:
        encoder: an encoder file; its features measure the kernel distance between samples and images.
            Without it the distance is not measured.
        (the others as in `pretrain_encoder`)

    Returns:
        the generator's model card; the discriminator gets one of its own.
    """
    images = load_dataset(dataset, split, data_root=data_root)
    config = training_config(GeneratorTrainingConfig, "generator", dataset, settings or {})
    encoder_path = None if encoder is None else network_file(encoder, "encoder")
    feature_net = None if encoder_path is None else _feature_net(encoder_path, images, device)
    trainer = GeneratorTrainer(images, config, torch.device(device))
    out = Path(out)
    seconds = run_training(trainer, out, observer=TrainingCurves(), overwrite=overwrite)
    depends = {} if encoder_path is None else {"encoder": file_digest(encoder_path)}

    def measure(stored: Any) -> dict[str, Any]:
        if feature_net is None:
            return {}
        return quality.measure_generator(stored, feature_net, images, data_root)

    _finish(
        trainer.discriminator, out, "discriminator", images, trainer, seconds=seconds, command=command,
        dtype=dtype, measure=lambda _: {},
    )  # fmt: skip
    return _finish(
        trainer.finish(), out, "generator", images, trainer, seconds=seconds, command=command, dtype=dtype,
        measure=measure, depends=depends,
    )  # fmt: skip


def pretrain_inverter(
    dataset: str,
    out: str | Path,
    *,
    generator: str | Path | None = None,
    discriminator: str | Path | None = None,
    encoder: str | Path | None = None,
    split: str = "train",
    data_root: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    overwrite: bool = False,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Train the inverter e against a frozen generator, and measure its reconstructions.

    Args:
        generator, discriminator: network files; by default those in `out`.
        encoder: an encoder file for the feature distance of reconstructions; by default the one in `out`,
            and if there is none that distance is not measured.
        (the others as in `pretrain_encoder`)

    Returns:
        the model card.
    """
    out = Path(out)
    images = load_dataset(dataset, split, data_root=data_root)
    config = training_config(InverterTrainingConfig, "inverter", dataset, settings or {})
    generator_path = _network(generator, out, "generator")
    discriminator_path = _network(discriminator, out, "discriminator")
    encoder_path = _network(encoder, out, "encoder")
    frozen = load_model(generator_path, "generator", device)
    if not isinstance(frozen, Generator):
        raise ModelError(
            f"{generator_path} holds a {type(frozen).__name__}; inverters are trained for StyleGAN2, other "
            "generators bring the start of their codes themselves"
        )
    critic = load_model(discriminator_path, "discriminator", device)
    depends = {"generator": file_digest(generator_path), "discriminator": file_digest(discriminator_path)}
    feature_net = None
    if encoder is not None or encoder_path.exists():
        feature_net = _feature_net(encoder_path, images, device)
        depends["encoder"] = file_digest(encoder_path)
    trainer = InverterTrainer(
        images, config, torch.device(device), generator=frozen, discriminator=critic, depends=depends
    )
    seconds = run_training(trainer, out, observer=TrainingCurves(), overwrite=overwrite)
    return _finish(
        trainer.inverter, out, "inverter", images, trainer, seconds=seconds, command=command, dtype=dtype,
        measure=lambda stored: quality.measure_inverter(stored, frozen, feature_net, images, data_root),
        depends=depends,
    )  # fmt: skip
