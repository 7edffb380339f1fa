"""`viewgen models import` and the registry of public checkpoints."""

import dataclasses
import hashlib
import json

import pytest
from official_pickles import Writer, write

from viewgen.cli import main
from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.networks import weights as lookup
from viewgen_pretrained.imports.checkpoint import import_model

pytestmark = pytest.mark.usefixtures("_official_modules")


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
    assert "viewgen prepare --dataset cifar10" in err
    assert "add --models runs/cifar10" in err


def test_registry_entries_are_complete():
    for entry in lookup.public_files().values():
        assert entry.url.startswith("https://")
        assert "http" in entry.licence
        assert entry.expected
        assert entry.image_size == 32
        assert len(entry.sha256) in (0, 64)
        assert bool(entry.sha256) == bool(entry.sha256_source)
    assert not {card.dataset for card in lookup.cards().values()} & {"public"}
