"""Import of official network pickles: weights, outputs, and what is refused."""

import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_pickles import Module, Writer, weights, write
from safetensors.torch import load_file

from viewgen.errors import ModelError
from viewgen.networks.files import load_model, read_header
from viewgen.networks.stylegan2 import Discriminator, Generator
from viewgen_pretrained.imports.checkpoint import import_model, read_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
SOURCE = "import os\nos.system('touch {canary}')\nraise SystemExit\n"


pytestmark = pytest.mark.usefixtures("_official_modules")


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
