"""Conversion of network pickles of the official stylegan2-ada-pytorch to generator and discriminator.

A pickle holds ``G``, ``D`` and ``G_ema`` as objects whose parameters, buffers and settings are attributes.
An error names a feature that the networks here do not support. The conversion renames tensors and changes
only axes of length one; no kernel is flipped.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.networks.stylegan2.discriminator import Discriminator, DiscriminatorConfig
from viewgen.networks.stylegan2.generator import Generator, GeneratorConfig
from viewgen.networks.stylegan2.layers import resample_kernel
from viewgen_pretrained.imports.imported import Imported, filled
from viewgen_pretrained.imports.tensor_records import Persistent, TensorRecord

__all__ = ["convert_discriminator", "convert_generator", "read_official"]

State = dict[str, Tensor]

MAX_DEPTH = 8
_SYNTHESIS = re.compile(r"synthesis\.b(\d+)\.(const|conv0|conv1|torgb)(?:\.(.+))?")
_MAPPING = re.compile(r"mapping\.fc(\d+)\.(weight|bias)")
_DISCRIMINATOR_BLOCK = re.compile(r"b(\d+)\.(fromrgb|conv0|conv1|skip)\.(weight|bias)")
# the official channel bases and what the public PyTorch networks call them
CHANNEL_MULTIPLIERS = {32768: 2, 16384: 1}


def read_official(document: Any, path: str | Path) -> Imported:
    """Build the networks of a network pickle.

    Args:
        document: result of `viewgen_pretrained.imports.restricted_pickle.read_pickle`.
        path: path of the file, for messages.

    Raises:
        ModelError: the document is not such a pickle, or a network has an unsupported feature.
    """
    if not isinstance(document, dict) or not isinstance(document.get("G_ema"), Persistent):
        held = (
            ", ".join(map(repr, list(document)[:8]))
            if isinstance(document, dict)
            else type(document).__name__
        )
        raise ModelError(
            f"{path} is no network pickle of stylegan2-ada-pytorch: no 'G_ema' in it (it holds "
            f"{held[:300]}). Pickles of the TensorFlow version have to be converted with that project's "
            "legacy.py first"
        )
    generator, facts = _generator(document["G_ema"], f"{path}: G_ema")
    discriminator = None
    if isinstance(document.get("D"), Persistent):
        discriminator = _discriminator(document["D"], f"{path}: D")
    return Imported(
        layout="stylegan2-ada-pytorch", generator=generator, discriminator=discriminator, facts=facts
    )


def _modules(module: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Persistent]]:
    if not isinstance(module, Persistent) or depth > MAX_DEPTH:
        raise ModelError(f"{name or 'the network'} is not built as the official networks are")
    yield name, module
    children = module.state.get("_modules")
    if not isinstance(children, dict):
        raise ModelError(f"{name or 'the network'} has no _modules")
    for key, child in children.items():
        if child is not None:
            yield from _modules(child, f"{name}.{key}" if name else str(key), depth + 1)


class _Network:
    """Tensors and settings from the records of one network."""

    def __init__(self, module: Persistent, title: str) -> None:
        self.title = title
        self.modules = dict(_modules(module))
        self.tensors: dict[str, Tensor] = {}
        for name, part in self.modules.items():
            for group in ("_parameters", "_buffers"):
                entries = part.state.get(group)
                for key, value in (entries if isinstance(entries, dict) else {}).items():
                    if isinstance(value, TensorRecord):
                        self.tensors[f"{name}.{key}" if name else str(key)] = value.tensor()
        self._expect_filter()

    def refuse(self, what: str) -> ModelError:
        return ModelError(f"{self.title} cannot be imported: {what}")

    def setting(self, module: str, name: str, default: Any = None) -> Any:
        """Return an attribute of a module, or `default` if it is missing."""
        part = self.modules.get(module)
        return default if part is None else part.state.get(name, default)

    def expect(self, name: str, *allowed: Any, within: str) -> Any:
        """Return the common value of an attribute over the modules whose names match `within`.

        Raises:
            ModelError: the values differ, or the value is not in `allowed`.
        """
        found = {
            module: part.state[name]
            for module, part in self.modules.items()
            if name in part.state and re.fullmatch(within, module)
        }
        first = next(iter(found.values()), None)
        for module, value in found.items():
            if allowed and value not in allowed:
                choice = " or ".join(map(repr, allowed))
                raise self.refuse(f"{module} has {name} {str(value)[:100]!r}; known is {choice}")
            if value != first:
                raise self.refuse(f"its parts have {name} {first!r} and {value!r}; expected one value")
        return first

    def _expect_filter(self) -> None:
        wanted = resample_kernel()
        for name, tensor in self.tensors.items():
            if name.endswith("resample_filter") and (
                tensor.shape != wanted.shape or not torch.allclose(tensor.float(), wanted, atol=1e-6)
            ):
                raise self.refuse(f"{name} is not the filter [1, 3, 3, 1]")

    def width(self, name: str) -> int:
        """Return the number of output channels of a weight."""
        weight = self.tensors.get(name)
        if weight is None or not weight.ndim:
            raise self.refuse(f"there is no {name}")
        return weight.shape[0]

    def channel_base(self, module: str, channels: tuple[int, ...]) -> int:
        """Return the channel base, from the network's settings or inferred from its channels."""
        settings = self.setting(module, "_init_kwargs")
        settings = settings if isinstance(settings, dict) else {}
        widest, named = settings.get("channel_max"), settings.get("channel_base")
        widest = widest if isinstance(widest, int) else max(channels)
        if named is not None and (type(named) is not int or named not in CHANNEL_MULTIPLIERS):
            raise self.refuse(
                f"its channel_base is {str(named)[:100]}; known are {_named(CHANNEL_MULTIPLIERS)}"
            )
        for base in CHANNEL_MULTIPLIERS if named is None else (named,):
            if channels == tuple(min(base // (4 << level), widest) for level in range(len(channels))):
                return base
        raise self.refuse(
            f"its channels {channels} at 4, 8, … px are of no channel_base among "
            + _named(CHANNEL_MULTIPLIERS)
        )


def _named(values: Mapping[int, int]) -> str:
    return " and ".join(f"{base} (multiplier {multiplier})" for base, multiplier in values.items())


def _whole(network: _Network, name: str) -> int:
    value = network.setting("", name)
    if type(value) is not int or value < 0:
        raise network.refuse(f"its {name} is {value!r}; expected a whole number")
    return value


def _image_size(network: _Network) -> int:
    size = _whole(network, "img_resolution")
    if size not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise network.refuse(f"its img_resolution is {size}; known are powers of two from 8 to 1024")
    if _whole(network, "img_channels") != 3:
        raise network.refuse(f"its images have {network.setting('', 'img_channels')} channels; expected 3")
    return size


def _num_mapping_layers(network: _Network) -> int:
    network.expect("bias_gain", 0.01, within=r"mapping\.fc\d+")
    network.expect("activation", "lrelu", within=r"mapping\.fc\d+")
    network.expect("bias_gain", 1, within=r"mapping\.embed")
    return sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in network.tensors)


def _sizes(image_size: int) -> list[int]:
    return [2**level for level in range(2, image_size.bit_length())]


def _clamp(network: _Network, within: str) -> float | None:
    clamp = network.expect("conv_clamp", within=within)
    if clamp is not None and not isinstance(clamp, int | float):
        raise network.refuse(f"its conv_clamp is a {type(clamp).__name__}; expected a number")
    return None if clamp is None else float(clamp)


def _generator(module: Persistent, title: str) -> tuple[Generator, dict[str, Any]]:
    network = _Network(module, title)
    if module.class_name != "Generator" or "synthesis.b4" not in network.modules:
        raise network.refuse(f"{module.class_name[:100]!r} without synthesis.b4 is no StyleGAN2 generator")
    size, style_dim = _image_size(network), _whole(network, "w_dim")
    if _whole(network, "z_dim") != style_dim:
        raise network.refuse(f"its z_dim {network.setting('', 'z_dim')} is not its w_dim {style_dim}")
    network.expect("architecture", "skip", within=r"synthesis\.b\d+")
    network.expect("activation", "lrelu", within=r"synthesis\.b\d+\.conv\d")
    network.expect("use_noise", True, within=r"synthesis\.b\d+\.conv\d")
    channels = tuple(network.width(f"synthesis.b{side}.conv1.weight") for side in _sizes(size))
    base = network.channel_base("synthesis", channels)
    config = GeneratorConfig(
        image_size=size,
        channels=channels,
        num_mapping_layers=_num_mapping_layers(network),
        style_dim=style_dim,
        num_classes=_whole(network, "c_dim"),
        activation_clamp=_clamp(network, r"synthesis\.b\d+\.(conv\d|torgb)"),
    )
    state, latent_avg = convert_generator(network.tensors)
    generator: Generator = filled(Generator, config, state, title)
    if latent_avg.shape != generator.latent_avg.shape:
        raise network.refuse(f"its w_avg has shape {tuple(latent_avg.shape)}; expected ({style_dim},)")
    generator.latent_avg.copy_(latent_avg)
    return generator, {
        "channel_base": base,
        "channel_multiplier": CHANNEL_MULTIPLIERS[base],
        "half_precision_blocks": [
            name for name, part in network.modules.items() if part.state.get("use_fp16") is True
        ],
        "latent_avg": "mapping.w_avg of the file",
        "noise": "noise_const of the file",
    }


def _discriminator(module: Persistent, title: str) -> Discriminator:
    network = _Network(module, title)
    if module.class_name != "Discriminator" or "b4" not in network.modules:
        raise network.refuse(f"{module.class_name[:100]!r} without b4 is no StyleGAN2 discriminator")
    size, num_classes = _image_size(network), _whole(network, "c_dim")
    architecture = network.expect("architecture", "resnet", "orig", within=r"b\d+")
    network.expect("activation", "lrelu", within=r"b\d+\.(fromrgb|conv\d?|fc)")
    if network.setting("b4.mbstd", "num_channels", 0) != 1:
        raise network.refuse("its minibatch standard deviation has not one channel")
    group = network.setting("b4.mbstd", "group_size")
    if type(group) is not int or group < 1:
        raise network.refuse(f"its mbstd_group_size is {str(group)[:100]}; expected a number of samples")
    # 4 px has the epilogue alone
    wide = [network.width(f"b{side}.conv0.weight") for side in _sizes(size)[1:]]
    channels = (network.width("b4.conv.weight"), *wide)
    network.channel_base("", channels)
    config = DiscriminatorConfig(
        image_size=size,
        channels=channels,
        architecture="plain" if architecture == "orig" else "residual",
        num_classes=num_classes,
        num_mapping_layers=_num_mapping_layers(network) if num_classes else 8,
        activation_clamp=_clamp(network, r"b\d+\.(fromrgb|conv\d?)"),
        stddev_group=group,
    )
    discriminator: Discriminator = filled(
        Discriminator, config, convert_discriminator(network.tensors), title
    )
    return discriminator


def convert_generator(official: Mapping[str, Tensor]) -> tuple[State, Tensor]:
    """Rename an official generator's state dict.

    Args:
        official: state dict of the official generator, ``G_ema.state_dict()``.

    Returns:
        state dict for `Generator` (without the kernels, which are constants of the class), and the mean
        latent, `(512,)`.

    Raises:
        ModelError: a name is not one of the official generator's.
    """
    state: State = {}
    latent_avg: Tensor | None = None
    for name, tensor in official.items():
        if name.endswith("resample_filter"):
            continue
        if name == "mapping.w_avg":
            latent_avg = tensor
        elif match := _MAPPING.fullmatch(name):
            state[f"style.{int(match[1]) + 1}.{match[2]}"] = tensor
        elif name.startswith("mapping.embed."):
            state[name.removeprefix("mapping.")] = tensor
        elif match := _SYNTHESIS.fullmatch(name):
            target, value = _synthesis_entry(int(match[1]), match[2], match[3], tensor)
            state[target] = value
        else:
            raise ModelError(f"{name!r} is not a tensor of an official StyleGAN2 generator")
    if latent_avg is None:
        raise ModelError("the generator has no mapping.w_avg: it is not an official G_ema")
    return state, latent_avg


def _synthesis_entry(size: int, layer: str, rest: str | None, tensor: Tensor) -> tuple[str, Tensor]:
    level = size.bit_length() - 3  # 4 px is level 0
    if layer == "const":
        return "input.input", tensor[None]
    if layer == "torgb":
        prefix = "to_rgb1" if level == 0 else f"to_rgbs.{level - 1}"
    elif level == 0:
        prefix = "conv1"
    else:
        prefix = f"convs.{2 * (level - 1) + int(layer[-1])}"
    if rest == "weight":
        return f"{prefix}.conv.weight", tensor[None]
    if rest == "bias" and layer == "torgb":
        return f"{prefix}.bias", tensor.reshape(1, 3, 1, 1)
    if rest == "bias":
        return f"{prefix}.activate.bias", tensor
    if rest in ("affine.weight", "affine.bias"):
        return f"{prefix}.conv.modulation.{rest.removeprefix('affine.')}", tensor
    if rest == "noise_strength":
        return f"{prefix}.noise.weight", tensor.reshape(1)
    if rest == "noise_const":
        index = 0 if level == 0 else 2 * (level - 1) + 1 + int(layer[-1])
        return f"noises.noise_{index}", tensor[None, None]
    raise ModelError(f"synthesis.b{size}.{layer}.{rest} is not a tensor of an official StyleGAN2 generator")


def convert_discriminator(official: Mapping[str, Tensor]) -> State:
    """Rename an official discriminator's state dict (``D.state_dict()``) for `Discriminator`.

    Raises:
        ModelError: a name is not one of the official discriminator's.
    """
    sizes = [int(match[1]) for name in official if (match := _DISCRIMINATOR_BLOCK.fullmatch(name))]
    if not sizes:
        raise ModelError("no b{size}.conv0 tensors: this is not an official StyleGAN2 discriminator")
    largest = max(sizes)
    state: State = {}
    for name, tensor in official.items():
        if name.endswith("resample_filter"):
            continue
        if match := _MAPPING.fullmatch(name):
            state[f"style.{match[1]}.{match[2]}"] = tensor
        elif name.startswith("mapping.embed."):
            state[name.removeprefix("mapping.")] = tensor
        elif match := _DISCRIMINATOR_BLOCK.fullmatch(name):
            size, layer, kind = int(match[1]), match[2], match[3]
            block = largest.bit_length() - size.bit_length() + 1
            prefix, index = {
                "fromrgb": ("convs.0", 0),
                "conv0": (f"convs.{block}.conv1", 0),
                "conv1": (f"convs.{block}.conv2", 1),
                "skip": (f"convs.{block}.skip", 1),
            }[layer]
            state[f"{prefix}.{index if kind == 'weight' else index + 1}.{kind}"] = tensor
        elif name in ("b4.conv.weight", "b4.conv.bias"):
            state[f"final_conv.{0 if name.endswith('weight') else 1}.{name.rsplit('.', 1)[1]}"] = tensor
        elif name in ("b4.fc.weight", "b4.fc.bias", "b4.out.weight", "b4.out.bias"):
            index = 0 if ".fc." in name else 1
            state[f"final_linear.{index}.{name.rsplit('.', 1)[1]}"] = tensor
        else:
            raise ModelError(f"{name!r} is not a tensor of an official StyleGAN2 discriminator")
    return state
