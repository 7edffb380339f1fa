"""Backbones load in torchvision and timm by the lines of their page, and give the same features."""

import json
import re
import warnings

import pytest
import torch

from viewgen.errors import UsageError
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import save_model
from viewgen.networks.torchvision_import import import_torchvision
from viewgen_train.backbone_export import export_backbone
from viewgen_train.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a narrow network, whose weights are exchanged for random ones of torchvision's width."""
    folder = tmp_path_factory.mktemp("export") / "run"
    settings = {"generated": "expert", "width": 2, "projection_dim": 4, "batch_size": 32, "epochs": 1}
    train("digits", settings=settings, limit=64, out=str(folder), evaluate=False, quiet=True)
    narrow = (folder / "last.safetensors").read_bytes()
    torch.manual_seed(0)
    wide = Encoder(EncoderConfig(image_size=32, projection_dim=4))
    with torch.no_grad():
        wide(torch.randn(8, 3, 32, 32))  # statistics of the batch normalisations that are none
    save_model(wide, folder / "last.safetensors", notes={"step": 2})
    return folder, wide.eval(), narrow


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_pages_lines_load_it(run, library, tmp_path, monkeypatch):
    folder, trained, _ = run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        import_torchvision("ops")
        pytest.importorskip(library)
    card = export_backbone(folder, tmp_path / "out", library)
    assert card["file"] == "model.safetensors"
    page = (tmp_path / "out/README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(names["model"](images), trained.embed(images), rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architecture"] == "resnet18"
    assert config["num_features"] == trained.embedding_dim
    assert not (tmp_path / "out/encoder.safetensors").exists()
    with pytest.raises(UsageError, match=r"holds model\.safetensors"):
        export_backbone(folder, tmp_path / "out", library)
    export_backbone(folder, tmp_path / "out", library, overwrite=True)


def test_a_folder_for_the_hub(run, tmp_path):
    folder, _, _ = run
    export_backbone(folder, tmp_path / "out", "hf")
    page = (tmp_path / "out/README.md").read_text("utf-8")
    assert page.startswith("---\nlicense: other\nlibrary_name: timm\n")
    assert 'hf_hub_download("OWNER/NAME", "model.safetensors")' in page
    assert "load_image_encoder" in page
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "model.safetensors",
        "encoder.safetensors",
        "encoder.card.json",
    }


def test_a_network_that_they_do_not_have(run, tmp_path):
    folder, _, narrow = run
    wide = (folder / "last.safetensors").read_bytes()
    (folder / "last.safetensors").write_bytes(narrow)
    try:
        with pytest.raises(UsageError, match="its width is 2, theirs 64; export it with --to viewgen"):
            export_backbone(folder, tmp_path / "out", "timm")
        assert not (tmp_path / "out").exists()
        # the hub takes viewgen's own files
        assert export_backbone(folder, tmp_path / "hub", "hf")["library"] == "hf"
    finally:
        (folder / "last.safetensors").write_bytes(wide)
    assert (tmp_path / "hub/encoder.safetensors").read_bytes() == narrow
    page = (tmp_path / "hub/README.md").read_text("utf-8")
    assert page.startswith("---\nlicense: other\n")
    assert "load_image_encoder" in page
