"""Import of checkpoints of the public PyTorch StyleGAN2, written here as its training and converter do."""

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from viewgen.errors import MissingFileError, ModelError
from viewgen.networks.files import load_model
from viewgen.networks.layout import channels_last
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from viewgen_pretrained.imports.checkpoint import import_model, read_checkpoint

ARGUMENTS = argparse.Namespace(size=16, channel_multiplier=2, latent=16, n_mlp=3, path="/data", ckpt=None)


@pytest.fixture(autouse=True)
def models_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIEWGEN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Discriminator]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = Generator(
            GeneratorConfig(image_size=16, channels=(8, 6, 4), num_mapping_layers=3, style_dim=16)
        )
        discriminator = Discriminator(DiscriminatorConfig(image_size=16, channels=(8, 6, 4)))
    return generator.eval(), discriminator.eval()


@pytest.fixture
def checkpoint(networks) -> dict[str, Any]:
    """What the public training saves."""
    generator, discriminator = networks
    return {
        "g": generator.state_dict(),
        "d": discriminator.state_dict(),
        "g_ema": generator.state_dict(),
        "g_optim": {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.002}]},
        "d_optim": {"state": {}, "param_groups": []},
        "args": ARGUMENTS,
        "ada_aug_p": 0.1,
    }


def outputs(generator: Any, discriminator: Any) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    z, x = torch.randn(3, 16, generator=random), torch.randn(3, 3, 16, 16, generator=random)
    with torch.no_grad():
        return [generator(z), discriminator(x)]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_a_training_checkpoint(tmp_path, networks, checkpoint, zipped, half):
    if half:
        checkpoint["g_ema"] = OrderedDict((key, value.half()) for key, value in checkpoint["g_ema"].items())
    path = tmp_path / "550000.pt"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    result = import_model(path, "faces")
    loaded = [
        load_model(result.folder / f"{kind}.safetensors", kind) for kind in ("generator", "discriminator")
    ]
    for found, expected in zip(outputs(*loaded), outputs(*map(channels_last, networks)), strict=True):
        # half precision keeps 11 bits of a weight
        torch.testing.assert_close(found, expected, atol=0.05 if half else 0, rtol=0)
    facts = result.cards["generator"]["imported"]
    assert facts["arguments"] == {"size": 16, "channel_multiplier": 2, "latent": 16, "n_mlp": 3}
    assert facts["latent_avg"] == "mean of 10,000 codes: the file has none"
    generator = loaded[0]
    torch.testing.assert_close(generator.latent_avg, generator.mean_latent(), atol=1e-6, rtol=0)
    assert generator.latent_avg.abs().max() > 0


@pytest.mark.parametrize("shape", [(16,), (1, 16)])
def test_a_converted_checkpoint_with_its_mean_latent_and_without_arguments(tmp_path, networks, shape):
    path = tmp_path / "stylegan2.pt"
    latent_avg = torch.arange(16.0)
    torch.save({"g_ema": networks[0].state_dict(), "latent_avg": latent_avg.reshape(shape)}, path)
    result = import_model(path, "converted")
    assert set(result.cards) == {"generator"}
    assert result.cards["generator"]["imported"]["latent_avg"] == "latent_avg of the file"
    assert "arguments" not in result.cards["generator"]["imported"]
    loaded = load_model(result.folder / "generator.safetensors", "generator")
    assert torch.equal(loaded.latent_avg, latent_avg)


def test_a_checkpoint_from_before_the_noise_images_were_stored(tmp_path, checkpoint):
    for key in [key for key in checkpoint["g_ema"] if key.startswith("noises.")]:
        del checkpoint["g_ema"][key]
    path = tmp_path / "old.pt"
    torch.save(checkpoint, path)
    first, second = read_checkpoint(path), read_checkpoint(path)
    assert first.facts["noise"] == "drawn from a fixed seed: the file has none"
    noise = first.generator.state_dict()["noises.noise_4"]
    assert noise.shape == (1, 1, 16, 16)
    assert noise.std() > 0.5
    assert torch.equal(noise, second.generator.state_dict()["noises.noise_4"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("g_ema"), "no state dict 'g_ema'"),
        (lambda c: c.update(g_ema=[1]), "no state dict 'g_ema'"),
        (lambda c: c["g_ema"].clear(), "has 0 blocks above 4 px"),
        (lambda c: c["g_ema"].pop("conv1.conv.weight"), r"has no conv1\.conv\.weight with 5 axes"),
        (lambda c: c["g_ema"].pop("style.2.weight"), r"style\.3\.weight"),
        (lambda c: c["g_ema"].pop("convs.0.noise.weight"), r"missing convs\.0\.noise\.weight \(1,\)"),
        (lambda c: c["g_ema"].update(extra=torch.zeros(1)), "unknown extra"),
        (lambda c: c["g_ema"].update({"to_rgb1.bias": torch.zeros(3)}), r"to_rgb1\.bias has shape \(3,\)"),
        (lambda c: c["g_ema"].update({"convs.0.conv.blur.kernel": torch.ones(4, 4)}), "is not the filter"),
        (
            lambda c: c["g_ema"].update({f"to_rgbs.{i}.bias": torch.zeros(1) for i in range(40)}),
            "has 40 blocks",
        ),
        (lambda c: c["d"].pop("final_conv.0.weight"), r"d does not fill .*missing final_conv\.0\.weight"),
        (lambda c: c.update(latent_avg=torch.zeros(18, 16)), r"latent_avg has shape \(18, 16\)"),
        (lambda c: c["g_ema"].update({"to_rgb1.bias": torch.full((1, 3, 1, 1), torch.inf)}), "not finite"),
    ],
)
def test_other_checkpoints_are_refused_with_the_reason(tmp_path, checkpoint, models_root, change, message):
    checkpoint["g_ema"] = OrderedDict(checkpoint["g_ema"])
    change(checkpoint)
    path = tmp_path / "x.pt"
    torch.save(checkpoint, path)
    with pytest.raises(ModelError, match=message):
        import_model(path, "refused")
    assert not (models_root / "refused").exists()


class Command:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["args", "g_ema", "optimiser"])
def test_a_command_in_a_checkpoint_is_refused_and_not_run(tmp_path, checkpoint, zipped, place):
    canary = tmp_path / "canary"
    if place == "args":
        checkpoint["args"] = argparse.Namespace(size=Command(canary))
    elif place == "g_ema":
        checkpoint["g_ema"] = OrderedDict(checkpoint["g_ema"], extra=Command(canary))
    else:
        checkpoint["g_optim"]["state"][0]["step"] = Command(canary)
    path = tmp_path / "x.pt"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"cannot be imported: it asks for .(posix|nt)\.system"):
        read_checkpoint(path)
    assert not canary.exists()


def rewritten(path: Path, change: Any, **options: Any) -> None:
    """Write an archive again, its entries changed by `change(name, data)`."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)


def test_archives_that_lie_about_sizes_or_lack_tensors_are_refused(tmp_path, checkpoint):
    path = tmp_path / "x.pt"

    def refused(change: Any, message: str, **options: Any) -> None:
        torch.save({"g_ema": checkpoint["g_ema"]}, path)
        rewritten(path, change, **options)
        with pytest.raises(ModelError, match=message):
            read_checkpoint(path)

    refused(lambda name, data: data, "uncompressed", compression=zipfile.ZIP_DEFLATED)
    refused(lambda name, data: None if name.endswith("/data/3") else data, "missing from the archive")
    refused(lambda name, data: data[:-4] if name.endswith("/data/3") else data, "not as many")
    refused(lambda name, data: None if name.endswith("data.pkl") else data, r"not one data\.pkl")
    refused(lambda name, data: b"big" if name.endswith("byteorder") else data, "big-endian")

    def huge(name: str, data: bytes) -> bytes:
        """Describe the tensors of 16 values as having 2.5 billion."""
        many = pickle.LONG1 + b"\x05" + (2_500_000_000).to_bytes(5, "little")
        changed = data.replace(b"K\x10tq", many + b"tq")
        assert (changed != data) == name.endswith("data.pkl")
        return changed

    refused(huge, "2,500,000,000 values, 10,000,000,000 bytes; there are")


def test_truncated_and_altered_archives(tmp_path, checkpoint):
    path = tmp_path / "x.pt"
    torch.save({"g_ema": checkpoint["g_ema"]}, path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for end in [0, 1, *random.integers(2, len(whole), 40)]:
        path.write_bytes(whole[:end])
        with pytest.raises(ModelError):
            read_checkpoint(path)
    num_loaded = 0
    for _ in range(60):
        altered = bytearray(whole)
        altered[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(altered)
        try:
            read_checkpoint(path)
            num_loaded += 1
        except ModelError:
            pass
    assert num_loaded < 20, "a checksum tells an altered entry"


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(MissingFileError):
        read_checkpoint(tmp_path / "nothing.pt")
    path = tmp_path / "text.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "nothing")
    with pytest.raises(ModelError, match=r"no archive of torch\.save"):
        read_checkpoint(path)
