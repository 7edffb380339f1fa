"""Settings of a training by the number of its images, where the data set has no recipe."""

import pytest

from viewgen_train.dry_run import describe
from viewgen_train.plan import TrainOptions, make_plan
from viewgen_train.sizes import settings_by_number


def by_number(num_images, **given):
    found = settings_by_number("folder:/x", given, num_images, 32)
    return {name: found[name] for name in found if name != "projection_dim"}


def test_few_images_have_a_small_network_and_many_epochs():
    small = {"width": 16, "batch_size": 64, "learning_rate": 0.1}
    assert by_number(128) == {**small, "epochs": 300, "warm_up_epochs": 15}
    assert by_number(2_000) == {
        "width": 32, "batch_size": 128, "learning_rate": 0.2, "epochs": 267, "warm_up_epochs": 13.4
    }  # fmt: skip
    assert by_number(60_000) == {}
    # a batch of all images, and a learning rate in proportion
    assert by_number(16) == {
        **small,
        "batch_size": 16,
        "learning_rate": 0.025,
        "epochs": 600,
        "warm_up_epochs": 30,
    }


@pytest.mark.parametrize("num_images", [64, 100, 127, 128, 191, 255, 999])
def test_the_steps_are_those_of_the_table(num_images):
    found = by_number(num_images)
    assert 600 <= found["epochs"] * (num_images // found["batch_size"]) < 600 + num_images // 64


def test_what_is_given_is_not_replaced():
    without_length = {"width": 16, "batch_size": 64, "learning_rate": 0.1}
    assert by_number(128, num_steps=7) == without_length
    assert by_number(128, optimiser={"epochs": 5, "batch_size": 32}) == {"width": 16, "learning_rate": 0.1}
    assert by_number(2_000, batch_size=256)["epochs"] == 572  # of 7 steps
    assert by_number(128, recipe="quick-simclr") == {}
    assert settings_by_number("digits", {}, 1_437, 32) == {}
    # a setting of the view source under the same name is another one
    assert by_number(128, generated="viewmaker", views={"learning_rate": 0.001})["learning_rate"] == 0.1


def test_an_experiment_trains_what_its_file_says(tiny, tiny_root, tmp_path):
    options = {"data_root": tiny_root, "settings": {"assimilation": "none", "batch_size": 8}}
    plan = make_plan(
        TrainOptions(dataset=tiny.name, device="cpu", out=str(tmp_path), by_number=False, **options)
    )
    assert (plan.settings.network.width, plan.settings.optimiser.epochs) == (64, 1000)


@pytest.mark.parametrize("limit", [None, 8])
def test_a_folder_is_trained_without_a_word_about_sizes(
    tiny, tiny_root, tmp_path, monkeypatch, caplog, limit
):
    monkeypatch.chdir(tmp_path)
    options = {"data_root": tiny_root, "limit": limit, "settings": {"assimilation": "none", "epochs": 2}}
    with caplog.at_level("INFO", "viewgen_train"):
        plan = make_plan(TrainOptions(dataset=tiny.name, device="cpu", **options))
    size = limit or 21
    assert (plan.settings.network.width, plan.settings.optimiser.batch_size) == (16, size)
    assert plan.settings.optimiser.epochs == 2
    assert f"has no recipe: width 16, projection_dim 64, batch_size {size}" in caplog.text
    description = describe(tiny.name, device="cpu", **options)
    assert description.settings == plan.settings
    assert "# by the number of images, as there is no recipe: width, projection_dim" in "\n".join(
        description.lines()
    )
