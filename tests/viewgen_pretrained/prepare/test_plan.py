"""The plan alone: what the data says, what is planned for it, its file, and the gates; nothing is trained."""

import dataclasses
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewgen.config_file import dotted, read_config
from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.errors import MissingFileError, UsageError
from viewgen.networks.files import save_model
from viewgen.networks.stylegan2 import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from viewgen_pretrained.prepare import data, estimate
from viewgen_pretrained.prepare.data import DataReport, Side, chosen_side, look_at
from viewgen_pretrained.prepare.estimate import stage_plans
from viewgen_pretrained.prepare.gates import GateSettings, judge
from viewgen_pretrained.prepare.plan import Plan, make_plan
from viewgen_pretrained.prepare.stages import Work, cache_settings


class Noise:
    """Images that are drawn when they are read, so that 60,000 take no memory."""

    def read(self, indices):
        random = np.random.default_rng(0)
        return random.integers(0, 256, (len(indices), 3, 32, 32), dtype=np.uint8)


def images_of(count: int, name: str = "folder:/data/x?size=32") -> ImageDataset:
    return ImageDataset(
        name=name,
        split="train",
        image_size=32,
        num_classes=4,
        class_names=("a", "b", "c", "d"),
        pixels=Noise(),
        targets=np.arange(count) % 4,
    )


def report_of(images: ImageDataset, *, grey: bool = False) -> DataReport:
    return DataReport(
        dataset=images.name, split=images.split, num_images=len(images), image_size=images.image_size,
        num_test=0, raw_sides=None, grey=grey, classes={}, contrast=0.2, num_flat=0, num_duplicates=0,
        num_leaked=0, num_examined=len(images),
    )  # fmt: skip


def plan_of(
    count: int = 160, name: str = "folder:/data/x?size=32", *, grey: bool = False, kept=None, **given
) -> Plan:
    images = images_of(count, name)
    return make_plan(images, report_of(images, grey=grey), given, "cpu", kept)


def test_160_photos_2000_and_60000_images_get_different_plans():
    plans = [plan_of(count) for count in (160, 2_000, 60_000)]
    assert [plan.networks for plan in plans] == ["small", "medium", "large"]
    sizes = [
        (plan.encoder.network.width, plan.generator.num_images, plan.inverter.num_steps) for plan in plans
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    lines = [[stage.line() for stage in stage_plans(plan, images_of(160))] for plan in plans]
    assert "resnet18 of width 16, 600 steps of 64 images" in lines[0][0]
    assert "StyleGAN2 of channels 512-512-512-512, 5,000,000 images" in lines[2][2]
    assert [line.split()[0] for line in lines[1]] == ["encoder", "epsilon", "generator", "inverter", "cache"]


def test_the_file_holds_every_choice_and_gives_the_same_plan_again(tmp_path):
    plan = plan_of(160, **{"encoder.width": 12, "cache.views": 4, "gates.noise": 0.25})
    file = tmp_path / "prepare.toml"
    file.write_text(plan.toml())
    document = tomllib.loads(plan.toml())
    assert document["encoder"]["width"] == 12
    assert document["generator"]["augment"] == ["translation", "color", "cutout"]
    assert document["cache"] | {"settings": 0, "invert": 0} == {
        "method": "wsearch", "views": 4, "settings": 0, "invert": 0,
    }  # fmt: skip
    assert document["cache"]["settings"]["epsilon_boundary"] == "auto"
    assert document["gates"]["noise"] == 0.25
    given = read_config(file, "the file")
    again = plan_of(160, **given)
    assert again == plan
    # the file decides, even if there are more images by now
    assert plan_of(60_000, **given).document() == plan.document()


def test_networks_of_another_size_can_be_asked_for():
    small = plan_of(60_000, networks="small")
    assert (small.encoder_given, small.generator) == (plan_of(160).encoder_given, plan_of(160).generator)
    assert plan_of(160, networks="medium").generator.num_images == 400_000


def test_grey_images_get_expert_views_without_colour():
    assert plan_of(160).encoder.expert.hue > 0
    grey = plan_of(160, grey=True)
    assert (grey.encoder.expert.hue, grey.encoder.expert.grayscale_probability) == (0.0, 0.0)


def test_a_data_set_with_a_recipe_is_planned_by_it():
    plan = plan_of(60_000, "fashion-mnist", **{"encoder.file": "", "generator.file": "", "inverter.file": ""})
    assert (plan.encoder.optimiser.num_steps, plan.generator.num_images) == (1200, 240_000)
    assert plan.inversion.settings.learning_rate == 0.02
    at_hand = plan_of(60_000, "fashion-mnist")
    assert at_hand.files.keys() == {"encoder", "generator", "inverter", "discriminator"}
    assert at_hand.encoder is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encodr.width": 3}, r"no choice 'encodr.width'; did you mean 'encoder'"),
        ({"encoder.widht": 3}, "did you mean 'width'"),
        ({"generator.channel": [3]}, "did you mean 'channels'"),
        ({"inverter.num_steps": 0}, "num_steps is 0"),
        ({"cache.method": "wsearh"}, "did you mean 'wsearch'"),
        ({"cache.max_steps": 3}, "cache.max_steps is no choice"),
        ({"cache.views": 0}, "cache.views is 0"),
        ({"cache.settings.sigma": 1.0}, "sigma is a setting of"),
        ({"gates.noize": 1.0}, "did you mean 'noise'"),
        ({"networks": "tiny"}, "expected one of small, medium, large"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"generator.seed": 3}, r"generator\.seed would be ignored"),
        ({"widht": 3}, "no choice 'widht'"),
    ],
)
def test_wrong_choices_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        plan_of(160, **given)
    with pytest.raises(MissingFileError, match="no weights at nothing"):
        plan_of(160, **{"encoder.file": "nothing"})


def test_distances_of_the_views_are_those_of_the_calibration_unless_given():
    found = cache_settings(plan_of(160), 0.42)
    assert (found["epsilon_boundary"], found["epsilon_uniformity"]) == (0.42, 0.7)
    assert found["invert.max_steps"] == 25
    given = cache_settings(plan_of(160, **{"cache.settings.epsilon_boundary": 0.1}), 0.42)
    assert (given["epsilon_boundary"], given["epsilon_uniformity"]) == (0.1, 0.167)
    assert "epsilon_boundary" not in cache_settings(plan_of(160, **{"cache.method": "wperturb"}), 0.42)
    alone = cache_settings(plan_of(160, **{"cache.settings.uniformity_weight": 0.0}), 0.42)
    assert "epsilon_uniformity" not in alone, "without a push apart there is no distance of it"


def test_the_gate_behind_the_inverter_goes_by_the_epsilon_of_the_views(tmp_path):
    def work_of(**given) -> Work:
        work = Work(
            plan=plan_of(8, **given), images=images_of(8), test=None, out=tmp_path, device="cpu",
            data_root=None, records={"epsilon": {"measured": {"epsilon_boundary": 0.42}}},
        )  # fmt: skip
        return work

    given = work_of(**{"cache.settings.epsilon_boundary": 0.1})
    assert (work_of().epsilon, given.epsilon) == (0.42, 0.1)
    assert given._key("inverter") != work_of()._key("inverter")
    assert given._key("generator") == work_of()._key("generator")


def reread(plan: Plan) -> dict:
    """The choices in the file of a plan."""
    return dict(dotted(tomllib.loads(plan.toml())))


def test_settings_of_an_encoder_under_any_name_come_back_from_the_file():
    given = {"encoder.objective": "infonce", "encoder.temperature": 0.2, "encoder.network.width": 12,
             "encoder.expert": {"hue": 0.05}}  # fmt: skip
    plan = plan_of(160, **given)
    kept = reread(plan)
    assert (kept["encoder.width"], kept["encoder.expert.hue"]) == (12, 0.05)
    assert plan_of(160, kept=kept) == plan
    # one setting under its two names
    assert plan_of(160, kept=kept, **{"encoder.network.width": 8}).encoder.network.width == 8


def test_the_networks_at_hand_come_back_from_the_file():
    plan = plan_of(600, "fashion-mnist")
    assert "discriminator.file" in reread(plan)
    assert plan_of(600, "fashion-mnist", kept=reread(plan)) == plan
    again = plan_of(600, "fashion-mnist", kept=reread(plan), **{"generator.num_images": 64})
    assert again.files.keys() == {"encoder"}
    assert again.inverter is not None


def save_adversaries(folder: Path, *, discriminator: bool = True) -> str:
    folder.mkdir()
    shape = {"image_size": 32, "channels": (6, 6, 4, 4)}
    save_model(
        Generator(GeneratorConfig(**shape, num_mapping_layers=1, style_dim=16)),
        folder / "generator.safetensors",
    )
    if discriminator:
        save_model(Discriminator(DiscriminatorConfig(**shape)), folder / "discriminator.safetensors")
    return str(folder / "generator.safetensors")


def test_a_given_generator_brings_its_discriminator_and_no_inverter_of_another(tmp_path):
    mine, alone = save_adversaries(tmp_path / "a"), save_adversaries(tmp_path / "b", discriminator=False)
    plan = plan_of(600, "fashion-mnist", **{"generator.file": mine})
    assert plan.files["discriminator"] == tmp_path / "a" / "discriminator.safetensors"
    assert plan.inverter is not None, "that at hand inverts another generator"
    with pytest.raises(MissingFileError, match=r"b/discriminator.safetensors.*discriminator.file=FILE"):
        plan_of(160, **{"generator.file": alone})
    beside = str(tmp_path / "a" / "discriminator.safetensors")
    assert plan_of(160, **{"generator.file": alone, "discriminator.file": beside}).generator is None
    for kind in ("inverter", "discriminator"):
        with pytest.raises(UsageError, match=f"{kind}.file is given, and the generator is trained"):
            plan_of(160, **{f"{kind}.file": beside})
    # the cost of an inverter for a generator at hand, whose codes have a width of their own
    plan = plan_of(8, **{"generator.file": mine, "inverter.channels": [4], "encoder.width": 4})
    assert plan_inverter(plan) == (16, (6, 6, 4, 4))


def plan_inverter(plan: Plan) -> tuple[int, tuple[int, ...]]:
    plan = dataclasses.replace(plan, inverter=plan.inverter.replace(channels=(4, 4, 4, 4), hidden_dim=8))
    models = estimate._models(plan, 32, "cpu")
    assert models.generator is not None
    return models.inverter.config.style_dim, estimate.shape_of(plan.files["generator"]).channels


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"generator.r1_weight": 0.0}, "generator.r1_interval"),
        ({"inverter.perceptual": "none"}, "inverter.perceptual_weight"),
        ({"cache.method": "wperturb"}, "cache.settings.epsilon_boundary"),
        ({"cache.method": "expert"}, "cache.invert.max_steps"),
        ({"cache.method": "jigsaw"}, "cache.invert.max_steps"),
        ({"cache.settings.uniformity_weight": 0.0}, "cache.settings.epsilon_uniformity"),
        ({"encoder.epochs": 5}, "encoder.num_steps"),
        ({"encoder.expert.jitter_probability": 0.0}, "encoder.expert.hue"),
    ],
)
def test_the_command_line_leaves_out_what_the_file_says_otherwise(given, gone):
    first = plan_of(160)
    kept = reread(first)
    assert gone in kept
    plan = plan_of(160, kept=kept, **given)
    assert gone not in plan.document()
    assert plan_of(160, kept=reread(plan)) == plan
    name, value = next(iter(given.items()))
    assert plan.document()[name] == value
    # the file alone is held to its word
    if not name.startswith("cache.method") and name != "cache.settings.uniformity_weight":
        with pytest.raises(UsageError):
            plan_of(160, kept=kept | given)


def test_epochs_are_the_length_of_a_training_with_a_row_of_steps():
    plan = plan_of(160, **{"encoder.epochs": 7})
    assert (plan.encoder.optimiser.epochs, plan.encoder.optimiser.num_steps) == (7, None)
    back = plan_of(160, kept=reread(plan), **{"encoder.num_steps": 11})
    assert back.encoder.optimiser.num_steps == 11
    with pytest.raises(UsageError, match="leave one of them out"):
        plan_of(160, **{"encoder.epochs": 7, "encoder.num_steps": 11})


def test_another_row_replaces_the_rows_values_in_the_file_and_keeps_what_was_chosen():
    kept = reread(plan_of(160, **{"encoder.width": 12, "cache.views": 4}))
    plan = plan_of(160, kept=kept, networks="medium")
    fresh = plan_of(160, networks="medium", **{"encoder.width": 12, "cache.views": 4})
    assert plan == fresh
    assert (plan.encoder.network.width, plan.generator.num_images, plan.views) == (12, 400_000, 4)
    assert plan_of(160, kept=kept, networks="small") == plan_of(160, kept=kept)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cache.method": "viewmaker"}, "made in a training step"),
        ({"cache.method": "frequency", "cache.views": 3}, "cache.views 3: method 'frequency' makes 2"),
        ({"discriminator.channels": [3]}, "the discriminator has only discriminator.file"),
    ],
)
def test_what_the_cache_would_refuse_is_refused_before_the_trainings(given, message):
    with pytest.raises(UsageError, match=message):
        plan_of(160, **given)


def save(path: Path, side: int, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(value)
    Image.fromarray(random.integers(0, 256, (side, side + 4, 3), dtype=np.uint8)).save(path)


def test_pictures_of_any_size_get_one_that_the_networks_take(tmp_path):
    for number, side in enumerate((40, 50, 200)):
        save(tmp_path / "x" / f"{number}.png", side, number)
    side = chosen_side(f"folder:{tmp_path}", "train", None)
    assert side.dataset == f"folder:{tmp_path}?size=32"
    assert side.raw == (40, 200)
    assert "scaled and cropped to 32 px" in side.note
    asked = chosen_side(f"folder:{tmp_path}?size=48&test=0.4", "train", None)
    assert asked.dataset == f"folder:{tmp_path}?size=32&test=0.4"
    assert asked.note == "48 px is no power of two, which the networks take: 32 px"
    assert chosen_side(f"folder:{tmp_path}?size=64", "train", None).note == ""
    assert chosen_side("digits", "train", None) == Side(dataset="digits")
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 28, 28), np.uint8))
    assert chosen_side(f"npz:{tmp_path}/a.npz", "train", None).dataset == f"npz:{tmp_path}/a.npz?size=16"
    np.savez(tmp_path / "b.npz", images=np.zeros((5, 32, 32, 3), np.uint8))
    same = chosen_side(f"npz:{tmp_path}/b.npz", "train", None)
    assert same == Side(dataset=f"npz:{tmp_path}/b.npz", raw=(32, 32))


def test_a_picture_that_cannot_be_opened_hides_no_others(tmp_path, monkeypatch):
    for number in range(6):
        save(tmp_path / "x" / f"{number}.png", 32, number)
    (tmp_path / "x" / "0.png").write_bytes(b"nothing")
    counted: list[int] = []
    monkeypatch.setattr(data, "MOST_HEADERS", 3)
    monkeypatch.setattr(data, "data_size", lambda count: counted.append(count) or "small")
    chosen_side(f"folder:{tmp_path}", "train", None)
    assert counted == [5]


def test_the_report_counts_copies_flat_images_and_leaks():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    pixels[5] = pixels[3]
    pixels[7] = 90
    images = dataclasses.replace(
        images_of(20), pixels=MemoryImages(pixels), image_size=8, targets=np.array([0] * 5 + [1] * 15)
    )
    test = dataclasses.replace(
        images, split="test", pixels=MemoryImages(pixels[:2]), targets=np.zeros(2, int)
    )
    report = look_at(images, test, Side(dataset=images.name, raw=(8, 9), note="changed"))
    assert (report.num_duplicates, report.num_flat, report.num_leaked, report.grey) == (1, 1, 2, False)
    assert report.classes == {"a": 5, "b": 15}
    text = "\n".join(report.lines())
    assert "20 images of 8 px, colour, from files whose shorter side has 8 to 9 px" in text
    assert "2 classes of 5 to 15 images" in text
    assert "2 test images are training images too" in text
    alone = look_at(
        dataclasses.replace(images, pixels=MemoryImages(pixels[:, :1].repeat(3, 1))), None, Side(dataset="x")
    )
    assert alone.grey
    assert '"folder:/data/x?size=32&test=0.2"' in "\n".join(alone.advice())


GOOD = {
    "encoder": {"knn5_top1": 0.6, "largest_class": 0.25, "knn_images": 160},
    "epsilon": {"epsilon_boundary": 0.4, "different_images": 1.2},
    "generator": {"kernel_distance": 0.1, "kernel_distance_shuffled": 2.0, "sample_spread": 1.0,
                  "image_spread": 1.2},
    "inverter": {"psnr_db": 20.0, "psnr_mean_image_db": 12.0, "refined_beyond_epsilon": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "name", "bad"),
    [
        ("encoder", "chance_errors", {"knn5_top1": 0.28}),
        ("epsilon", "spread", {"different_images": 0.1, "epsilon_boundary": 0.01}),
        ("epsilon", "expert_views", {"epsilon_boundary": 1.15}),
        ("generator", "noise", {"kernel_distance": 1.1}),
        # a generator of 15 steps on photos, and an encoder of 12 that took its samples for them
        (
            "generator",
            "noise",
            {
                "kernel_distance": -1.126,
                "kernel_distance_shuffled": 4.755,
                "kernel_distance_patches": 162.7,
                "kernel_distance_patches_shuffled": 37.0,
            },
        ),
        ("generator", "variety", {"sample_spread": 0.1}),
        ("inverter", "gain_db", {"psnr_db": 12.5}),
        ("inverter", "beyond", {"refined_beyond_epsilon": 0.8}),
    ],
)
def test_a_gate_stops_bad_numbers_with_advice(stage, name, bad):
    assert all(gate.passed and not gate.advice for gate in judge(stage, GOOD[stage], GateSettings()))
    failed = [gate for gate in judge(stage, GOOD[stage] | bad, GateSettings()) if not gate.passed]
    assert [gate.name for gate in failed] == [name]
    assert failed[0].advice
    assert failed[0].to_json()["limit"] == failed[0].limit


def test_limits_can_be_changed_and_images_without_classes_have_no_chance():
    assert judge("encoder", {}, GateSettings()) == []
    # two errors above chance would be more than all of them
    few = {"knn5_top1": 1.0, "largest_class": 0.95, "knn_images": 12}
    assert judge("encoder", few, GateSettings()) == []
    mild = GateSettings(noise=0.9)
    gates = {
        gate.name: gate.passed
        for gate in judge("generator", GOOD["generator"] | {"kernel_distance": 1.7}, mild)
    }
    assert gates["noise"]
