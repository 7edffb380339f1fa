"""Network pickles as the official project writes them.

`Writer` imitates that project's persistence: every module pickles as a call of
``torch_utils.persistence._reconstruct_persistent_obj`` on its class's name, source and attributes.
"""

import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Module:
    """What pickles as the official project's modules do."""

    def __init__(self, class_name: str, source: str, **attributes: Any) -> None:
        self.class_name = class_name
        self.source = source
        self.attributes = {
            "training": False,
            "_parameters": OrderedDict(),
            "_buffers": OrderedDict(),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict(),
            "_init_args": (),
            "_init_kwargs": {},
            **attributes,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": self.class_name,
            "state": self.attributes,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None


class EasyDict(dict):
    """dnnlib's dictionary; its name is set below to the one that it is pickled under."""


class Writer:
    """Builds generators and discriminators of the official layout with random weights."""

    def __init__(self, seed: int = 0, source: str = "raise SystemExit\n") -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.source = source

    def parameter(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> torch.nn.Parameter:
        value = torch.randn(shape, generator=self.random) * scale + shift
        return torch.nn.Parameter(value, requires_grad=False)

    def module(self, class_name: str, **parts: Any) -> Module:
        groups: dict[str, OrderedDict[str, Any]] = {
            "_parameters": OrderedDict(),
            "_buffers": OrderedDict(),
            "_modules": OrderedDict(),
        }
        attributes = {}
        for name, part in parts.items():
            if isinstance(part, torch.nn.Parameter):
                groups["_parameters"][name] = part
            elif isinstance(part, Tensor):
                groups["_buffers"][name] = part
            elif isinstance(part, Module):
                groups["_modules"][name] = part
            else:
                attributes[name] = part
        return Module(class_name, self.source, **{**groups, **attributes})

    def filter(self) -> Tensor:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        return torch.outer(taps, taps) / 64

    def linear(
        self, wide: int, out: int, *, multiplier: float = 1, activation: str = "linear", bias: float = 0
    ):
        return self.module(
            "FullyConnectedLayer",
            weight=self.parameter(out, wide, scale=1 / multiplier),
            bias=self.parameter(out, scale=0.1, shift=bias),
            activation=activation,
            weight_gain=multiplier / np.sqrt(wide),  # a numpy scalar, as in the official file
            bias_gain=multiplier,
        )

    def mapping(self, z: int, c: int, w: int, layers: int, *, num_ws: int | None) -> Module:
        wide = z + (w if c else 0)
        parts: dict[str, Any] = {"z_dim": z, "c_dim": c, "w_dim": w, "num_ws": num_ws, "num_layers": layers}
        if c:
            parts["embed"] = self.linear(c, w)
        for index in range(layers):
            parts[f"fc{index}"] = self.linear(
                wide if index == 0 else w, w, multiplier=0.01, activation="lrelu"
            )
        if num_ws is not None:
            parts["w_avg"] = torch.randn(w, generator=self.random) * 0.1
        return self.module("MappingNetwork", **parts)

    def synthesis_layer(self, wide: int, out: int, w: int, side: int, up: int, clamp: float | None) -> Module:
        return self.module(
            "SynthesisLayer",
            affine=self.linear(w, wide, bias=1),
            weight=self.parameter(out, wide, 3, 3),
            bias=self.parameter(out, scale=0.1),
            noise_strength=torch.nn.Parameter(torch.tensor(0.1), requires_grad=False),
            noise_const=torch.randn(side, side, generator=self.random),
            resample_filter=self.filter(),
            resolution=side,
            up=up,
            use_noise=True,
            activation="lrelu",
            conv_clamp=clamp,
            padding=1,
            act_gain=np.sqrt(2),
        )

    def generator(
        self,
        *,
        size: int = 8,
        w: int = 16,
        num_classes: int = 0,
        layers: int = 2,
        channel_base: int = 32768,
        channel_max: int = 8,
        clamp: float | None = None,
        fp16: bool = False,
        architecture: str = "skip",
    ) -> Module:
        blocks: dict[str, Any] = {}
        sides = [2**k for k in range(2, size.bit_length())]
        channels = {side: min(channel_base // side, channel_max) for side in sides}
        for side in sides:
            out = channels[side]
            parts: dict[str, Any] = {
                "resample_filter": self.filter(),
                "architecture": architecture,
                "use_fp16": fp16 and side >= 8,
                "resolution": side,
            }
            if side == 4:
                parts["const"] = self.parameter(out, 4, 4)
            else:
                parts["conv0"] = self.synthesis_layer(channels[side // 2], out, w, side, 2, clamp)
            parts["conv1"] = self.synthesis_layer(out, out, w, side, 1, clamp)
            parts["torgb"] = self.module(
                "ToRGBLayer",
                affine=self.linear(w, out, bias=1),
                weight=self.parameter(3, out, 1, 1),
                bias=self.parameter(3, scale=0.1),
                conv_clamp=clamp,
                weight_gain=1 / np.sqrt(out),
            )
            blocks[f"b{side}"] = self.module("SynthesisBlock", **parts)
        synthesis = self.module(
            "SynthesisNetwork",
            **blocks,
            w_dim=w,
            img_resolution=size,
            block_resolutions=sides,
            _init_kwargs={"channel_base": channel_base, "channel_max": channel_max, "conv_clamp": clamp},
        )
        mapping = self.mapping(w, num_classes, w, layers, num_ws=2 * len(sides))
        return self.module(
            "Generator", z_dim=w, c_dim=num_classes, w_dim=w, img_resolution=size, img_channels=3,
            num_ws=2 * len(sides), synthesis=synthesis, mapping=mapping,
            _init_kwargs={"synthesis_kwargs": EasyDict(channel_base=channel_base)},
        )  # fmt: skip

    def conv(self, wide: int, out: int, kernel: int, *, clamp: float | None, bias: bool = True) -> Module:
        parts: dict[str, Any] = {"weight": self.parameter(out, wide, kernel, kernel)}
        if bias:
            parts["bias"] = self.parameter(out, scale=0.1)
        return self.module(
            "Conv2dLayer",
            **parts,
            resample_filter=self.filter(),
            activation="lrelu" if bias else "linear",
            conv_clamp=clamp if bias else None,
        )

    def discriminator(
        self,
        *,
        size: int = 8,
        num_classes: int = 0,
        channel_base: int = 32768,
        channel_max: int = 8,
        clamp: float | None = None,
        architecture: str = "resnet",
        group: int | None = 4,
    ) -> Module:
        blocks: dict[str, Any] = {}
        side = size
        channels = {4: channel_max} | {
            2**k: min(channel_base // 2**k, channel_max) for k in range(2, size.bit_length())
        }
        while side > 4:
            wide = channels[side]
            parts: dict[str, Any] = {"architecture": architecture, "resample_filter": self.filter()}
            if side == size:
                parts["fromrgb"] = self.conv(3, wide, 1, clamp=clamp)
            parts["conv0"] = self.conv(wide, wide, 3, clamp=clamp)
            parts["conv1"] = self.conv(wide, channels[side // 2], 3, clamp=clamp)
            if architecture == "resnet":
                parts["skip"] = self.conv(wide, channels[side // 2], 1, clamp=clamp, bias=False)
            blocks[f"b{side}"] = self.module("DiscriminatorBlock", **parts)
            side //= 2
        width = channels[4]
        parts = {
            "mbstd": self.module("MinibatchStdLayer", group_size=group, num_channels=1),
            "conv": self.conv(width + 1, width, 3, clamp=clamp),
            "fc": self.linear(width * 16, width, activation="lrelu"),
            "out": self.linear(width, width if num_classes else 1),
        }
        blocks["b4"] = self.module("DiscriminatorEpilogue", **parts, architecture=architecture)
        if num_classes:
            blocks["mapping"] = self.mapping(0, num_classes, width, 8, num_ws=None)
        return self.module(
            "Discriminator", **blocks, c_dim=num_classes, img_resolution=size, img_channels=3,
            _init_kwargs={"channel_base": channel_base, "channel_max": channel_max},
        )  # fmt: skip


def write(path: Path, protocol: int = 3, **networks: Any) -> Path:
    document = {"training_set_kwargs": {"path": "/data/cifar10.zip"}, **networks, "augment_pipe": None}
    path.write_bytes(pickle.dumps(document, protocol))
    return path


def weights(module: Module, prefix: str = "") -> dict[str, Tensor]:
    """Return the state dict that the official module would have."""
    found = {}
    for group in ("_parameters", "_buffers"):
        found |= {f"{prefix}{name}": value for name, value in module.attributes[group].items()}
    for name, child in module.attributes["_modules"].items():
        found |= weights(child, f"{prefix}{name}.")
    return found
