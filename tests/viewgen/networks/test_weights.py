"""Weights are found by providers: the package of pretrained networks, plug-ins, the user's folder."""

import hashlib
import json
import shlex
from pathlib import Path

import pytest

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.networks import weights
from viewgen.networks.weights import PROVIDERS, Card, PublicFile, cards, find_card, find_models
from viewgen.registry import Entry
from viewgen.settings import Settings


class Toys:
    """A plug-in's weights of the data set `toys`."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def cards(self) -> dict[str, Card]:
        card = Card(
            name="toys/encoder",
            kind="encoder",
            dataset="toys",
            image_size=8,
            sha256=hashlib.sha256(b"weights").hexdigest(),
            licence="CC0",
            path=self.file.name,
            command="",
            details={},
            file=self.file,
        )
        return {card.name: card}

    def public_files(self) -> dict[str, PublicFile]:
        return {}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIEWGEN_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(PROVIDERS, "_registered", {})
    path = tmp_path / "toys.safetensors"
    path.write_bytes(b"weights")
    build = lambda settings: Toys(path)  # noqa: E731
    PROVIDERS.register(Entry(name="toys", summary="toys", settings=Settings, build=build))
    return path


def test_a_plug_in_adds_weights_to_those_that_ship(file):
    assert {"toys/encoder", "digits/encoder"} <= cards().keys()
    assert find_models("toys", {"encoder"}) == {"encoder": file}
    assert find_card("toys/encoder").file == file
    with pytest.raises(MissingFileError, match=r"weights ship for: digits, .*toys"):
        find_models("cars", {"encoder"})
    file.write_bytes(b"other")
    with pytest.raises(CorruptDataError, match="not the file that the card toys/encoder describes"):
        find_models("toys", {"encoder"})


def test_the_core_finds_weights_without_the_package_of_pretrained_ones(file, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    assert cards().keys() == {"toys/encoder"}
    assert find_models("toys", {"encoder"}) == {"encoder": file}
    with pytest.raises(MissingFileError, match="no encoder is known for data set 'digits'"):
        find_models("digits", {"encoder"})


def test_pictures_of_any_size_are_sent_to_prepare_which_scales_them(file):
    with pytest.raises(MissingFileError) as error:
        find_models("folder:/x/photos", {"generator"})
    assert "prepare --dataset folder:/x/photos --dry-run" in str(error.value)
    assert "pretrain" not in str(error.value)  # refuses sides that are no powers of two
    for name in ("folder:/x/photos?size=32", "cifar10"):
        with pytest.raises(MissingFileError, match="pretrain generator --dataset"):
            find_models(name, {"generator"})


def test_the_users_own_networks_are_found_by_their_data_set(file, tmp_path):
    own = tmp_path / "models" / "cars"
    own.mkdir(parents=True)
    (own / "encoder.safetensors").write_bytes(b"mine")
    card = {"kind": "encoder", "dataset": {"name": "cars"}, "network": {"image_size": 8}}
    digest = hashlib.sha256(b"mine").hexdigest()
    (own / "encoder.card.json").write_text(
        json.dumps({**card, "sha256": digest, "file": "encoder.safetensors"})
    )
    assert find_models("cars", {"encoder"}) == {"encoder": own / "encoder.safetensors"}
    assert find_models("toys", {"encoder"}, models_dir="cars") == {"encoder": own / "encoder.safetensors"}
    assert weights.local_file(find_card("cars/encoder")) == own / "encoder.safetensors"
    assert weights.network_file("cars", "encoder") == own / "encoder.safetensors"


def test_all_missing_networks_are_named_with_the_ways_to_get_them(file, check_command):
    kinds = {"generator", "inverter", "encoder", "discriminator"}
    with pytest.raises(MissingFileError) as error:
        find_models("cifar100", kinds)
    text = str(error.value)
    assert "no discriminator, encoder, generator and inverter are known for data set 'cifar100'" in text
    assert "No public file of this data set is known; `viewgen models list`" in text
    commands = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("  viewgen ")]
    assert [words[0] for words in commands] == ["prepare", "pretrain", "pretrain", "pretrain"]
    assert commands[0] == ["prepare", "--dataset", "cifar100", "--dry-run"]
    with pytest.raises(MissingFileError) as error:
        find_models("cifar10", kinds)
    lines = [line for line in str(error.value).splitlines() if line.startswith("  viewgen ")]
    assert lines[0] == "  viewgen models import cifar10.pkl --as cifar10"
    for words in commands:
        check_command(words)
