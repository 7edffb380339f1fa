"""Import of official network pickles, written here as the official project writes them.

`Writer` imitates that project's persistence: every module pickles as a call of
``torch_utils.persistence._reconstruct_persistent_obj`` on its class's name, source and attributes.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import sys
import types
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from viewgen.cli import main
from viewgen.errors import CorruptDataError, MissingFileError, ModelError, UsageError
from viewgen.networks import weights as lookup
from viewgen.networks.files import load_model, read_header
from viewgen.networks.stylegan2 import Discriminator, Generator
from viewgen_pretrained.imports.checkpoint import import_model, read_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
SOURCE = "import os\nos.system('touch {canary}')\nraise SystemExit\n"


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


@pytest.fixture(scope="module", autouse=True)
def _official_modules() -> Iterator[None]:
    """Give pickle the names that the official project's objects are pickled by."""
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("the import ran the file's reconstruction")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util = types.ModuleType("dnnlib.util")
    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    util.EasyDict = EasyDict  # type: ignore[attr-defined]
    modules = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": util,
    }
    sys.modules.update(modules)
    yield
    for name in modules:
        del sys.modules[name]


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


@pytest.fixture
def models_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIEWGEN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def weights(module: Module, prefix: str = "") -> dict[str, Tensor]:
    """Return the state dict that the official module would have."""
    found = {}
    for group in ("_parameters", "_buffers"):
        found |= {f"{prefix}{name}": value for name, value in module.attributes[group].items()}
    for name, child in module.attributes["_modules"].items():
        found |= weights(child, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_class_conditional_pickle_becomes_networks_with_its_weights(tmp_path, models_root, protocol):
    writer = Writer()
    g_ema = writer.generator(num_classes=10, clamp=256, fp16=True)
    d = writer.discriminator(num_classes=10, clamp=256, architecture="orig", group=32)
    path = write(tmp_path / "cifar10.pkl", protocol, G=writer.generator(num_classes=10), D=d, G_ema=g_ema)
    imported = import_model(path, "mine")
    generator = load_model(imported.folder / "generator.safetensors", "generator")
    discriminator = load_model(imported.folder / "discriminator.safetensors", "discriminator")
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    assert generator.config.num_classes == 10
    assert generator.config.activation_clamp == discriminator.config.activation_clamp == 256
    assert generator.config.num_mapping_layers == 2
    assert discriminator.config.architecture == "plain"
    assert discriminator.config.stddev_group == 32
    official = weights(g_ema)
    state = generator.state_dict()
    assert torch.equal(state["style.1.weight"], official["mapping.fc0.weight"])
    assert torch.equal(state["embed.weight"], official["mapping.embed.weight"])
    assert torch.equal(state["convs.1.conv.weight"][0], official["synthesis.b8.conv1.weight"])
    assert torch.equal(state["noises.noise_2"][0, 0], official["synthesis.b8.conv1.noise_const"])
    assert torch.equal(generator.latent_avg, official["mapping.w_avg"])
    assert torch.equal(discriminator.state_dict()["convs.1.conv2.1.weight"], weights(d)["b8.conv1.weight"])
    facts = imported.cards["generator"]["imported"]
    assert facts["channel_base"] == 32768
    assert facts["channel_multiplier"] == 2
    assert facts["half_precision_blocks"] == ["synthesis.b8"]


def test_official_outputs_survive_the_import(tmp_path, models_root):
    """The golden outputs of the official class-conditional network, after pickle, import and safetensors."""
    golden = load_file(GOLDEN / "stylegan2.safetensors")
    shapes = json.loads((GOLDEN / "stylegan2_keys.json").read_text())["ada_cifar10.G_ema"]
    writer = Writer()
    tree: dict[str, Any] = {}
    for key, shape in shapes.items():
        *parents, leaf = key.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        random = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        value = torch.randn(shape, generator=random)
        if key.startswith("mapping.fc") and leaf == "weight":
            value = 100 * value
        elif key.endswith("affine.bias"):
            value = 1 + 0.1 * value
        elif leaf in ("noise_strength", "bias", "w_avg"):
            value = 0.1 * value
        elif leaf == "resample_filter":
            value = writer.filter()
        buffer = leaf in ("resample_filter", "noise_const", "w_avg")
        node[leaf] = value if buffer else torch.nn.Parameter(value, requires_grad=False)

    def module(node: dict[str, Any], **settings: Any) -> Module:
        parts = {name: module(part) if isinstance(part, dict) else part for name, part in node.items()}
        if "torgb" in parts or "noise_strength" in parts:
            settings |= {"conv_clamp": 256}
        return writer.module("Generator", **parts, **settings)

    g_ema = module(tree, z_dim=512, w_dim=512, c_dim=10, img_resolution=32, img_channels=3)
    for part in g_ema.attributes["_modules"]["synthesis"].attributes["_modules"].values():
        part.attributes["_modules"]["torgb"].attributes["conv_clamp"] = 256
    folder = import_model(write(tmp_path / "g.pkl", G_ema=g_ema), "golden").folder
    generator = load_model(folder / "generator.safetensors", "generator")
    with torch.no_grad():
        w = generator.mapping(golden["ada.z"], golden["ada.c"])
        image = generator.synthesis(golden["ada.w_plus"])
    # float32 rounding of another machine through about twenty layers
    torch.testing.assert_close(w, golden["ada.w"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(image, golden["ada.image_from_w_plus"], rtol=1e-3, atol=1e-2)


def test_an_unconditional_pickle_without_a_discriminator(tmp_path, models_root):
    result = import_model(write(tmp_path / "g.pkl", G_ema=Writer().generator(channel_base=16384)), "plain")
    assert set(result.cards) == {"generator"}
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "generator.card.json",
        "generator.safetensors",
    ]
    header = read_header(result.folder / "generator.safetensors")
    assert header["imported"]["file"] == "g.pkl"
    assert header["config"]["num_classes"] == 0
    assert result.cards["generator"]["imported"]["channel_base"] == 16384


@pytest.mark.parametrize("base", [8192, 65536, 32768.5, "32768"])
def test_another_channel_base_is_refused_by_its_name(tmp_path, base):
    g_ema = Writer().generator()
    g_ema.attributes["_modules"]["synthesis"].attributes["_init_kwargs"]["channel_base"] = base
    path = write(tmp_path / "g.pkl", G_ema=g_ema)
    with pytest.raises(ModelError, match=f"channel_base is {base}; known are 32768"):
        read_checkpoint(path)


def test_channels_of_no_base_are_refused_where_the_file_names_none(tmp_path):
    """1024-px nets of base 8192 have 8 channels at 1024 px; here 4 px with 2 channels stands for them."""
    writer = Writer()
    g_ema = writer.generator(size=16, channel_base=64, channel_max=16)
    g_ema.attributes["_modules"]["synthesis"].attributes["_init_kwargs"] = {}
    with pytest.raises(ModelError, match=r"channels \(16, 8, 4\) at 4, 8, … px are of no channel_base"):
        read_checkpoint(write(tmp_path / "g.pkl", G_ema=g_ema))


def alter(module: Module, path: str, name: str, value: Any) -> None:
    for step in path.split(".") if path else ():
        module = module.attributes["_modules"][step]
    for group in ("_parameters", "_buffers"):
        if name in module.attributes[group]:
            module.attributes[group][name] = value
            return
    module.attributes[name] = value


@pytest.mark.parametrize(
    ("path", "name", "value", "message"),
    [
        ("synthesis.b8", "architecture", "resnet", "synthesis.b8 has architecture 'resnet'; known is 'skip'"),
        ("synthesis.b8.conv1", "activation", "relu", "activation 'relu'"),
        ("synthesis.b8.conv1", "use_noise", False, "use_noise 'False'"),
        ("synthesis.b8.conv1", "conv_clamp", 7, "conv_clamp None and 7"),
        ("mapping.fc0", "bias_gain", 0.1, "mapping.fc0 has bias_gain '0.1'; known is 0.01"),
        ("", "img_channels", 1, "images have 1 channels"),
        ("", "img_resolution", 12, "img_resolution is 12"),
        ("", "img_resolution", 1 << 40, "known are powers of two from 8 to 1024"),
        ("", "z_dim", 8, "z_dim 8 is not its w_dim 16"),
        ("", "c_dim", -1, "c_dim is -1"),
        ("", "c_dim", 3, "missing embed.weight"),
        ("synthesis.b8.conv1", "resample_filter", torch.ones(4, 4), "is not the filter"),
        ("synthesis.b8.conv1", "weight", torch.ones(8, 9, 3, 3), "has shape (1, 8, 9, 3, 3), expected"),
        ("mapping", "w_avg", torch.ones(3), "w_avg has shape (3,)"),
        ("mapping", "_modules", None, "mapping has no _modules"),
        ("synthesis.b8.conv1", "weight", torch.full((8, 8, 3, 3), torch.nan), "not finite"),
    ],
)  # fmt: skip
def test_what_our_networks_cannot_represent_is_refused_with_the_reason(
    tmp_path, models_root, path, name, value, message
):
    g_ema = Writer().generator()
    alter(g_ema, path, name, value)
    file = write(tmp_path / "g.pkl", G_ema=g_ema)
    with pytest.raises(ModelError) as error:
        import_model(file, "refused")
    assert message in str(error.value)
    assert not (models_root / "refused").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "skip"}, "has architecture 'skip'; known is 'resnet' or 'orig'"),
        ({"group": None}, "mbstd_group_size is None"),
        ({"channel_base": 8192}, "channel_base is 8192"),
    ],
)
def test_discriminators_that_ours_cannot_represent(tmp_path, settings, message):
    writer = Writer()
    document = {"G_ema": writer.generator(), "D": writer.discriminator(**settings)}
    with pytest.raises(ModelError, match=message):
        read_checkpoint(write(tmp_path / "g.pkl", **document))


def test_other_pickles_are_no_networks(tmp_path):
    for document in ({"G": 1}, [1, 2], {"G_ema": {"a": 1}}):
        path = tmp_path / "other.pkl"
        path.write_bytes(pickle.dumps(document))
        with pytest.raises(ModelError, match="no network pickle of stylegan2-ada-pytorch"):
            read_checkpoint(path)
    stylegan3 = Writer().module("Generator", synthesis=Writer().module("SynthesisNetwork"), z_dim=512)
    with pytest.raises(ModelError, match=r"without synthesis\.b4 is no StyleGAN2 generator"):
        read_checkpoint(write(tmp_path / "3.pkl", G_ema=stylegan3))


def test_the_source_that_comes_with_the_networks_never_runs(tmp_path, models_root):
    canary = tmp_path / "canary"
    writer = Writer(source=SOURCE.format(canary=canary))
    import_model(write(tmp_path / "g.pkl", G_ema=writer.generator(), D=writer.discriminator()), "safe")
    assert not canary.exists()
    exec(compile("import os\n" + SOURCE.format(canary=canary).split("\n")[1], "source", "exec"))
    assert canary.exists(), "the canary would have sung"


class Command:
    """What runs a command when Python's own unpickler reads it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("place", ["top", "attribute", "training_set_kwargs", "weight", "class_name"])
def test_a_command_in_a_network_pickle_is_refused_and_not_run(tmp_path, place):
    canary = tmp_path / "canary"
    g_ema = Writer().generator()
    more: dict[str, Any] = {}
    if place == "top":
        more["augment"] = Command(canary)
    elif place == "training_set_kwargs":
        more["training_set_kwargs"] = {"path": Command(canary)}
    elif place == "class_name":
        g_ema.class_name = Command(canary)  # type: ignore[assignment]
    else:
        alter(g_ema, "mapping.fc0", "weight" if place == "weight" else "extra", Command(canary))
    file = tmp_path / "g.pkl"
    file.write_bytes(pickle.dumps({**more, "G_ema": g_ema}, 3))
    with pytest.raises(ModelError, match=r"it asks for '(posix|nt)\.system'"):
        read_checkpoint(file)
    assert not canary.exists()


def test_a_module_that_holds_itself_is_refused(tmp_path):
    g_ema = Writer().generator()
    fc0 = g_ema.attributes["_modules"]["mapping"].attributes["_modules"]["fc0"]
    for _ in range(50):
        fc0 = Writer().module("FullyConnectedLayer", inner=fc0)
    g_ema.attributes["_modules"]["mapping"].attributes["_modules"]["fc0"] = fc0
    with pytest.raises(ModelError, match="is not built as the official networks are"):
        read_checkpoint(write(tmp_path / "g.pkl", G_ema=g_ema))


def test_every_truncated_or_altered_pickle_is_refused_or_harmless(tmp_path):
    whole = write(tmp_path / "g.pkl", G_ema=Writer().generator(channel_max=2, w=4)).read_bytes()
    random = np.random.default_rng(0)
    file = tmp_path / "cut.pkl"
    for end in [0, 1, 2, *random.integers(3, len(whole), 60), len(whole) - 1]:
        file.write_bytes(whole[:end])
        with pytest.raises(ModelError):
            read_checkpoint(file)
    num_loaded = 0
    for _ in range(150):
        altered = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            altered[place] = random.integers(256)
        file.write_bytes(altered)
        try:
            read_checkpoint(file)
            num_loaded += 1
        except ModelError:
            pass
    assert num_loaded < 150, "the alterations met weights only"


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(words)
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_the_command_writes_networks_that_every_other_command_finds(tmp_path, models_root, capsys):
    writer = Writer()
    file = write(tmp_path / "net.pkl", G_ema=writer.generator(), D=writer.discriminator())
    words = ["models", "import", str(file), "--as", "mine", "--dataset", "cifar10", "--licence", "CC0"]
    code, out, err = run(words, capsys)
    assert (code, err) == (0, "")
    assert str(models_root / "mine" / "generator.safetensors") in out
    assert "viewgen pretrain inverter --dataset cifar10 --out" in out
    assert "viewgen cache --dataset cifar10 --models mine" in out

    code, out, _ = run(["models", "list", "--json"], capsys)
    listed = {entry["name"]: entry for entry in json.loads(out)["models"]}
    assert listed["mine/generator"]["licence"] == "CC0"
    assert listed["mine/generator"]["origin"] == "user"
    assert listed["digits/generator"]["origin"] == "viewgen"
    code, out, _ = run(["models", "list"], capsys)
    assert "mine/discriminator" in out
    code, out, _ = run(["models", "show", "mine/generator", "--json"], capsys)
    shown = json.loads(out)
    assert shown["file"] == str(models_root / "mine" / "generator.safetensors")
    assert shown["source"]["layout"] == "stylegan2-ada-pytorch"
    assert shown["dataset"] == "cifar10"

    expected = models_root / "mine" / "generator.safetensors"
    assert lookup.find_models("any", {"generator"}, models_dir="mine")["generator"] == expected
    assert lookup.find_models("any", {"generator"}, overrides={"generator": "mine"})["generator"] == expected
    assert lookup.network_file("mine/generator", "generator") == expected
    assert lookup.network_file("digits", "encoder").name == "encoder.safetensors"
    with pytest.raises(MissingFileError, match=r"no inverter\.safetensors in .*mine; make it with"):
        lookup.find_models("cifar10", {"inverter"}, models_dir="mine")
    with pytest.raises(MissingFileError, match="neither a file nor a name"):
        lookup.network_file("mine", "encoder")

    elsewhere = ["models", "import", str(file), "--as", "x", "--models-root", str(tmp_path / "runs")]
    code, out, _ = run(elsewhere, capsys)
    assert f"viewgen cache --dataset DATASET --models {tmp_path / 'runs' / 'x'}" in out
    assert (tmp_path / "runs" / "x" / "generator.safetensors").is_file()

    assert run(words, capsys)[0] == 2
    assert "give --overwrite" in run(words, capsys)[2]
    assert run([*words, "--overwrite", "--json"], capsys)[0] == 0


def test_a_data_sets_own_import_is_found_without_models(tmp_path, models_root):
    import_model(write(tmp_path / "net.pkl", G_ema=Writer().generator()), "cifar10")
    found = lookup.find_models("cifar10", {"generator"})
    assert found["generator"] == models_root / "cifar10" / "generator.safetensors"
    with pytest.raises(MissingFileError, match=r"no inverter\.safetensors in .*cifar10"):
        lookup.find_models("cifar10", {"generator", "inverter"})


@pytest.mark.parametrize("name", ["digits", "", ".", "../x", "a/b", "-x", "x" * 200])
def test_names_that_cannot_be_used(tmp_path, models_root, name):
    file = write(tmp_path / "net.pkl", G_ema=Writer().generator())
    with pytest.raises(UsageError, match="--as"):
        import_model(file, name)
    assert not models_root.exists()


def test_the_registry_recognises_a_file_by_its_sha256(tmp_path, models_root, monkeypatch):
    file = write(tmp_path / "net.pkl", G_ema=Writer().generator())
    entry = lookup.public_files()["stylegan2-ada-cifar10"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(lookup, "public_files", lambda: {"x": dataclasses.replace(entry, sha256=digest)})
    result = import_model(file, "known")
    assert result.public is not None
    assert result.cards["generator"]["licence"] == entry.licence
    assert result.cards["generator"]["dataset"]["name"] == "cifar10"
    assert result.cards["generator"]["source"]["url"] == entry.url


def test_a_damaged_card_is_named(models_root):
    folder = models_root / "broken"
    folder.mkdir(parents=True)
    for text in ("{", "[]", '{"kind": "generator"}'):
        (folder / "generator.card.json").write_text(text)
        with pytest.raises(CorruptDataError, match=r"generator\.card\.json cannot be read"):
            lookup.user_cards()


def test_a_data_set_without_weights_names_the_file_its_source_and_its_licence(models_root, tmp_path, capsys):
    words = ["cache", "--dataset", "cifar10", "--data-root", str(tmp_path), "--out", str(tmp_path / "c")]
    code, out, err = run(words, capsys)
    assert (code, out) == (1, "")
    assert "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/cifar10.pkl" in err
    assert "NVIDIA Source Code License, non-commercial" in err
    assert "sha256   f8952c74e23da2186d147ad871c48780bd59500ee37c301201081ee8e0cb32f1 (not published" in err
    assert "sha256   no digest is published" in err
    assert "viewgen models import cifar10.pkl --as cifar10" in err
    assert f"viewgen pretrain inverter --dataset cifar10 --out {models_root / 'cifar10'}" in err


def test_registry_entries_are_complete():
    for entry in lookup.public_files().values():
        assert entry.url.startswith("https://")
        assert "http" in entry.licence
        assert entry.expected
        assert entry.image_size == 32
        assert len(entry.sha256) in (0, 64)
        assert bool(entry.sha256) == bool(entry.sha256_source)
    assert not {card.dataset for card in lookup.cards().values()} & {"public"}
