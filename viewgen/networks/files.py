"""Networks on file: safetensors with the network's shape in the header, one file per network.

The header entry ``viewgen`` is a JSON object ``{"format": 1, "kind": …, "config": {…}, …}``. Weights may be
stored in half precision; they are used in float32.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from viewgen.errors import MissingFileError, ModelError
from viewgen.files import write_atomically
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.execution import Execution
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.layout import channels_last
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig

__all__ = ["Kind", "Models", "file_digest", "load_model", "load_models", "read_header", "save_model"]

Kind = Literal["generator", "discriminator", "inverter", "encoder"]

NETWORKS: dict[str, tuple[Any, Any]] = {
    "generator": (Generator, GeneratorConfig),
    "discriminator": (Discriminator, DiscriminatorConfig),
    "inverter": (Inverter, InverterConfig),
    "encoder": (Encoder, EncoderConfig),
}
FORMAT = 1
LATENT_AVG = "latent_avg"
# Settings that came after the first files: headers name them where they differ from the default, so that a
# network of the first kind is still written byte for byte as before.
LATER_SETTINGS = {
    ("discriminator", "stddev_group"): 4,
    ("encoder", "projector"): "mlp",
    ("inverter", "num_classes"): 0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The networks of one job, in evaluation mode, without parameter gradients, on one device.

    A network that the job does not need is None. `execution` says how they are run.
    """

    device: torch.device
    generator: Generator | None = None
    discriminator: Discriminator | None = None
    inverter: Inverter | None = None
    encoder: Encoder | None = None
    execution: Execution = field(default_factory=Execution)


def file_digest(path: str | Path) -> str:
    """Return ``"sha256:…"`` of a file's bytes."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def network_kind(network: nn.Module) -> str:
    """Return the kind under which `network` is stored.

    Raises:
        ModelError: it is none of ours.
    """
    for kind, (network_class, _) in NETWORKS.items():
        if isinstance(network, network_class):
            return kind
    raise ModelError(f"a {type(network).__name__} cannot be stored; expected one of {', '.join(NETWORKS)}")


def _stored_state(network: nn.Module) -> dict[str, Tensor]:
    """Return everything a file holds: the state dict and, for a generator, its mean latent."""
    state = dict(network.state_dict())
    if isinstance(network, Generator):
        state[LATENT_AVG] = network.latent_avg
    return state


def _stored_shapes(kind: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a file of this configuration holds, without allocating any of it."""
    with torch.device("meta"):
        state = _stored_state(NETWORKS[kind][0](config))
    return {key: tuple(value.shape) for key, value in state.items()}


def save_model(
    network: nn.Module,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a network to `path` atomically.

    Args:
        network: a `Generator`, `Discriminator`, `Inverter` or `Encoder`.
        path: the ``.safetensors`` file.
        dtype: storage type of floating-point tensors (float16 halves the file).
        notes: further JSON values for the header (data set, training command, …).

    Raises:
        ModelError: it is no network of ours, it was loaded for inference, or a weight is not finite in the
            storage type.
    """
    kind = network_kind(network)
    expected = _stored_shapes(kind, cast(Any, network).config)
    if expected.keys() != _stored_state(network).keys():
        raise ModelError(
            f"the {kind} is not stored: it was loaded for inference, which folds its batch normalisations; "
            "store the network that was trained, or copy its file"
        )
    config = {
        name: value
        for name, value in dataclasses.asdict(cast(Any, network).config).items()
        if (kind, name) not in LATER_SETTINGS or LATER_SETTINGS[kind, name] != value
    }
    header = {**(notes or {}), "format": FORMAT, "kind": kind, "config": config}
    state = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in _stored_state(network).items()
    }
    broken = sorted(key for key, value in state.items() if not _is_finite(value))
    if broken:
        raise ModelError(f"the {kind} is not stored: {broken[0]} holds values that are not finite as {dtype}")
    write_atomically(path, save(state, metadata={"viewgen": json.dumps(header, sort_keys=True)}))


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the header of a network file without reading its tensors.

    Raises:
        MissingFileError: there is no such file.
        ModelError: it is not a safetensors file written by viewgen.
    """
    if not Path(path).is_file():
        raise MissingFileError(
            f"no weights at {path}; `viewgen pretrain` makes them, or give the path of a file"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error
    if "viewgen" not in metadata:
        raise ModelError(
            f"{path} has no viewgen header: it was not written by `viewgen pretrain` or `models import`"
        )
    try:
        header = json.loads(metadata["viewgen"])
    except json.JSONDecodeError as error:
        raise ModelError(f"{path} has a damaged viewgen header: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("config"), dict):
        raise ModelError(f"{path} has a viewgen header without the network's config")
    if header.get("format") != FORMAT or str(header.get("kind")) not in NETWORKS:
        raise ModelError(
            f"{path} holds format {header.get('format')!r}, kind {header.get('kind')!r}; this version reads "
            f"format {FORMAT} of {', '.join(NETWORKS)}"
        )
    return header


def load_model(path: str | Path, kind: Kind, device: torch.device | str = "cpu") -> nn.Module:
    """Load a network for inference: float32, evaluation mode, no parameter gradients.

    Args:
        path: file written by `save_model`.
        kind: what it must be.
        device: where it goes.

    Raises:
        MissingFileError: there is no such file.
        ModelError: another kind, a missing or unexpected key, a wrong shape, non-finite weights.
    """
    header = read_header(path)
    if header["kind"] != kind:
        raise ModelError(f"{path} holds a network of kind {header['kind']!r}; a {kind} is needed here")
    network_class, config_class = NETWORKS[kind]
    try:
        config = config_class(**header["config"])
        expected = _stored_shapes(kind, config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: the header's config does not describe a network: {error}") from error
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    _check_state(path, state, expected)
    network = cast(nn.Module, network_class(config))
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if isinstance(network, Generator):
        network.latent_avg.copy_(state.pop(LATENT_AVG))
    network.load_state_dict(state, strict=True)
    network.eval()
    if isinstance(network, Encoder | Inverter):
        fold_batch_norms(network)
    return channels_last(network).to(device).eval().requires_grad_(False)


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _check_state(
    path: str | Path, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    problems = [f"missing {key} {expected[key]}" for key in expected.keys() - state.keys()]
    problems += [f"unexpected {key}" for key in state.keys() - expected.keys()]
    for key in state.keys() & expected.keys():
        if tuple(state[key].shape) != expected[key]:
            problems.append(f"{key} has shape {tuple(state[key].shape)}, expected {expected[key]}")
        elif not _is_finite(state[key]):
            problems.append(f"{key} holds non-finite values")
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelError(f"{path} does not fit its header: {shown}{more}")


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch normalisation that directly follows a convolution into it, for inference.

    A search evaluates the networks thousands of times an image; each normalisation is a pass over memory.
    """
    for module in network.modules():
        children = list(module.named_children())
        for (name, first), (next_name, second) in pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, next_name, nn.Identity())


def load_models(paths: Mapping[str, str | Path], device: torch.device | str = "cpu") -> Models:
    """Load the networks named by `paths`, kind → file, onto `device`."""
    loaded = {kind: load_model(path, cast(Kind, kind), device) for kind, path in paths.items()}
    return Models(device=torch.device(device), **cast(dict[str, Any], loaded))
