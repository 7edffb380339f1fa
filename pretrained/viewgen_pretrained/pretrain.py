"""`viewgen pretrain` as functions: training and measurement of a network, weights and model card."""

import json
import logging
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.errors import ModelError, UsageError
from viewgen.memory import available_bytes
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import Kind, file_digest, load_model, read_header, save_model
from viewgen.networks.stylegan2 import Generator
from viewgen.networks.weights import network_file
from viewgen.progress import Progress
from viewgen.recipes import recipe
from viewgen.settings import Settings
from viewgen.sizes import check_known_side, check_side, defaults, takes_size
from viewgen.views.compositions import refuse_colorless
from viewgen_pretrained import quality
from viewgen_pretrained.generator import GeneratorTrainer
from viewgen_pretrained.inverter import InverterTrainer
from viewgen_pretrained.learned_views import FlowTrainer, labelled_images
from viewgen_pretrained.settings import (
    GeneratorTrainingConfig,
    InverterTrainingConfig,
    ViewsTrainingConfig,
)
from viewgen_pretrained.training_curves import TrainingCurves
from viewgen_train.distributed import World
from viewgen_train.loader import MEMORY_SHARE
from viewgen_train.loop import run_training
from viewgen_train.plan import TrainPlan, resolved_precision
from viewgen_train.resolve import train_settings
from viewgen_train.run import CONFIG
from viewgen_train.settings import TrainSettings
from viewgen_train.sizes import WARM_UP_SHARE
from viewgen_train.worker import build_trainer, write_config

__all__ = [
    "adversarial_images",
    "encoder_settings",
    "pretrain_encoder",
    "pretrain_generator",
    "pretrain_inverter",
    "pretrain_views",
    "training_config",
    "warn_of_side",
]

log = logging.getLogger(__name__)

# of an encoder's training where the data set's recipe has no length
ENCODER_STEPS = 20_000
STORAGE_DTYPES = {"float32": torch.float32, "float16": torch.float16}


S = TypeVar("S", bound=Settings)


def training_config(
    config_class: type[S],
    section: str,
    dataset: str,
    overrides: Mapping[str, Any],
    images: ImageDataset | None = None,
) -> S:
    """Return the settings of a training: the defaults, the data set's recipe, then `overrides`.

    Args:
        config_class: class of the settings.
        section: ``"generator"``, ``"inverter"`` or ``"views"``.
        dataset: name of the data set.
        overrides: setting → value.
        images: training images, whose number sets the defaults of a data set without a recipe of its own.

    Raises:
        UsageError: a name is not a setting or would be ignored, or a value is invalid for its setting.
    """
    base = recipe(dataset, section)
    if images is not None:
        base = defaults(dataset, section, num_images=len(images), image_size=images.image_size)
    config = config_class(**{**base, **overrides})
    config.refuse_ignored(overrides)
    return config


def adversarial_images(dataset: str, split: str, data_root: str | None) -> ImageDataset:
    """Return the images of a generator's or an inverter's training.

    Raises:
        ModelError: StyleGAN2 takes no images of their side; raised before pictures are decoded.
    """
    check_known_side(dataset, split, data_root=data_root)
    images = load_dataset(dataset, split, data_root=data_root)
    check_side(dataset, images.image_size, resizable=takes_size(dataset))
    return images


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
    """Write weights and card; the measured network is the written file, rounded to its storage type."""
    path = out / f"{kind}.safetensors"
    save_model(network, path, dtype=STORAGE_DTYPES[dtype], notes={"dataset": dataset.name})
    stored = load_model(path, kind, next(network.parameters()).device)
    with Progress(logger=__name__).bar(f"measuring the {kind}", 1, brief=True) as bar:
        measured = measure(stored)
        bar.update(1)
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
        "measured": measured,
    }
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    (out / f"{kind}.card.json").write_text(text, encoding="utf-8")
    return card


def _network(named: str | Path | None, out: Path, kind: str) -> Path:
    """Return a network's file: the named one (a path or a name in `viewgen models list`) or the run's."""
    return out / f"{kind}.safetensors" if named is None else network_file(named, kind)


def _feature_net(path: Path, images: ImageDataset, device: str) -> Encoder:
    """Load the encoder for measuring a training; raise an error if it does not match the images."""
    encoder = load_model(path, "encoder", device)
    if encoder.config.image_size != images.image_size:
        raise ModelError(
            f"the encoder at {path} is for {encoder.config.image_size}-px images, those of {images.name} "
            f"have {images.image_size} px; give one of that size (--encoder FILE) or none"
        )
    return encoder


def warn_of_side(images: ImageDataset) -> None:
    """Say at once that no generator can be trained beside an encoder of images of this side."""
    try:
        check_side(images.name, images.image_size, resizable=takes_size(images.name))
    except ModelError as problem:
        log.warning("this encoder serves `viewgen train` and measurements, but no generator: %s", problem)


def encoder_settings(images: ImageDataset, given: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of an encoder's training: `viewgen train` on expert views only.

    The ``[<name>.encoder]`` recipe of the data set applies if it sets the length of the training; otherwise
    the ``[<name>.train]`` recipe applies. Without either, the number of images decides
    (`viewgen.sizes`). For cifar10, cifar100 and tinyimagenet, the latter is the baseline
    of Table 2 of Constructive Assimilation (Han et al., 2023, https://arxiv.org/abs/2304.00601).

    Args:
        images: training images.
        given: overrides of the recipe, see `viewgen_train.resolve.train_settings`.

    Raises:
        UsageError: a setting is unknown or invalid, or selects views other than expert views.
    """
    preset: dict[str, Any] = {"assimilation": "none", "generated": "expert", "knn_every": 0}
    own = defaults(images.name, "encoder", num_images=len(images), image_size=images.image_size)
    if "num_steps" in own or not recipe(images.name, "train"):
        preset |= {"num_steps": ENCODER_STEPS, **own}
    if given.keys() & {"epochs", "optimiser.epochs"}:
        preset.pop("num_steps", None)
    settings = train_settings(images.name, given, preset)
    if settings.views.name != "original" or settings.assimilation.kind != "none":
        raise UsageError("an encoder is trained on expert views alone; for others there is `viewgen train`")
    optimiser = settings.optimiser
    if optimiser.num_steps is None:
        return settings
    epochs = max(1, round(optimiser.num_steps * optimiser.batch_size / len(images)))
    preset |= {"epochs": epochs, "warm_up_epochs": WARM_UP_SHARE * epochs}
    return train_settings(images.name, given, preset)


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
    """Train the contrastive encoder f and measure its 5-NN accuracy on the test split.

    Args:
        dataset: name of the data set.
        out: output folder for ``encoder.safetensors``, ``encoder.card.json`` and the checkpoint.
        split: split of the training images.
        data_root: folder of data sets.
        settings: overrides of the recipe, see `encoder_settings`.
        device: torch device.
        dtype: storage type of the weights, ``"float32"`` or ``"float16"``.
        overwrite: True to start again instead of resuming.
        command: command line, for the card.

    Returns:
        model card.
    """
    images = load_dataset(dataset, split, data_root=data_root)
    warn_of_side(images)
    refuse_colorless((settings or {}).get("augment"), images)
    found = resolved_precision(encoder_settings(images, settings or {}), device)
    out = Path(out)
    plan = TrainPlan(
        settings=found,
        dataset=images.name,
        split=images.split,
        digest=images.digest,
        num_images=len(images),
        cache=None,
        generator=None,
        out=str((out / "encoder-training").absolute()),
        data_root=data_root,
        storage_options={},
        memory_bytes=int(MEMORY_SHARE * available_bytes()),
        measures=False,
    )
    trainer = build_trainer(plan, World(), torch.device(device))
    if overwrite:
        (Path(plan.out) / CONFIG).unlink(missing_ok=True)
    write_config(plan, Path(plan.out))
    seconds = run_training(trainer, out, observer=TrainingCurves(), overwrite=overwrite)
    return _finish(
        trainer.network.encoder, out, "encoder", images, trainer, seconds=seconds, command=command,
        dtype=dtype, measure=lambda stored: quality.measure_encoder(stored, images, data_root),
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
    """Train the generator g and the discriminator d̃; other arguments are those of `pretrain_encoder`.

    Args:
        encoder: encoder file whose features measure the kernel distance between samples and images. If None,
            the distance is not measured.

    Returns:
        model card of the generator; the discriminator's card is written beside it.
    """
    images = adversarial_images(dataset, split, data_root)
    config = training_config(GeneratorTrainingConfig, "generator", dataset, settings or {}, images)
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
    """Train the inverter e with a frozen generator and measure its reconstructions.

    Other arguments are those of `pretrain_encoder`.

    Args:
        generator, discriminator: network files; by default those in `out`.
        encoder: encoder file for the feature distance of reconstructions; by default the one in `out`. If
            there is none, the distance is not measured.

    Returns:
        model card.
    """
    out = Path(out)
    images = adversarial_images(dataset, split, data_root)
    config = training_config(InverterTrainingConfig, "inverter", dataset, settings or {}, images)
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


def pretrain_views(
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
    """Train a flow whose channels are two views of an image, and measure what they share.

    Arguments are those of `pretrain_encoder`; `settings` overrides `ViewsTrainingConfig`. Labelled images are
    those of the split, or of the training split if that of the training has no labels.

    Returns:
        model card of the flow, ``flow.safetensors``.

    Raises:
        DataError: the images are grey, or have no classes for an objective that uses them.
        TrainingDivergedError: a channel of the flow collapses.
    """
    images = load_dataset(dataset, split, data_root=data_root)
    config = training_config(ViewsTrainingConfig, "views", images.name, settings or {})
    out = Path(out)
    trainer = FlowTrainer(images, labelled_images(images, config, data_root), config, torch.device(device))
    seconds = run_training(trainer, out, observer=TrainingCurves(), overwrite=overwrite)
    return _finish(
        trainer.flow, out, "flow", images, trainer, seconds=seconds, command=command, dtype=dtype,
        measure=lambda stored: quality.measure_flow(stored, out / "flow.safetensors", trainer, data_root),
    )  # fmt: skip
