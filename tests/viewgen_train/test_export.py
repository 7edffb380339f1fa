"""A run of digits: evaluated, exported, loaded in five lines, and used to make views."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from viewgen.cli import main
from viewgen.datasets import load_dataset
from viewgen.errors import MissingFileError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import file_digest, load_model
from viewgen.store import CacheReader
from viewgen_train.evaluate import evaluate
from viewgen_train.export import export_encoder
from viewgen_train.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    settings = {"generated": "expert", "width": 2, "projection_dim": 4, "batch_size": 32, "epochs": 1}
    train("digits", settings=settings, limit=64, out=str(folder), evaluate=False, quiet=True)
    return folder


@pytest.fixture
def exported(run, tmp_path) -> Path:
    export_encoder(run, tmp_path / "out")
    return tmp_path / "out"


def test_five_lines_of_its_page_load_it(run, exported, monkeypatch):
    """The page's own lines, in the exported folder, give what the encoder gave when it was trained."""
    page = (exported / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 5
    monkeypatch.chdir(exported)
    images = load_dataset("digits", "test").images(np.arange(6))
    names = {"images": images}
    with torch.no_grad():
        exec(code, names)
    with safe_open(run / "last.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    trained = Encoder(EncoderConfig(image_size=32, width=2, projection_dim=4))
    trained.load_state_dict(state)
    with torch.no_grad():
        expected = trained.eval().embed(to_model(images))
    torch.testing.assert_close(names["features"], expected, rtol=1e-4, atol=1e-5)


def test_it_is_an_encoder_for_views(exported, tmp_path, capfd):
    words = (
        "cache --dataset digits --method wsearch --executor local --limit 2 --views 2 --max-steps 2 --json "
        "--set invert.max_steps=2"
    )
    encoder = exported / "encoder.safetensors"
    with pytest.raises(SystemExit) as ending:
        main(
            [
                *words.split(),
                "--anchor",
                "image",
                "--json",
                "--encoder",
                str(encoder),
                "--out",
                str(tmp_path / "c.zarr"),
            ]
        )
    assert ending.value.code == 0
    reader = CacheReader(json.loads(capfd.readouterr().out)["url"])
    assert reader.spec.models["encoder"] == file_digest(encoder)
    # the distances in the cache are those of this encoder
    f = load_model(encoder, "encoder")
    with torch.no_grad():
        views = f(to_model(reader.views(reader.rows)).flatten(0, 1)).unflatten(0, (2, 2))
        anchors = f(to_model(load_dataset("digits").images(reader.source_index)))
    expected = (views - anchors[:, None]).norm(dim=2).numpy()
    assert expected.min() > 0
    np.testing.assert_allclose(reader.distance, expected, atol=1e-4)


def test_the_card_says_where_it_comes_from(run, exported):
    card = json.loads((exported / "encoder.card.json").read_text())
    assert file_digest(exported / "encoder.safetensors") == f"sha256:{card['sha256']}"
    assert file_digest(run / "last.safetensors") == f"sha256:{card['sha256']}"
    assert card["dataset"]["name"] == "digits"
    assert card["dataset"]["images"] == 64
    assert (card["steps"], card["epochs"], card["embedding_dim"]) == (2, 1, 16)
    assert card["training"]["assimilation"] == "A2"
    network = Encoder(EncoderConfig(**card["network"]))
    assert card["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert card["measured"] == {}


def test_the_card_has_the_accuracy_of_these_weights(run, tmp_path):
    found = evaluate(run, settings={"epochs": 2, "num_seeds": 2})
    card = export_encoder(run, tmp_path)
    measured = {name: found[name] for name in ("top1", "top1_sd", "knn5_top1")}
    assert card["measured"] == {**measured, "test_images": 360}
    page = (tmp_path / "README.md").read_text()
    assert f"linear probe {100 * found['top1']:.2f} ± {100 * found['top1_sd']:.2f} %" in page
    assert page.startswith("---\nlicense: other\n")
    assert "## Licence\n\nTerms of the images of " in page
    found["weights"]["digest"] = "sha256:0"
    (run / "evaluation.json").write_text(json.dumps(found))
    assert export_encoder(run, tmp_path, overwrite=True)["measured"] == {}
    (run / "evaluation.json").unlink()


def test_nothing_is_replaced_unasked(run, exported, tmp_path):
    with pytest.raises(
        UsageError, match=r"holds encoder\.safetensors, encoder\.card\.json, README\.md already"
    ):
        export_encoder(run, exported)
    with pytest.raises(MissingFileError, match="no training in"):
        export_encoder(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_is_the_function(run, tmp_path, capfd):
    with pytest.raises(SystemExit) as ending:
        main(["export", str(run), "--out", str(tmp_path / "out"), "--json"])
    assert ending.value.code == 0
    out, error = capfd.readouterr()
    assert (json.loads(out), error) == (export_encoder(run, tmp_path / "other"), "")
    with pytest.raises(SystemExit) as ending:
        main(["export", str(run), "--out", str(tmp_path / "out"), "--overwrite"])
    assert "not measured; `viewgen eval" in capfd.readouterr().out
