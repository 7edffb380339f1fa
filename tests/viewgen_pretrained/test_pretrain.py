"""`viewgen pretrain` from the command line: weights, cards, messages and exit codes."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.cli import main
from viewgen.errors import CacheMismatchError, DataError, MissingFileError, ModelError, UsageError
from viewgen.networks.files import file_digest, load_models, read_header
from viewgen_pretrained.inverter import InverterTrainer
from viewgen_pretrained.pretrain import (
    encoder_settings,
    pretrain_encoder,
    pretrain_generator,
    pretrain_inverter,
    training_config,
)
from viewgen_pretrained.settings import GeneratorTrainingConfig, InverterTrainingConfig
from viewgen_train.optimiser import learning_rate
from viewgen_train.resolve import train_settings

SETTINGS = {
    "encoder": {"width": 4, "projection_dim": 8, "batch_size": 8, "num_steps": 3},
    "generator": {"channels": [6, 4], "num_mapping_layers": 2, "batch_size": 4, "num_images": 12},
    "inverter": {"channels": [6, 4], "hidden_dim": 16, "batch_size": 4, "num_steps": 3,
                 "perceptual": "discriminator"},
}  # fmt: skip
CARD_KEYS = {
    "kind", "file", "sha256", "dataset", "network", "training", "depends", "seed", "steps", "seconds",
    "command", "storage_dtype", "parameters", "measured",
}  # fmt: skip


def arguments(kind: str, dataset: str, data_root: Path, out: Path, *more: str) -> list[str]:
    words = ["pretrain", kind, "--dataset", dataset, "--out", str(out), "--data-root", str(data_root)]
    for name, value in SETTINGS[kind].items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    return [*words, "--device", "cpu", *more]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(words)
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset, data_root) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The three commands, one after another; the folder and the cards that they printed."""
    out = tmp_path_factory.mktemp("run")
    cards = {}
    for kind in ("encoder", "generator", "inverter"):
        more = ["--encoder", str(out / "encoder.safetensors")] if kind == "generator" else []
        words = arguments(kind, dataset.name, data_root, out, "--json", "--dtype", "float16", *more)
        with pytest.MonkeyPatch.context() as patch:
            output = io.StringIO()
            patch.setattr("sys.stdout", output)
            with pytest.raises(SystemExit) as exit_:
                main(words)
        assert not exit_.value.code
        cards[kind] = json.loads(output.getvalue())  # one JSON object and nothing else
    return out, cards


@pytest.mark.parametrize("kind", ["encoder", "generator", "inverter", "discriminator"])
def test_a_card_describes_its_file(trained, dataset, kind):
    out, cards = trained
    card = json.loads((out / f"{kind}.card.json").read_text("utf-8"))
    if kind != "discriminator":  # it is trained with the generator
        assert (out / f"{kind}-training" / "curves.png").is_file()
        assert card == cards[kind]
    assert card.keys() == CARD_KEYS
    assert card["kind"] == kind
    path = out / card["file"]
    assert f"sha256:{card['sha256']}" == file_digest(path)
    assert card["dataset"] == {
        "name": dataset.name, "split": "train", "digest": dataset.digest, "images": 20,
    }  # fmt: skip
    assert json.loads(json.dumps(read_header(path)["config"])) == card["network"]
    assert card["storage_dtype"] == "float16"
    assert card["steps"] == 3
    assert card["training"]["dataset"] == dataset.digest


def test_cards_hold_what_was_measured(trained):
    _, cards = trained
    assert cards["encoder"]["measured"]["test_images"] == 12
    assert 0 <= cards["encoder"]["measured"]["knn5_top1"] <= 1
    generator = cards["generator"]["measured"]
    assert {"kernel_distance", "kernel_distance_train_test", "samples"} <= generator.keys()
    assert generator["samples"] == 20
    assert cards["inverter"]["measured"].keys() == {
        "psnr_train_db", "psnr_test_db", "feature_distance_train", "feature_distance_test",
    }  # fmt: skip


def test_cards_name_what_they_depend_on(trained):
    out, cards = trained
    assert cards["generator"]["depends"] == {"encoder": file_digest(out / "encoder.safetensors")}
    assert cards["inverter"]["depends"] == {
        kind: file_digest(out / f"{kind}.safetensors") for kind in ("generator", "discriminator", "encoder")
    }


def test_the_networks_work_together(trained, dataset):
    out, _ = trained
    kinds = ("generator", "discriminator", "inverter", "encoder")
    models = load_models({kind: out / f"{kind}.safetensors" for kind in kinds})
    images = torch.from_numpy(dataset.images(np.arange(4))).float() / 127.5 - 1
    with torch.no_grad():
        again = models.generator.synthesis(models.inverter(images))
    assert again.shape == images.shape
    torch.testing.assert_close(models.inverter.latent_avg, models.generator.latent_avg)
    assert models.generator.latent_avg.abs().max() > 0


def test_the_same_command_again_gives_the_same_file(trained, dataset, data_root, tmp_path, capsys):
    out, cards = trained
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    words = arguments("encoder", dataset.name, data_root, copy, "--dtype", "float16")
    code, text, _ = run(words, capsys)
    assert code == 0
    assert file_digest(copy / "encoder.safetensors") == f"sha256:{cards['encoder']['sha256']}"
    assert "encoder.safetensors" in text
    assert f"{cards['encoder']['parameters']:,} parameters, 3 steps" in text
    assert "knn5_top1" in text


def test_another_configuration_in_the_same_folder_exits_with_3(trained, dataset, data_root, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained[0], copy)
    words = arguments("encoder", dataset.name, data_root, copy, "--seed", "5")
    code, text, errors = run(words, capsys)
    assert (code, text) == (3, "")
    assert "seed: there 0, asked 5" in errors
    code, text, _ = run([*words, "--overwrite", "--json"], capsys)
    assert code == 0
    assert json.loads(text)["seed"] == 5


def test_a_truncated_checkpoint_exits_with_5(trained, dataset, data_root, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained[0], copy)
    checkpoint = copy / "generator-training" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    code, text, errors = run(arguments("generator", dataset.name, data_root, copy), capsys)
    assert (code, text) == (5, "")
    assert str(checkpoint) in errors


def test_a_diverging_training_exits_with_1(dataset, data_root, tmp_path, capsys):
    words = arguments("encoder", dataset.name, data_root, tmp_path, "--set", "learning_rate=1e30")
    code, text, errors = run(words, capsys)
    assert (code, text) == (1, "")
    assert "Lower the learning rate" in errors
    assert not (tmp_path / "encoder.safetensors").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rat=1", "did you mean 'learning_rate'?"),
        ("learning_rate=fast", "learning_rate is 'fast'; expected a valid number"),
        ("num_steps=1.5", "num_steps is 1.5"),
        ("num_steps=true", "num_steps is True"),
        ("num_steps=0", "num_steps is 0; expected greater than or equal to 1"),
        ("loss=hinge", "no objective 'hinge'"),
        ("generated=cache", "trained on expert views alone"),
        ("expert=strong", "expert is 'strong'"),
        ('expert={"hues": 0}', "did you mean 'hue'?"),
        ('expert={"hue": 2}', "hue is 2; expected less than or equal to 0.5"),
        ("num_steps", "is not NAME=VALUE"),
    ],
)
def test_settings_that_cannot_be_are_refused(dataset, data_root, tmp_path, capsys, setting, message):
    words = arguments("encoder", dataset.name, data_root, tmp_path, "--set", setting)
    code, text, errors = run(words, capsys)
    assert (code, text) == (2, "")
    assert message in " ".join(errors.split())
    assert not (tmp_path / "encoder-training").exists()


def test_a_device_that_is_not_there_is_refused(dataset, data_root, tmp_path, capsys):
    words = [*arguments("encoder", dataset.name, data_root, tmp_path), "--device", "cuda:77"]
    code, _, errors = run(words, capsys)
    assert code == 2
    assert "cuda:77" in errors


def test_the_recipe_lies_under_the_settings():
    with pytest.raises(UsageError, match=r"generator training: augment\.0 is 'rain'; expected 'brightness'"):
        training_config(GeneratorTrainingConfig, "generator", "digits", {"augment": ["rain"]})
    with pytest.raises(
        UsageError, match="path_interval is given and has no effect, because path_weight is 0"
    ):
        training_config(GeneratorTrainingConfig, "generator", "digits", {"path_interval": 8})
    with pytest.raises(UsageError, match="no setting 'chanels'; did you mean 'channels'"):
        training_config(InverterTrainingConfig, "inverter", "digits", {"chanels": [8]})


def named(name: str, num_images: int) -> Any:
    """Return what an encoder's settings depend on of a data set."""
    return type("Images", (), {"name": name, "image_size": 32, "__len__": lambda _: num_images})()


def test_an_encoders_training_is_the_recipes_length_on_expert_views():
    settings = encoder_settings(named("digits", 1437), {"width": 5})
    assert (settings.network.width, settings.network.projection_dim) == (5, 64)
    assert (settings.expert.flip_probability, settings.optimiser.num_steps) == (0.0, 1200)
    assert (settings.views.name, settings.assimilation.transform) == ("original", "expert")
    # 1200 steps of 256 images are 214 passes; the learning rate rises over 5 % of the steps
    rates = [learning_rate(settings.optimiser, step, 1200) for step in (0, 59, 60, 1199)]
    assert rates == pytest.approx([0.2 / 60, 0.2, 0.2, 0.0], abs=1e-5)
    changed = encoder_settings(named("digits", 1437), {"expert": {"hue": 0.3}, "epochs": 3})
    assert (changed.expert.hue, changed.expert.flip_probability) == (0.3, 0.0)
    assert (changed.optimiser.num_steps, changed.optimiser.epochs) == (None, 3)
    other = encoder_settings(named("folder:/data/x", 50_000), {})
    assert (other.network.width, other.optimiser.num_steps, other.objective.name) == (64, 20_000, "simclr")
    few = encoder_settings(named("folder:/data/x", 40), {})
    assert (few.network.width, few.optimiser.num_steps, few.optimiser.batch_size) == (16, 600, 40)
    assert few.optimiser.learning_rate == pytest.approx(0.1 * 40 / 64)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tinyimagenet"])
def test_encoders_of_table_2_are_its_baseline(dataset):
    baseline = train_settings(dataset, {"assimilation": "none"})
    found = encoder_settings(named(dataset, 50_000), {})
    assert found.change("diagnostics", knn_every=10) == baseline


def test_an_inverter_without_its_generator_names_the_file(dataset, data_root, tmp_path):
    with pytest.raises(MissingFileError, match=r"generator\.safetensors.*viewgen pretrain"):
        pretrain_inverter(dataset.name, tmp_path, data_root=str(data_root), settings=SETTINGS["inverter"])


def test_networks_of_another_size_are_refused(adversaries, data_root):
    from viewgen.datasets import load_dataset

    config = InverterTrainingConfig(**SETTINGS["inverter"])
    with pytest.raises(ModelError, match="8-px images, digits has 32-px images"):
        InverterTrainer(load_dataset("digits"), config, torch.device("cpu"), **adversaries)


def test_an_encoder_for_images_of_another_size_is_refused_before_the_training(dataset, data_root, tmp_path):
    with pytest.raises(ModelError, match=r"is for 32-px images, those of .* have 8 px"):
        pretrain_generator(
            dataset.name, tmp_path / "run", encoder="digits", data_root=str(data_root),
            settings=SETTINGS["generator"],
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [12, 4])
def test_a_data_set_of_a_size_that_stylegan2_cannot_make_is_refused(data_root, tmp_path, size):
    for split in ("train", "test"):
        (tmp_path / "data" / split / "x").mkdir(parents=True)
        for index in range(5):
            pixels = np.full((size, size, 3), 40 * index, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / "x" / f"{index}.png")
    with pytest.raises(ModelError, match="takes a power of two from 8 on"):
        pretrain_generator(f"folder:{tmp_path / 'data'}", tmp_path / "run", data_root=str(data_root))
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_on_other_images(dataset, pictures, data_root, tmp_path):
    settings = {"settings": SETTINGS["encoder"], "data_root": str(data_root)}
    pretrain_encoder(dataset.name, tmp_path, **settings)
    with pytest.raises(CacheMismatchError, match=r"(?s)another encoder training:.*dataset: there 'sha256:"):
        pretrain_encoder(f"folder:{pictures / 'test'}", tmp_path, **settings)


def test_a_folder_without_a_test_split_is_trained_and_not_measured(pictures, data_root, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(pictures / "train", alone)
    name = f"folder:{alone}"
    card = pretrain_encoder(name, tmp_path, data_root=str(data_root), settings=SETTINGS["encoder"])
    assert card["measured"] == {}
    assert (tmp_path / "encoder.safetensors").is_file()


def test_an_unknown_data_set_is_refused_before_a_folder_is_made(data_root, tmp_path):
    with pytest.raises((UsageError, DataError, MissingFileError)):
        pretrain_encoder("digitz", tmp_path / "run", data_root=str(data_root))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [[], ["encoder"], ["generator"], ["inverter"]])
def test_help_shows_an_example(words, capsys):
    code, text, _ = run(["pretrain", *words, "--help"], capsys)
    assert code == 0
    assert "viewgen pretrain" in text.split("Example")[1]
