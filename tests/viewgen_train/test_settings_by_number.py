"""Settings of a training by the number of its images, where the data set has no recipe."""

import pytest

from viewgen_train.dry_run import describe
from viewgen_train.plan import TrainOptions, make_plan
from viewgen_train.sizes import settings_by_number


def by_number(num_images, **given):
    found = settings_by_number("folder:/x", given, num_images, 32)
    return {name: found[name] for name in ("width", "batch_size", "learning_rate", "epochs") if name in found}


def test_few_images_have_a_small_network_and_many_epochs():
    assert by_number(128) == {"width": 16, "batch_size": 64, "learning_rate": 0.1, "epochs": 300}
    assert by_number(2_000) == {"width": 32, "batch_size": 128, "learning_rate": 0.2, "epochs": 256}
    assert by_number(60_000) == {}
    # a batch of all images, and a learning rate in proportion
    assert by_number(16) == {"width": 16, "batch_size": 16, "learning_rate": 0.025, "epochs": 600}


def test_what_is_given_is_not_replaced():
    assert "epochs" not in by_number(128, num_steps=7)
    assert by_number(128, optimiser={"epochs": 5, "batch_size": 32}) == {"width": 16, "learning_rate": 0.1}
    assert by_number(128, recipe="quick-simclr") == {}
    assert settings_by_number("digits", {}, 1_437, 32) == {}


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
    assert describe(tiny.name, device="cpu", **options).settings == plan.settings
