"""Files of networks: safetensors with the network's shape in the header, one file per network.

The header entry ``viewgen`` is a JSON object ``{"format": 1, "kind": …, "config": {…}, …}``; for a generator
other than StyleGAN2 it contains the name as ``generator``. Weights may be stored in half precision; they are
used in float32. ``digest`` is the sha256 of the rest of the object and of all tensors; 0.1.0 wrote none.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from viewgen.documents import parse_json
from viewgen.errors import CorruptDataError, MissingFileError, ModelError
from viewgen.files import file_sha256, open_regular, write_atomically
from viewgen.networks import stylegan2
from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.execution import Execution
from viewgen.networks.flow import Flow, FlowConfig
from viewgen.networks.generator import GENERATORS, Generator, registered_name
from viewgen.networks.inverter import Inverter, InverterConfig
from viewgen.networks.layout import channels_last, fold_batch_norms
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig
from viewgen.networks.stylegan2.codes import WPlus
from viewgen.networks.viewmaker import Viewmaker, ViewmakerConfig
from viewgen.registry import Entry

__all__ = [
    "KINDS",
    "Kind",
    "Models",
    "code_shape",
    "file_digest",
    "load_encoder",
    "load_model",
    "load_models",
    "networks_beside",
    "read_header",
    "read_state",
    "save_model",
]

Kind = Literal["generator", "discriminator", "inverter", "encoder", "flow", "viewmaker"]
KINDS: tuple[Kind, ...] = ("generator", "discriminator", "inverter", "encoder", "flow", "viewmaker")
FORMAT = 1
MOST_HEADER_BYTES = 4_000_000  # a network of 1000 tensors has about 0.1 MB
LATENT_AVG, STYLEGAN2 = "latent_avg", "stylegan2"
Device = torch.device | str
T = TypeVar("T")
# kinds whose networks are all of one class: that class, and that of their shapes
OF_ONE_SHAPE: dict[str, tuple[Any, Any]] = {
    "discriminator": (Discriminator, DiscriminatorConfig),
    "inverter": (Inverter, InverterConfig),
    "flow": (Flow, FlowConfig),
    "viewmaker": (Viewmaker, ViewmakerConfig),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The networks of one job, in evaluation mode, without parameter gradients, and their execution settings.

    A network that the job does not need is None. `further_encoders` are those of a search beside the encoder.
    """

    device: torch.device
    generator: Generator | None = None
    discriminator: Discriminator | None = None
    inverter: Inverter | None = None
    encoder: Encoder | None = None
    further_encoders: tuple[Encoder, ...] = ()
    execution: Execution = field(default_factory=Execution)

    def inverting(self) -> Generator:
        """Return the generator with the start of its codes.

        Raises:
            ModelError: there is no generator, or no inverter beside one that needs it.
        """
        missing = "generator"
        if self.generator is not None:
            if not isinstance(self.generator, stylegan2.Generator):
                return self.generator
            if self.inverter is not None:
                return WPlus(self.generator, self.inverter)
            missing = "inverter"
        raise ModelError(f"the inversion needs a network of kind {missing!r}, and none was given")


def file_digest(path: str | Path) -> str:
    """Return ``"sha256:…"`` of a file's bytes."""
    return "sha256:" + file_sha256(path)


def network_kind(network: nn.Module) -> Kind:
    """Return the kind under which `network` is stored.

    Raises:
        ModelError: it is not a network of viewgen.
    """
    for kind, (of_kind, _) in OF_ONE_SHAPE.items():
        if isinstance(network, of_kind):
            return cast(Kind, kind)
    if isinstance(network, Encoder | Branches):
        return "encoder"
    if registered_name(network) is not None:
        return "generator"
    raise ModelError(f"a {type(network).__name__} cannot be stored; expected one of {', '.join(KINDS)}")


def _generator_entry(header: Mapping[str, Any]) -> Entry:
    return GENERATORS.entry(header.get("generator", STYLEGAN2))


def _build(header: Mapping[str, Any]) -> nn.Module:
    """Return the network that a header describes, without its weights."""
    kind, config = header["kind"], header["config"]
    if kind == "generator":
        entry = _generator_entry(header)
        return cast(nn.Module, entry.build(entry.settings.from_record(config)))
    if kind in OF_ONE_SHAPE:
        of_kind, shape = OF_ONE_SHAPE[kind]
        return cast(nn.Module, of_kind(shape.from_record(config)))
    if "branches" in config:
        return Branches(BranchesConfig.from_record(config))
    return Encoder(EncoderConfig.from_record(config))


def _stored_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the contents of a file: the state dict and, for StyleGAN2's generator, its mean latent."""
    state = dict(network.state_dict())
    if isinstance(network, stylegan2.Generator):
        state[LATENT_AVG] = network.latent_avg
    return state


def _stored_shapes(header: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file with this header, without allocating them."""
    with torch.device("meta"):
        state = _stored_state(_build(header))
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
        network: a `Discriminator`, `Inverter`, `Encoder`, `Branches`, `Flow`, `Viewmaker` or generator of
            `GENERATORS`.
        path: the ``.safetensors`` file.
        dtype: storage type of floating-point tensors (float16 halves the file).
        notes: further JSON values for the header (data set, training command, …).

    Raises:
        ModelError: it is not a network of viewgen, it was loaded for inference, or a weight is not finite in
            the storage type.
    """
    kind = network_kind(network)
    header = {
        **(notes or {}),
        "format": FORMAT,
        "kind": kind,
        "config": cast(Any, network).config.record(),
    }
    if kind == "generator" and (name := registered_name(network)) != STYLEGAN2:
        header["generator"] = name
    if _stored_shapes(header).keys() != _stored_state(network).keys():
        raise ModelError(
            f"the {kind} is not stored: it was loaded for inference, which folds its batch normalisations; "
            "store the network that was trained, or copy its file"
        )
    state = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in _stored_state(network).items()
    }
    if broken := sorted(key for key, value in state.items() if not _is_finite(value)):
        raise ModelError(f"the {kind} is not stored: {broken[0]} holds values that are not finite as {dtype}")
    header["digest"] = _digest(header, state)
    write_atomically(path, save(state, metadata={"viewgen": json.dumps(header, sort_keys=True)}))


def _digest(header: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return ``"sha256:…"`` of a header without its digest, and of the names, shapes, types and bytes."""
    rest = {key: value for key, value in header.items() if key != "digest"}
    found = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for key, value in sorted(state.items()):
        found.update(f"\n{key} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return "sha256:" + found.hexdigest()


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
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER_BYTES:
        raise ModelError(
            f"{path} is no weights file, or damaged: its header would have {length} bytes, expected at most "
            f"{MOST_HEADER_BYTES}"
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
        header = parse_json(metadata["viewgen"], f"{path}, its viewgen header,")
    except CorruptDataError as error:
        raise ModelError(str(error)) from error
    if not isinstance(header, dict) or not isinstance(header.get("config"), dict):
        raise ModelError(f"{path} has a viewgen header without the network's config")
    if header.get("format") != FORMAT or header.get("kind") not in KINDS:
        raise ModelError(
            f"{path} holds format {header.get('format')!r}, kind {header.get('kind')!r}; this version reads "
            f"format {FORMAT} of {', '.join(KINDS)}"
        )
    return header


@overload
def load_model(path: str | Path, kind: Literal["generator"], device: Device = ...) -> Generator: ...
@overload
def load_model(path: str | Path, kind: Literal["discriminator"], device: Device = ...) -> Discriminator: ...
@overload
def load_model(path: str | Path, kind: Literal["inverter"], device: Device = ...) -> Inverter: ...
@overload
def load_model(path: str | Path, kind: Literal["encoder"], device: Device = ...) -> Encoder: ...
@overload
def load_model(path: str | Path, kind: Kind, device: Device = ...) -> Any: ...
def load_model(path: str | Path, kind: Kind, device: Device = "cpu") -> Any:
    """Load a network for inference: float32, evaluation mode, no parameter gradients.

    Args:
        path: file written by `save_model`.
        kind: expected kind of network.
        device: device of the result.

    Raises:
        MissingFileError: there is no such file.
        CorruptDataError: the digest in the header is not that of the file.
        ModelError: another kind, a missing or unexpected key, a wrong shape, non-finite weights, or branches
            instead of one encoder.
    """
    network = _load(path, kind, device)
    if isinstance(network, Branches):
        raise ModelError(
            f"{path} holds an encoder for each of {', '.join(network.roles)}; one for all views is needed"
        )
    return network


def load_encoder(path: str | Path, device: Device = "cpu", *, trainable: bool = False) -> Encoder | Branches:
    """Load an encoder, or the encoders of several roles; errors are those of `load_model`.

    A trainable one keeps its batch normalisations, which inference folds, and its weights have gradients.
    """
    return cast(Encoder | Branches, _load(path, "encoder", device, trainable=trainable))


def _header_of(path: str | Path, kind: Kind) -> dict[str, Any]:
    """Return the header of a file; `ModelError` if it holds another kind of network."""
    if (header := read_header(path))["kind"] != kind:
        raise ModelError(f"{path} holds a network of kind {header['kind']!r}; a {kind} is needed here")
    return header


def _load(path: str | Path, kind: Kind, device: Device, *, trainable: bool = False) -> nn.Module:
    header = _header_of(path, kind)
    state = read_state(path, header, _described(path, header, _stored_shapes))
    network = _build(header)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if isinstance(network, stylegan2.Generator):
        network.latent_avg.copy_(state.pop(LATENT_AVG))
    network.eval().load_state_dict(state, strict=True)
    if isinstance(network, Encoder | Branches | Inverter) and not trainable:
        fold_batch_norms(network)
    return channels_last(network).to(device).eval().requires_grad_(trainable)


def read_state(
    path: str | Path,
    header: Mapping[str, Any] | None = None,
    expected: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of a network file by name, as they are stored.

    Args:
        path: file written by `save_model`.
        header: the file's header, where it is known already.
        expected: name → shape of the tensors that the file must hold.

    Raises:
        MissingFileError, ModelError: as `read_header`; other tensors than expected, or non-finite ones.
        CorruptDataError: header or tensors differ from those that were written.
    """
    header = read_header(path) if header is None else header
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    _check_shapes(path, state, expected)
    if "digest" in header and header["digest"] != _digest(header, state):
        raise CorruptDataError(
            f"{path} is damaged: its sha256 digest differs from that of the weights that were written"
        )
    _refuse(path, [f"{key} holds non-finite values" for key, value in state.items() if not _is_finite(value)])
    return state


def _described(path: str | Path, header: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
    """Return the result of `read` on a header whose values are unchecked."""
    try:
        return read(header)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ModelError(f"{path}: the header does not describe a network: {error}") from error


def code_shape(path: str | Path) -> tuple[int, ...]:
    """Return the shape of the codes of the generator at `path`, without reading its weights.

    Raises:
        MissingFileError, ModelError: as `load_model`.
    """
    with torch.device("meta"):
        generator = _described(path, _header_of(path, "generator"), _build)
    return cast(Generator, generator).code_shape


def networks_beside(path: str | Path) -> frozenset[str]:
    """Return the kinds of networks that an inversion into the generator at `path` uses in addition.

    Raises:
        MissingFileError, ModelError: as `load_model`.
    """
    return _described(path, _header_of(path, "generator"), _generator_entry).needs


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _check_shapes(
    path: str | Path, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]] | None
) -> None:
    if expected is None:
        return
    problems = [f"missing {key} {expected[key]}" for key in expected.keys() - state.keys()]
    problems += [f"unexpected {key}" for key in state.keys() - expected.keys()]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, expected {expected[key]}"
        for key in state.keys() & expected.keys()
        if tuple(state[key].shape) != expected[key]
    ]
    _refuse(path, problems)


def _refuse(path: str | Path, problems: list[str]) -> None:
    """Raise a `ModelError` with the first problems, if there are any."""
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelError(f"{path} does not fit its header: {shown}{more}")


def load_models(paths: Mapping[str, str | Path], device: Device = "cpu") -> Models:
    """Load the networks named by `paths`, kind → file, onto `device`; ``encoder:2`` … are further ones."""
    loaded: dict[str, Any] = {}
    for kind, path in paths.items():
        loaded[kind] = load_model(path, cast(Kind, kind.partition(":")[0]), device)
    encoders = tuple(loaded.pop(kind) for kind in sorted(loaded) if ":" in kind)
    return Models(device=torch.device(device), further_encoders=encoders, **loaded)
