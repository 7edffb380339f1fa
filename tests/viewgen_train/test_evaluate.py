"""`viewgen eval` and its function, on an image folder and a network small enough for a test."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from viewgen.cli import main
from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics import augmented
from viewgen.diagnostics.probe import ProbeConfig
from viewgen.errors import DataError, MissingFileError, ModelError, UsageError
from viewgen.images import to_model
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import load_model, save_model
from viewgen.views.expert import ExpertConfig
from viewgen_train.evaluate import evaluate, measure
from viewgen_train.records import record
from viewgen_train.resolve import train_settings

QUICK = {"epochs": 3, "num_seeds": 2, "learning_rate": 0.1, "batch_size": 16}


def save_pictures(folder, count, random):
    """Two classes that differ in brightness, with some overlap."""
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 200, (8, 8, 3)) + 55 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")


def make_encoder() -> Encoder:
    """An untrained network whose normalisations have seen images, so that its features are not tiny."""
    torch.manual_seed(3)
    encoder = Encoder(EncoderConfig(image_size=8, width=2, projection_dim=4))
    with torch.no_grad():
        for _ in range(20):
            encoder(torch.rand(64, 3, 8, 8) * 2 - 1)
    return encoder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    save_pictures(folder / "train", 20, random)
    save_pictures(folder / "test", 10, random)
    return folder


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data-root")


@pytest.fixture
def run(pictures, data_root, tmp_path):
    """The folder of a training that is half through its 20 epochs."""
    dataset = load_dataset(f"folder:{pictures}", data_root=data_root)
    document = {
        "dataset": {
            "name": dataset.name, "split": "train", "digest": dataset.digest, "num_images": len(dataset),
        },
        "config": record(train_settings(dataset.name, {"epochs": 20})),
        "cache": None,
        "num_steps": 40,
    }  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "metrics.csv").write_text("step,loss,knn5_top1\n9,2.5,\n18,,0.5\n19,1.25,\n29,1.0,\n")
    save_model(make_encoder(), folder / "last.safetensors", notes={"step": 20})
    return folder


def test_the_numbers_are_those_of_scikit_learn_on_the_same_features(run, pictures, data_root):
    settings = {"epochs": 300, "num_seeds": 1, "batch_size": 40, "learning_rate": 0.5, "weight_decay": 0.1}
    found = evaluate(run, data_root=data_root, settings=settings, neighbours=(1, 4))
    encoder = load_model(run / "last.safetensors", "encoder")
    x, y = {}, {}
    for split in ("train", "test"):
        dataset = load_dataset(f"folder:{pictures}", split, data_root=data_root)
        rows = np.arange(len(dataset))
        with torch.no_grad():
            x[split] = encoder.embed(to_model(dataset.images(rows))).numpy()
        y[split] = dataset.labels(rows)
    for metric in ("cosine", "euclidean"):
        for k in (1, 4, 5):
            reference = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(x["train"], y["train"])
            assert found["knn"][metric][str(k)] == pytest.approx(reference.score(x["test"], y["test"]))
    ones = {split: np.concatenate([part, np.ones((len(part), 1))], axis=1) for split, part in x.items()}
    # of two classes scikit-learn holds one vector, the difference of ours: half the penalty
    reference = LogisticRegression(C=2 / (0.1 * 40), fit_intercept=False, tol=1e-8, max_iter=1000)
    expected = reference.fit(ones["train"], y["train"]).score(ones["test"], y["test"])
    assert 0.5 < expected < 1
    assert np.abs(reference.decision_function(ones["test"])).min() > 1e-3
    assert found["top1"] == pytest.approx(expected)


def test_the_result_says_what_was_evaluated_and_is_kept(run, data_root):
    said = []
    found = evaluate(run, data_root=data_root, settings=QUICK, report=lambda *words: said.append(words))
    assert json.loads((run / "evaluation.json").read_text()) == found
    # half of the epochs; the loss at that step, not that of a later row
    assert (found["run"], found["epochs"], found["loss"]) == (str(run), 10, 1.25)
    assert (found["dataset"]["train"], found["dataset"]["test"]) == (40, 20)
    assert found["knn5_top1"] == found["knn"]["cosine"]["5"]
    assert len(found["top1_per_seed"]) == 2
    assert found["top1"] == pytest.approx(np.mean(found["top1_per_seed"]), abs=1e-5)
    assert found["top1_sd"] == pytest.approx(np.std(found["top1_per_seed"], ddof=1), abs=1e-5)
    assert found["probe"]["epochs"] == 3
    assert found["weighted_knn"] == {"neighbours": 40, "temperature": 0.1}
    assert found["notes"] == ["all 40 training images vote, fewer than 200"]
    assert 0 <= found["weighted_knn_top1"] <= 1
    assert 0 <= found["centre_top1"] <= 1
    assert "top5" not in found, "of two classes"
    assert found["collapse"].keys() == {
        *("rankme", "effective_rank", "feature_sd", "projection_sd", "projection_rankme"),
        *("alignment", "uniformity", "warning"),
    }
    assert found["images_per_second"] > 0
    assert said[-1] == ("probe", 3, 3)
    assert ("features", 60, 60) in said
    assert evaluate(run, data_root=data_root, settings=QUICK)["top1_per_seed"] == found["top1_per_seed"]


def test_the_five_likeliest_of_many_classes(run, data_root, monkeypatch, capsys):
    """Two classes stand for many here: both are always among five."""
    monkeypatch.setattr("viewgen.diagnostics.probe.TOP5_ABOVE", 1)
    with pytest.raises(SystemExit, match="0"):
        main(["eval", str(run), "--data-root", str(data_root), "--probe-epochs", "1"])
    assert json.loads((run / "evaluation.json").read_text())["top5"] == 1.0
    assert "linear probe, top-5" in capsys.readouterr().out


def test_a_collapsed_encoder_is_told(pictures, data_root, tmp_path, capsys):
    encoder = make_encoder()
    with torch.no_grad():
        for parameter in list(encoder.projector.parameters())[-2:]:
            parameter.zero_()
        list(encoder.projector.parameters())[-1].fill_(1.0)
    path = tmp_path / "f.safetensors"
    save_model(encoder, path)
    found = evaluate(path, dataset=f"folder:{pictures}", data_root=data_root, settings=QUICK)
    assert "the encoder has collapsed" in found["collapse"]["warning"]
    words = ["eval", str(path), "--dataset", f"folder:{pictures}", "--data-root", str(data_root)]
    with pytest.raises(SystemExit):
        main([*words, "--probe-epochs", "1", "--probe-seeds", "1"])
    assert "the encoder has collapsed" in "".join(capsys.readouterr())


def test_an_encoder_file_will_do(run, pictures, data_root, tmp_path):
    path = tmp_path / "f.safetensors"
    save_model(make_encoder(), path)
    with pytest.raises(UsageError, match="--dataset"):
        evaluate(path)
    found = evaluate(path, dataset=f"folder:{pictures}", data_root=data_root, settings=QUICK)
    of_run = evaluate(run, data_root=data_root, settings=QUICK)
    for key in ("top1_per_seed", "knn"):
        assert found[key] == of_run[key]
    assert (found["epochs"], found["loss"]) == (None, None)
    (result,) = tmp_path.glob("f.evaluation-*pictures*.json")
    assert json.loads(result.read_text()) == found
    # a file that says what it was trained on
    save_model(make_encoder(), path, notes={"dataset": f"folder:{pictures}"})
    again = evaluate(path, data_root=data_root, settings=QUICK)
    assert again["top1_per_seed"] == found["top1_per_seed"]
    assert (tmp_path / "f.evaluation.json").is_file()


def make_dataset(count, seed):
    """Images whose red and blue mean tell two attributes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, 2))
    pixels = random.integers(0, 150, (count, 3, 8, 8))
    pixels[:, 0] += 100 * labels[:, 0, None, None]
    pixels[:, 2] += 20 * labels[:, 1, None, None]
    return ImageDataset(
        name="digits", split="train", image_size=8, num_classes=2, class_names=(),
        pixels=MemoryImages(pixels.astype(np.uint8)), targets=labels, attribute_names=("red", "blue"),
        attribute_values=(("no", "yes"), ("no", "yes")),
    )  # fmt: skip


def test_each_attribute_has_its_numbers():
    train, test = make_dataset(60, 0), make_dataset(40, 1)
    encoder = make_encoder().eval()
    found = measure(encoder, train, test, ProbeConfig(**QUICK), neighbours=(3,)).to_json()
    assert list(found["attributes"]) == ["red", "blue"]
    alone = []
    for column, name in enumerate(("red", "blue")):
        single = [
            dataclasses.replace(part, targets=part.targets[:, column], attribute_names=())
            for part in (train, test)
        ]
        other = measure(encoder, *single, ProbeConfig(**QUICK), neighbours=(3,)).to_json()
        assert other["knn"] == found["attributes"][name]["knn"]
        assert "attributes" not in other
        alone.append(other["knn5_top1"])
    assert alone[0] > alone[1]
    assert found["knn5_top1"] == pytest.approx(np.mean(alone))
    tops = [found["attributes"][name]["top1"] for name in ("red", "blue")]
    assert found["top1"] == pytest.approx(np.mean(tops), abs=1e-5)


def test_augmentation_changes_what_the_probe_learns_and_nothing_else(monkeypatch):
    train, test = make_dataset(24, 0), make_dataset(40, 1)
    encoder = make_encoder().train()
    seen = []
    views = augmented.expert_views

    def spy(images, uniforms, config):
        seen.append((images, uniforms, config, encoder.training))
        return views(images, uniforms, config)

    monkeypatch.setattr(augmented, "expert_views", spy)
    plain = measure(encoder, train, test, ProbeConfig(**QUICK))
    assert seen == []
    config = ProbeConfig(**QUICK, augmentation="crop")
    found = measure(encoder, train, test, config, expert=ExpertConfig(hue=0.05))
    assert encoder.training
    assert not found.probe.weight.allclose(plain.probe.weight)
    np.testing.assert_array_equal(found.knn["cosine"], plain.knn["cosine"])
    # 3 epochs × 2 batches × 2 seeds, each with randomness of its own
    assert len(seen) == 12
    rows = torch.cat([uniforms for _, uniforms, _, _ in seen])
    assert len(torch.unique(rows, dim=0)) == 3 * 2 * 24
    config = seen[0][2]
    assert (config.jitter_probability, config.grayscale_probability, config.crop_scale) == (0, 0, (0.2, 1.0))
    assert not any(training for *_, training in seen)
    # an image's views do not depend on the batches
    again = []
    monkeypatch.setattr(augmented, "expert_views", lambda *a: again.append(a[1]) or views(*a))
    measure(encoder, train, test, ProbeConfig(**QUICK | {"batch_size": 5}, augmentation="crop"))
    assert {tuple(row.tolist()) for row in torch.cat(again)} == {tuple(row.tolist()) for row in rows}
    full = ProbeConfig(**QUICK, augmentation="expert")
    measure(encoder, train, test, full, expert=ExpertConfig(hue=0.05))
    assert seen[0][2] != (strong := ExpertConfig(hue=0.05))
    assert strong.jitter_probability == 0.8


def test_data_that_changed_since_the_training_are_refused(run, data_root):
    document = json.loads((run / "config.json").read_text())
    document["dataset"]["digest"] = "sha256:0"
    (run / "config.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="digest sha256:0"):
        evaluate(run, data_root=data_root, settings=QUICK)
    assert not (run / "evaluation.json").exists()


def test_what_cannot_be_evaluated_is_refused(run, data_root, tmp_path):
    with pytest.raises(MissingFileError, match="no training in"):
        evaluate(tmp_path, data_root=data_root)
    with pytest.raises(MissingFileError, match=r"without best\.safetensors"):
        evaluate(run, which="best", data_root=data_root)
    with pytest.raises(ModelError, match="8-px images, digits has 32 px"):
        evaluate(run, dataset="digits", data_root=data_root)
    with pytest.raises(UsageError, match="41 neighbours"):
        evaluate(run, data_root=data_root, settings=QUICK, neighbours=(41,))
    (run / "last.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="is no weights file, or damaged"):
        evaluate(run, data_root=data_root)


def command(*words):
    with pytest.raises(SystemExit) as ending:
        main(["eval", *map(str, words)])
    return ending.value.code


def test_the_command_is_the_function(run, data_root, capfd):
    whole = evaluate(run, data_root=data_root, settings=QUICK)
    capfd.readouterr()  # images may just have been decoded
    options = (
        "--data-root",
        data_root,
        "--probe-epochs",
        3,
        "--probe-seeds",
        2,
        "--probe-learning-rate",
        0.1,
    )
    assert (
        command(run, *options, "-k", 1, "--limit", 30, "--augmentation", "crop", "--seed", 7, "--json") == 0
    )
    out, error = capfd.readouterr()
    assert error == ""
    printed = json.loads(out)
    settings = {"epochs": 3, "num_seeds": 2, "learning_rate": 0.1, "augmentation": "crop"}
    found = evaluate(run, data_root=data_root, settings=settings, limit=30, neighbours=(1,), seed=7)
    assert found["notes"] == ["all 30 training images vote, fewer than 200"]
    assert found["dataset"]["train"] == 30
    assert found["dataset"]["digest"] == whole["dataset"]["digest"]
    with pytest.raises(UsageError, match=r"the first 1 images of .* are asked for; expected 2 or more"):
        evaluate(run, data_root=data_root, limit=1)
    unlike = {"seconds", "images_per_second"}
    assert {key: value for key, value in printed.items() if key not in unlike} == {
        key: value for key, value in found.items() if key not in unlike
    }


def test_the_command_prints_a_table(run, data_root, capfd):
    assert command(run, "--data-root", data_root, "--probe-epochs", 3, "--probe-seeds", 2) == 0
    out, error = capfd.readouterr()
    found = json.loads((run / "evaluation.json").read_text())
    assert error == ""
    assert "(10 epochs, loss 1.25)" in out
    assert f"{100 * found['top1']:.2f} ± {100 * found['top1_sd']:.2f} %" in out
    assert f"{100 * found['knn5_top1']:.2f} %" in out
    assert "learned from 40 images, measured on 20 test images" in out
    assert "3 epochs of SGD, learning rate 30 (cosine), batch 256, 2 seeds" in out


def test_errors_have_their_exit_codes(run, tmp_path, capfd):
    assert command(tmp_path / "absent") == 2
    assert command(tmp_path) == 1
    assert "no training in" in capfd.readouterr().err
