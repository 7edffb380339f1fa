"""Sizes by the number of images, sides that StyleGAN2 takes, costs of trainings, and dry runs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from viewgen.cli import main
from viewgen.errors import ModelError, UsageError
from viewgen.sizes import SIZES, check_side, data_size, defaults, fitting_side, takes_size
from viewgen_pretrained.cost import generator_cost, inverter_cost, mean_step_seconds
from viewgen_pretrained.dry_run import describe_pretraining
from viewgen_pretrained.pretrain import pretrain_generator, pretrain_inverter
from viewgen_pretrained.settings import GeneratorTrainingConfig, InverterTrainingConfig

SMALL_GENERATOR = {"channels": (6, 4), "num_mapping_layers": 2, "batch_size": 4, "num_images": 400}


def test_more_images_get_larger_networks_and_longer_trainings():
    assert [data_size(count) for count in (160, 999, 1_000, 2_000, 19_999, 60_000)] == [
        "small", "small", "medium", "medium", "medium", "large",
    ]  # fmt: skip
    for section, setting in (
        ("encoder", "width"),
        ("encoder", "num_steps"),
        ("generator", "num_images"),
        ("generator", "num_mapping_layers"),
        ("inverter", "num_steps"),
    ):
        found = [
            defaults("folder:/x", section, num_images=count, image_size=32)[setting]
            for count in (160, 2_000, 60_000)
        ]
        assert sorted(set(found)) == found, (section, setting)


def test_overlays_of_all_usual_sizes_have_networks():
    """At 32 px those of the recipe, at 128 px too."""
    for section, settings in (("generator", GeneratorTrainingConfig), ("inverter", InverterTrainingConfig)):
        name = "overlay:trifeature:128?size=128"
        found = defaults(name, section, num_images=6_000, image_size=128)
        assert len(settings(**found).channels) == 6


@pytest.mark.parametrize("size", SIZES)
def test_every_row_is_made_of_settings(size):
    generator = defaults("folder:/x", "generator", num_images=10**6, image_size=256, size=size)
    assert len(GeneratorTrainingConfig(**generator).channels) >= 7
    inverter = defaults("folder:/x", "inverter", num_images=10**6, image_size=256, size=size)
    assert len(InverterTrainingConfig(**inverter).channels) >= 7
    assert generator["r1_weight"] == 10.0


def test_r1_shrinks_with_the_pixels_and_batches_with_the_images():
    found = defaults("folder:/x", "generator", num_images=10, image_size=32)
    assert (found["r1_weight"], found["batch_size"]) == (1.0, 10)
    encoder = defaults("folder:/x", "encoder", num_images=10, image_size=32)
    assert (encoder["batch_size"], encoder["learning_rate"]) == (10, pytest.approx(0.1 * 10 / 64))


def test_a_recipe_comes_before_the_number_of_images():
    assert defaults("digits", "generator", num_images=160, image_size=32)["num_images"] == 192_000
    with pytest.raises(UsageError, match="size is 'medum'; did you mean 'medium'"):
        defaults("folder:/x", "encoder", num_images=10, image_size=32, size="medum")


@pytest.mark.parametrize(("side", "fitting"), [(3, 8), (8, 8), (48, 32), (64, 64), (100.5, 64)])
def test_the_fitting_side_is_a_power_of_two_below(side, fitting):
    assert fitting_side(side) == fitting


def test_another_side_is_refused_with_those_that_work():
    check_side("folder:/x", 64, resizable=True)
    check_side("folder:/x", None, resizable=True)
    with pytest.raises(ModelError) as error:
        check_side("folder:/x?size=48&test=0.2", 48, resizable=True)
    assert '"folder:/x?size=32&test=0.2" or "folder:/x?size=64&test=0.2"' in str(error.value)
    with pytest.raises(ModelError, match=r"stl10 has images of 96 px.*here 64 or 128 px: make a folder"):
        check_side("stl10", 96, resizable=False)


@pytest.mark.parametrize(
    ("name", "advised"),
    [("npz:/x.npz", "npz:/x.npz?size=32"), ("hf:a/b?label=l", "hf:a/b?size=32&label=l"),
     ("trifeature:48", "trifeature?size=32")],
)  # fmt: skip
def test_a_data_set_with_a_size_is_advised_its_own(name, advised):
    assert takes_size(name)
    with pytest.raises(ModelError) as error:
        check_side(name, 48, resizable=True)
    assert f'"{advised}"' in str(error.value)
    assert not takes_size("stl10")


@pytest.mark.parametrize("kind", ["generator", "inverter"])
def test_a_side_is_refused_before_torch_is_imported(kind, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (48, 48)).save(tmp_path / "photos" / label / "0.png")
    words = ["pretrain", kind, "--dataset", f"folder:{tmp_path / 'photos'}", "--out", str(tmp_path / "run")]
    program = (
        "import sys; sys.modules['torch'] = None  # an import fails\n"
        f"from viewgen.cli import main; main({words!r})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 1
    assert "StyleGAN2 takes a power of two from 8 on, here 32 or 64 px" in found.stderr


def test_a_dry_run_refuses_an_inverter_of_a_generator_that_needs_none(dataset, data_root, tmp_path):
    header = {"format": 1, "kind": "generator", "generator": "linear", "config": {"image_size": 8}}
    file = tmp_path / "generator.safetensors"
    save_file({"x": torch.zeros(1)}, file, metadata={"viewgen": json.dumps(header)})
    with pytest.raises(ModelError, match="generator of kind 'linear'; inverters are trained for StyleGAN2"):
        describe_pretraining("inverter", dataset.name, tmp_path, data_root=str(data_root), generator=file)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures of 48 px, one of which cannot be decoded."""
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((48, 48, 3), 60 * number, np.uint8)).save(folder / f"{number}.png")
    damaged = folder / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    return tmp_path / "photos"


@pytest.mark.parametrize("train", [pretrain_generator, pretrain_inverter])
def test_a_wrong_side_shows_before_a_picture_is_decoded(photos, tmp_path, train):
    with pytest.raises(ModelError, match=r"48 px; StyleGAN2 .*\?size=32.*\?size=64"):
        train(f"folder:{photos}", tmp_path / "run", data_root=str(tmp_path / "data"))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "data").exists()


def test_rare_steps_are_weighed_by_how_often_they_occur(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def step(number: int) -> None:
        clock[0] += 1.0 + 2.0 * (number % 4 == 0) + 8.0 * (number % 16 == 0)

    assert mean_step_seconds(step, [16, 4]) == pytest.approx(1 + 2 / 4 + 8 / 16)
    assert mean_step_seconds(step, []) == 1.0


def test_costs_grow_with_steps_and_widths():
    short = GeneratorTrainingConfig(**SMALL_GENERATOR)
    first = generator_cost(short, 8, "cpu")
    longer = generator_cost(short.replace(num_images=40_000), 8, "cpu")
    assert (first.steps, longer.steps) == (100, 10_000)
    assert longer.seconds > 10 * first.seconds
    inverter = InverterTrainingConfig(channels=(6, 4), hidden_dim=16, batch_size=4, num_steps=50)
    narrow = inverter_cost(inverter, short, 8, "cpu")
    wide = inverter_cost(inverter.replace(channels=(96, 64)), short, 8, "cpu")
    assert narrow.steps == 50
    assert narrow.seconds > 0
    assert wide.step_bytes > narrow.step_bytes


def dry_run(kind: str, dataset: str, data_root: Path, capsys, *more: str) -> str:
    words = ["pretrain", kind, "--dataset", dataset, "--data-root", str(data_root), "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--out", str(data_root / "nothing"), "--dry-run", *more])
    assert not end.value.code
    assert not (data_root / "nothing").exists()
    return capsys.readouterr().out


def test_a_dry_run_says_settings_time_and_memory(dataset, data_root, capsys):
    text = dry_run("generator", dataset.name, data_root, capsys, "--set", "channels=[6,4]")
    assert "# " + dataset.name + " train: 20 images of 8 px" in text
    assert "[generator] # --set NAME=VALUE" in text
    assert "channels = [6, 4]" in text
    assert 'augment = ["translation", "color", "cutout"]' in text
    assert "# time    " in text
    assert "# memory  " in text
    words = ("--json", "--set", "channels=[6,4]", "--set", "num_steps=9", "--set", "hidden_dim=8")
    found = json.loads(dry_run("inverter", dataset.name, data_root, capsys, *words))
    assert (found["settings"]["num_steps"], found["estimate"]["steps"]) == (9, 9)
    assert found["estimate"]["seconds"] > 0
    text = dry_run("encoder", dataset.name, data_root, capsys, "--set", "width=4", "--set", "num_steps=3")
    assert "[encoder.network] # --set network.NAME=VALUE" in text
    assert "width = 4" in text
