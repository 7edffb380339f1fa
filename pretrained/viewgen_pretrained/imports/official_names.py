"""State dicts of the official networks (stylegan2-ada-pytorch naming) in the layout used here.

The two name the same tensors differently; only shapes of length-one axes change, no kernel is flipped.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from viewgen.errors import ModelError

__all__ = ["convert_discriminator", "convert_generator"]

State = dict[str, Tensor]

_SYNTHESIS = re.compile(r"synthesis\.b(\d+)\.(const|conv0|conv1|torgb)(?:\.(.+))?")
_MAPPING = re.compile(r"mapping\.fc(\d+)\.(weight|bias)")


def convert_generator(official: Mapping[str, Tensor]) -> tuple[State, Tensor]:
    """Rename an official generator's state dict.

    Args:
        official: ``G_ema.state_dict()``.

    Returns:
        the state dict for `Generator` (without the derived kernels, which are constructed), and the mean
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


_DISCRIMINATOR_BLOCK = re.compile(r"b(\d+)\.(fromrgb|conv0|conv1|skip)\.(weight|bias)")


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
