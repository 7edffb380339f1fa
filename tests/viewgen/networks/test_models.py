"""Network files: round trips, and a refusal for everything that is not one."""

import copy
import dataclasses
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from viewgen.errors import MissingFileError, ModelError
from viewgen.networks.branches import Branches, BranchesConfig
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import (
    Models,
    file_digest,
    load_encoder,
    load_model,
    load_models,
    read_header,
    save_model,
)
from viewgen.networks.generator import code_unit
from viewgen.networks.layout import fold_batch_norms
from viewgen.networks.precision import at_precision

KINDS = ("generator", "discriminator", "inverter", "encoder")


@pytest.fixture
def encoder_file(small_models: Models, tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_model(small_models.encoder, path)
    return path


def rewrite(path: Path, *, header: object = None, **tensors: torch.Tensor | None) -> None:
    """Write the file again with another header, or with tensors replaced (None: left out)."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    # as of another tool: without the digest
    metadata["viewgen"] = json.dumps(
        {key: value for key, value in json.loads(metadata["viewgen"]).items() if key != "digest"}
    )
    if header is not None:
        metadata["viewgen"] = header if isinstance(header, str) else json.dumps(header)
    state = load_file(path) | {key.replace("__", "."): value for key, value in tensors.items()}
    save_file({key: value for key, value in state.items() if value is not None}, path, metadata=metadata)


def outputs(models: Models) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    z = torch.randn(3, 32, generator=random)
    images = torch.rand(3, 3, 8, 8, generator=random) * 2 - 1
    with torch.no_grad():
        return {
            "generator": models.generator(z, psi=0.7),
            "discriminator": models.discriminator(images),
            "inverter": models.inverter(images),
            "encoder": models.encoder(images),
        }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 0.02)])
def test_every_kind_survives_a_round_trip(small_models, tmp_path, dtype, tolerance):
    paths = {kind: tmp_path / f"{kind}.safetensors" for kind in KINDS}
    for kind, path in paths.items():
        save_model(getattr(small_models, kind), path, dtype=dtype)
        assert read_header(path)["kind"] == kind
        stored = load_file(path)
        assert {value.dtype for value in stored.values()} <= {dtype, torch.int64}
    models = load_models(paths)
    expected, found = outputs(small_models), outputs(models)
    for kind in KINDS:
        network = getattr(models, kind)
        assert type(network.config) is type(getattr(small_models, kind).config)
        assert network.config == getattr(small_models, kind).config
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert {value.dtype for value in network.state_dict().values()} <= {torch.float32, torch.int64}
        scale = expected[kind].abs().max()
        # half precision keeps 11 bits; the float32 networks' memory layout may differ
        torch.testing.assert_close(found[kind] / scale, expected[kind] / scale, atol=tolerance + 1e-5, rtol=0)
    if dtype == torch.float32:
        assert torch.equal(models.generator.latent_avg, small_models.generator.latent_avg)
        # an encoder's batch normalisations are folded when it is loaded; a generator has none
        state = small_models.generator.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in models.generator.state_dict().items())


def test_the_same_network_gives_the_same_file(small_models, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "deep" / "b.safetensors"
    for path in (first, second):
        save_model(small_models.generator, path, notes={"dataset": "digits", "kind": "not this"})
    assert first.read_bytes() == second.read_bytes()
    assert file_digest(first) == file_digest(second)
    header = read_header(first)
    assert (header["kind"], header["dataset"], header["format"]) == ("generator", "digits", 1)


def test_later_settings_leave_the_files_of_the_first_networks_as_they_were(small_models, tmp_path):
    """What 0.1.0 wrote: a header with these keys, in whose order JSON sorts them."""
    expected = {
        "generator": "activation_clamp channels image_size num_classes num_mapping_layers style_dim",
        "discriminator": "activation_clamp architecture channels image_size num_classes num_mapping_layers",
        "inverter": "channels hidden_dim image_size style_dim",
        "encoder": "backbone image_size projection_dim width",
    }
    for kind, names in expected.items():
        path = tmp_path / f"{kind}.safetensors"
        save_model(getattr(small_models, kind), path)
        assert " ".join(read_header(path)["config"]) == names
        assert read_header(path).keys() == {"config", "digest", "format", "kind"}


def test_an_encoder_of_images_of_two_channels(tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_model(Encoder(EncoderConfig(image_size=8, width=2, projection_dim=3, in_channels=2)), path)
    assert read_header(path)["config"]["in_channels"] == 2
    encoder = load_model(path, "encoder")
    assert encoder(torch.zeros(5, 2, 8, 8)).shape == (5, 3)
    with pytest.raises(ModelError, match=r"\(5, 3, 8, 8\); this encoder takes \(B, 2, H, W\)"):
        encoder(torch.zeros(5, 3, 8, 8))


def test_branches_are_one_file_and_their_features_one_vector(tmp_path):
    path = tmp_path / "encoder.safetensors"
    # not in alphabetical order, which is not that of the features
    shapes = {
        "luma": EncoderConfig(image_size=8, width=2, projection_dim=3, in_channels=1),
        "chroma": EncoderConfig(image_size=8, width=4, projection_dim=3, in_channels=2),
    }
    branches = Branches(BranchesConfig(branches=shapes)).eval()
    save_model(branches, path)
    assert (read_header(path)["kind"], read_header(path)["config"]["image_size"]) == ("encoder", 8)
    loaded = load_encoder(path)
    assert isinstance(loaded, Branches)
    assert (loaded.config, loaded.roles) == (branches.config, ("luma", "chroma"))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in loaded.modules())
    views = {"chroma": torch.randn(5, 2, 8, 8), "luma": torch.randn(5, 1, 8, 8)}
    features = loaded.embed(views)
    assert features.shape == (5, loaded.embedding_dim) == (5, 48)
    parts = [branches[role].embed(views[role]) for role in ("luma", "chroma")]
    # the batch normalisations are folded, which rounds differently
    torch.testing.assert_close(features, torch.cat(parts, dim=1), atol=1e-5, rtol=1e-4)
    assert {role: z.shape for role, z in loaded(views).items()} == {"luma": (5, 3), "chroma": (5, 3)}
    with pytest.raises(ModelError, match="an encoder for each of luma, chroma"):
        load_model(path, "encoder")
    with pytest.raises(ModelError, match="roles luma came; expected luma, chroma"):
        loaded.embed({"luma": views["luma"]})
    with pytest.raises(ModelError, match="no encoder of role 'view'"):
        loaded["view"]
    with pytest.raises(ModelError, match="different sizes"):
        BranchesConfig(branches={**shapes, "low": EncoderConfig(image_size=16)})


def test_w_plus_starts_at_the_inverters_codes_or_without_one_at_the_mean(small_models):
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    coder, generator = small_models.inverting(), small_models.generator
    assert torch.equal(coder.start(images), small_models.inverter(images))
    assert torch.equal(generator.start(images), generator.latent_avg.expand(3, 4, 32))
    codes = torch.randn(3, *coder.code_shape)
    assert torch.equal(coder.decode(codes), generator.synthesis(codes))
    # W-perturb's σ is published in units of W
    assert torch.equal(coder.code_scale, torch.ones(4, 32))
    assert code_unit(coder) == 1.0
    low = at_precision(coder, "bfloat16")
    assert torch.equal(low.decode(codes), at_precision(generator, "bfloat16").decode(codes))
    assert torch.equal(low.start(images), at_precision(small_models.inverter, "bfloat16")(images))
    for kind in ("generator", "inverter"):
        with pytest.raises(ModelError, match=f"needs a network of kind '{kind}'"):
            dataclasses.replace(small_models, **{kind: None}).inverting()


def refusal(path: Path, kind: str = "encoder") -> str:
    with pytest.raises(ModelError) as error:
        load_model(path, kind)
    assert str(path) in str(error.value)
    return str(error.value)


def test_an_absent_file(tmp_path):
    with pytest.raises(MissingFileError, match="viewgen pretrain"):
        load_model(tmp_path / "nothing.safetensors", "encoder")
    with pytest.raises(MissingFileError):
        load_model(tmp_path, "encoder")


def test_another_kind(encoder_file):
    assert "kind 'encoder'; a generator is needed" in refusal(encoder_file, "generator")


def test_a_missing_an_unexpected_and_a_misshapen_tensor(encoder_file):
    rewrite(encoder_file, projector__0__bias=None, extra=torch.zeros(1), projector__2__bias=torch.zeros(5))
    message = refusal(encoder_file)
    assert "missing projector.0.bias (32,)" in message
    assert "unexpected extra" in message
    assert "projector.2.bias has shape (5,), expected (16,)" in message


def test_many_problems_are_counted(encoder_file):
    keys = [key for key in load_file(encoder_file) if key.startswith("backbone.layer1")]
    rewrite(encoder_file, **{key.replace(".", "__"): None for key in keys})
    assert f"and {len(keys) - 5} more" in refusal(encoder_file)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(encoder_file, value):
    rewrite(encoder_file, projector__2__bias=torch.full((16,), value))
    assert "projector.2.bias holds non-finite values" in refusal(encoder_file)


def test_a_foreign_safetensors_file(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "no viewgen header" in refusal(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "viewgen header, is damaged"),
        ([1], "without the network's config"),
        ({"format": 1, "kind": "encoder"}, "without the network's config"),
        ({"format": 2, "kind": "encoder", "config": {}}, "holds format 2"),
        ({"format": 1, "kind": "painter", "config": {}}, "kind 'painter'"),
        ({"format": 1, "kind": ["encoder"], "config": {}}, "kind ['encoder']"),
        ({"format": 1, "kind": "encoder", "config": {}}, "does not describe a network"),
        ({"format": 1, "kind": "encoder", "config": {"image_size": 8, "colour": 1}}, "does not describe"),
        ({"format": 1, "kind": "encoder", "config": {"image_size": 8, "backbone": "vgg"}}, "no backbone"),
        ({"format": 1, "kind": "encoder", "config": {"image_size": "8"}}, "does not describe"),
        (
            {"format": 1, "kind": "encoder", "config": {"image_size": 8, "width": 200_000}},
            "width is 200000; expected",
        ),
        ({"format": 1, "kind": "encoder", "config": {"image_size": 8, "width": 10**10}}, "does not describe"),
    ],
)
def test_a_header_that_describes_no_network(encoder_file, header, message):
    rewrite(encoder_file, header=header)
    assert message in refusal(encoder_file)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.5, 0.999])
def test_a_truncated_file(encoder_file, share):
    data = encoder_file.read_bytes()
    encoder_file.write_bytes(data[: int(share * len(data))])
    assert "not a readable safetensors file" in refusal(encoder_file)


def test_a_file_of_another_sort(encoder_file):
    encoder_file.write_bytes(b"PK\x03\x04" + bytes(1000))
    refusal(encoder_file)
    encoder_file.write_bytes(struct.pack("<Q", 2**60) + bytes(1000))
    refusal(encoder_file)


@pytest.mark.parametrize(("value", "dtype"), [(torch.nan, torch.float32), (1e6, torch.float16)])
def test_a_network_that_cannot_be_stored_leaves_the_old_file(small_models, encoder_file, value, dtype):
    before = encoder_file.read_bytes()
    bias = small_models.encoder.projector[2].bias
    kept = bias.clone()
    bias[3] = value
    try:
        with pytest.raises(ModelError, match=r"projector\.2\.bias holds values that are not finite"):
            save_model(small_models.encoder, encoder_file, dtype=dtype)
    finally:
        bias.copy_(kept)
    assert encoder_file.read_bytes() == before
    assert [path.name for path in encoder_file.parent.iterdir()] == [encoder_file.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(small_models, encoder_file, monkeypatch):
    before = encoder_file.read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        save_model(small_models.encoder, encoder_file)
    assert encoder_file.read_bytes() == before
    assert [path.name for path in encoder_file.parent.iterdir()] == [encoder_file.name]


def test_another_module_is_no_network_of_ours(tmp_path):
    with pytest.raises(ModelError, match="a Linear cannot be stored"):
        save_model(torch.nn.Linear(2, 2), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_network_loaded_for_inference_is_not_stored(encoder_file, tmp_path):
    loaded = load_model(encoder_file, "encoder")
    with pytest.raises(ModelError, match="loaded for inference"):
        save_model(loaded, tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


@pytest.mark.parametrize("kind", ["encoder", "inverter"])
def test_folding_batch_norms_changes_no_output(small_models, kind):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    folded = copy.deepcopy(getattr(small_models, kind))
    for module in folded.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(2))
    expected = folded(images)
    fold_batch_norms(folded)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), expected, atol=1e-5, rtol=1e-4)  # float32, another order
