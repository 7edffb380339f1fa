"""Networks of a run become the package's: files, and entries of the registry that say what the cards say."""

import json
import shutil
import tomllib

import pytest

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.networks.files import file_digest
from viewgen_pretrained.ship import KINDS, PACKAGE, ship

LICENCE = 'Apache-2.0; "trained" on ümlauts'


@pytest.fixture
def package(tmp_path):
    """A package with one other data set's entry before, and one behind a comment after."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "cards.toml").write_text(
        "# Heading.\n\n[toys.generator]\nsha256 = 'old'\n[toys.generator.network]\nimage_size = 8\n\n"
        "[cars.encoder]\nsha256 = 'kept'\n\n# About the public ones.\n[public.x]\nurl = 'u'\n"
    )
    return folder


@pytest.fixture
def run(tmp_path):
    """A run of the data set `toys`: the shipped digits networks under cards of their own."""
    folder = tmp_path / "run"
    folder.mkdir()
    for kind in KINDS:
        file = f"{kind}.safetensors"
        shutil.copyfile(PACKAGE / "weights/digits" / file, folder / file)
        card = {
            "kind": kind,
            "file": file,
            "sha256": file_digest(folder / file).removeprefix("sha256:"),
            "dataset": {"name": "toys", "split": "train", "digest": "sha256:00", "images": 9},
            "network": {"image_size": 32, "channels": [4, 2], "activation_clamp": None},
            "training": {"augment": [], "expert": {"hue": 0.1, "crop_scale": [0.2, 1.0]}},
            "depends": {},
            "seed": 3,
            "steps": 7,
            "seconds": 11,
            "command": "viewgen pretrain --out 'a b'",
            "storage_dtype": "float32",
            "parameters": 5,
            "measured": {"features": 'of "f"', "psnr": 26.5} if kind == "inverter" else {},
        }
        (folder / f"{kind}.card.json").write_text(json.dumps(card))
        (folder / f"{kind}-training").mkdir()
        (folder / f"{kind}-training/metrics.csv").write_text(f"step,loss\n19,{len(kind)}\n")
    return folder


def test_entries_say_what_the_cards_say_and_others_stay(run, package):
    before = tomllib.loads((package / "cards.toml").read_text())
    ship(run, LICENCE, package)
    after = tomllib.loads((package / "cards.toml").read_text())
    assert after["cars"] == before["cars"]
    assert after["public"] == before["public"]
    assert after["toys"].keys() == set(KINDS)
    assert "# About the public ones." in (package / "cards.toml").read_text()
    for kind, entry in after["toys"].items():
        card = json.loads((run / f"{kind}.card.json").read_text())
        assert (
            file_digest(package / entry["path"]) == f"sha256:{card['sha256']}" == f"sha256:{entry['sha256']}"
        )
        trained_with = "generator" if kind == "discriminator" else kind
        assert (package / entry["curves"]).read_text() == f"step,loss\n19,{len(trained_with)}\n"
        assert entry["trained_on"] == card["dataset"]
        assert entry["network"] == {"image_size": 32, "channels": [4, 2]}
        assert entry["training"] == card["training"]
        assert entry.get("measured", {}) == card["measured"]
        assert (entry["licence"], entry["command"], entry["seed"]) == (LICENCE, card["command"], 3)
    again = (package / "cards.toml").read_text()
    ship(run, LICENCE, package)
    assert (package / "cards.toml").read_text() == again


def test_an_unfinished_run_or_a_changed_file_is_refused_and_nothing_is_written(run, package):
    before = (package / "cards.toml").read_text()
    training = run / "encoder-training"
    training.rename(run / "elsewhere")
    with pytest.raises(MissingFileError, match=r"no encoder-training/metrics.csv"):
        ship(run, LICENCE, package)
    (run / "elsewhere").rename(training)
    with open(run / "encoder.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptDataError, match=r"encoder.safetensors is not the file"):
        ship(run, LICENCE, package)
    (run / "inverter.card.json").unlink()
    with pytest.raises(MissingFileError, match=r"no inverter.card.json"):
        ship(run, LICENCE, package)
    assert (package / "cards.toml").read_text() == before
    assert not (package / "weights").exists()
