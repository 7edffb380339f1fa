"""Imported networks, and the check that the tensors of a file match a network exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.networks.stylegan2.discriminator import Discriminator
from viewgen.networks.stylegan2.generator import Generator

__all__ = ["Imported", "filled"]

MAX_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """Networks of a public file.

    Attributes:
        layout: format of the file, such as ``"stylegan2-ada-pytorch"``.
        generator: averaged generator, with its mean latent.
        discriminator: discriminator; None if the file has none.
        facts: facts about the conversion, for the model card.
    """

    layout: str
    generator: Generator
    discriminator: Discriminator | None
    facts: dict[str, Any] = field(default_factory=dict)


def filled(network_class: Any, config: Any, state: Mapping[str, Tensor], title: str) -> Any:
    """Build a network with configuration `config` and the tensors of `state`.

    Args:
        network_class: `Generator` or `Discriminator`.
        config: configuration of the network.
        state: complete state dict of the network; the constant filters (``*.kernel``) may be missing.
        title: name of the network in messages.

    Raises:
        ModelError: a tensor is missing, superfluous or of another shape, or a filter has other values.
    """
    with torch.device("meta"):  # shapes alone: a damaged file must not make us take memory
        expected = {key: tuple(value.shape) for key, value in network_class(config).state_dict().items()}
    problems = [
        f"missing {key} {shape}"
        for key, shape in expected.items()
        if key not in state and not key.endswith(".kernel")
    ]
    problems += [f"unknown {key}" for key in state.keys() - expected.keys()]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {expected[key]}"
        for key in expected.keys() & state.keys()
        if tuple(state[key].shape) != expected[key]
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:MAX_SHOWN])
        more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise ModelError(f"{title} does not fill a network with {config}: {shown}{more}")
    with torch.random.fork_rng(devices=[]):
        network = network_class(config)
    own = network.state_dict()
    for key in own:
        if key.endswith(".kernel") and key in state and not torch.allclose(own[key], state[key].float()):
            raise ModelError(f"{title}: {key} is not the filter [1, 3, 3, 1]")
    network.load_state_dict({**own, **state}, strict=True)
    return network.eval().requires_grad_(False)
