"""Checkpoints of the public PyTorch StyleGAN2 (``.pt``): ``g_ema``, perhaps ``d``, ``latent_avg``, ``args``.

They are read by `viewgen_pretrained.imports.restricted_pickle` rather than ``torch.load``, which does not
compare a tensor's size with its stored data, and tells users to trust the file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from viewgen.errors import ModelError
from viewgen.networks.stylegan2.discriminator import Discriminator, DiscriminatorConfig
from viewgen.networks.stylegan2.generator import Generator, GeneratorConfig
from viewgen.randomness import addressed_normal
from viewgen_pretrained.imports.imported import Imported, filled
from viewgen_pretrained.imports.tensor_records import Attributes, TensorRecord

__all__ = ["read_public"]

MAX_LEVELS = 9  # 4 px to 1024 px
KEPT_ARGUMENTS = ("size", "channel_multiplier", "latent", "n_mlp", "iter", "batch", "r1", "augment", "arch")


def read_public(document: Any, path: str | Path) -> Imported:
    """Build the networks of a checkpoint.

    Args:
        document: result of `viewgen_pretrained.imports.restricted_pickle.read_pickle`.
        path: path of the file, for messages.

    Raises:
        ModelError: the document is not such a checkpoint.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("g_ema"), Mapping):
        held = ", ".join(map(repr, list(document)[:8])) if isinstance(document, Mapping) else "no dictionary"
        raise ModelError(
            f"{path} is no checkpoint of the public PyTorch StyleGAN2: no state dict 'g_ema' in it (it holds "
            f"{held[:300]})"
        )
    facts: dict[str, Any] = {}
    arguments = document.get("args")
    if isinstance(arguments, Attributes):
        facts["arguments"] = {
            name: arguments[name]
            for name in KEPT_ARGUMENTS
            if isinstance(arguments.get(name), str | int | float)
        }
    generator = _generator(_tensors(document["g_ema"]), f"{path}: g_ema", facts)
    _set_latent_avg(generator, document.get("latent_avg"), path, facts)
    discriminator = None
    if isinstance(document.get("d"), Mapping):
        discriminator = _discriminator(_tensors(document["d"]), f"{path}: d")
    return Imported(layout="stylegan2-pytorch", generator=generator, discriminator=discriminator, facts=facts)


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        if isinstance(value, TensorRecord):
            found[str(key)] = value.tensor()
    return found


def _shape(state: Mapping[str, Tensor], key: str, num_axes: int, title: str) -> tuple[int, ...]:
    if key not in state or state[key].ndim != num_axes:
        raise ModelError(
            f"{title} has no {key} with {num_axes} axes: it is not of the public PyTorch StyleGAN2"
        )
    return tuple(state[key].shape)


def _levels(state: Mapping[str, Tensor], pattern: str, title: str) -> int:
    count = sum(re.fullmatch(pattern, key) is not None for key in state)
    if not 1 < count + 1 <= MAX_LEVELS:
        raise ModelError(f"{title} has {count} blocks above 4 px; expected 1 to {MAX_LEVELS - 1}")
    return count


def _generator(state: dict[str, Tensor], title: str, facts: dict[str, Any]) -> Generator:
    num_blocks = _levels(state, r"to_rgbs\.\d+\.bias", title)
    first = _shape(state, "conv1.conv.weight", 5, title)[1]
    wide = [_shape(state, f"convs.{2 * i + 1}.conv.weight", 5, title)[1] for i in range(num_blocks)]
    config = GeneratorConfig(
        image_size=4 * 2**num_blocks,
        channels=(first, *wide),
        num_mapping_layers=max(1, sum(re.fullmatch(r"style\.\d+\.weight", key) is not None for key in state)),
        style_dim=_shape(state, "conv1.conv.modulation.weight", 2, title)[1],
    )
    facts["noise"] = "noises of the file"
    if not any(key.startswith("noises.") for key in state):
        # checkpoints from before the noise images were stored: any fixed ones will do
        facts["noise"] = "drawn from a fixed seed: the file has none"
        for index in range(2 * num_blocks + 1):
            side = 2 ** ((index + 5) // 2)
            state[f"noises.noise_{index}"] = addressed_normal((1, 1, side, side), "imported noise", index)
    generator: Generator = filled(Generator, config, state, title)
    return generator


def _set_latent_avg(generator: Generator, latent_avg: Any, path: str | Path, facts: dict[str, Any]) -> None:
    if not isinstance(latent_avg, TensorRecord):
        facts["latent_avg"] = "mean of 10,000 codes: the file has none"
        generator.latent_avg.copy_(generator.mean_latent())
        return
    value = latent_avg.tensor()
    if value.numel() != generator.config.style_dim:
        raise ModelError(
            f"{path}: latent_avg has shape {tuple(value.shape)}; expected {generator.config.style_dim} values"
        )
    facts["latent_avg"] = "latent_avg of the file"
    generator.latent_avg.copy_(value.reshape(-1))


def _discriminator(state: dict[str, Tensor], title: str) -> Discriminator:
    num_blocks = _levels(state, r"convs\.\d+\.conv1\.0\.weight", title)
    widest = _shape(state, "convs.0.0.weight", 4, title)[0]
    narrow = [_shape(state, f"convs.{i + 1}.conv2.1.weight", 4, title)[0] for i in range(num_blocks)]
    config = DiscriminatorConfig(image_size=4 * 2**num_blocks, channels=(*narrow[::-1], widest))
    discriminator: Discriminator = filled(Discriminator, config, state, title)
    return discriminator
