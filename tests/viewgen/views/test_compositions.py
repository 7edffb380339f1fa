"""Combinations of expert operations by name, and where a user names them."""

import pytest
import torch

from viewgen.datasets import load_dataset
from viewgen.diagnostics.subjects import SubjectArguments
from viewgen.errors import UsageError
from viewgen.views.compositions import (
    LETTERS,
    PRESETS,
    composition,
    composition_name,
    dataset_expert,
    expert_values,
    refuse_colorless,
)
from viewgen.views.expert import ExpertConfig


def test_letters_are_the_printed_operations():
    """Huang et al.: crop 0.08, blur of 1 px with p 0.5, grey 0.2, jitter 0.8 of strength 0.5, flip 0.5."""
    expected = ExpertConfig(
        crop_scale=(0.08, 1.0),
        blur_probability=0.5,
        blur_sigma=(1.0, 1.0),
        grayscale_probability=0.2,
        jitter_probability=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        flip_probability=0.5,
    )
    assert ExpertConfig(**expert_values("abcde")) == expected
    assert ExpertConfig(**expert_values("edcba")) == expected


@pytest.mark.parametrize("letter", LETTERS)
def test_a_letter_alone_turns_the_others_off(letter):
    config = ExpertConfig(**expert_values(letter))
    acts = {
        "a": config.crop_scale != (1.0, 1.0),
        "b": config.blur_probability > 0,
        "c": config.grayscale_probability > 0,
        "d": config.jitter_probability > 0,
        "e": config.flip_probability > 0,
    }
    assert [name for name, on in acts.items() if on] == [letter]
    assert config.randaugment_ops == config.solarize_probability == 0


def test_strength_0_changes_no_colour():
    found = expert_values("ad:0")
    assert [found[name] for name in ("brightness", "contrast", "saturation", "hue")] == [0, 0, 0, 0]


def test_strength_scales_the_jitter():
    for name, strength in {"ad:0.25": 0.25, "ad": 0.5, "simclr": 1.0, "infomin:0.5": 0.5}.items():
        config = ExpertConfig(**expert_values(name))
        found = [config.brightness, config.contrast, config.saturation, config.hue]
        assert found == pytest.approx([0.8 * strength] * 3 + [0.2 * strength]), name
    assert ExpertConfig(**expert_values("d:2.5")).hue == 0.5


def test_presets_are_the_published_ones():
    simclr, infomin = (ExpertConfig(**expert_values(name)) for name in ("simclr", "infomin"))
    assert simclr.crop_scale == (0.08, 1.0)
    assert infomin.crop_scale == (0.2, 1.0)
    for config in (simclr, infomin):
        assert (config.blur_probability, config.blur_sigma, config.blur_taps(224, 224)) == (
            0.5,
            (0.1, 2.0),
            23,
        )
        assert (config.flip_probability, config.grayscale_probability) == (0.5, 0.2)
    assert simclr.randaugment_ops == 0
    assert (infomin.randaugment_ops, infomin.randaugment_magnitude) == (2, 10.0)
    assert (infomin.randaugment_deviation, infomin.randaugment_probability) == (0.5, 0.5)
    assert (infomin.brightness, infomin.contrast, infomin.saturation, infomin.hue) == (0.8, 0.8, 0.8, 0.2)
    assert infomin.jitter_probability == 0.8


@pytest.mark.parametrize("name", [*PRESETS, "a", "ab", "abc", "abcd", "abcde", "be"])
def test_no_value_of_a_combination_is_ignored(name):
    values = expert_values(name)
    ExpertConfig(**values).refuse_ignored(values)
    assert composition(name).summary


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("infomn", "did you mean 'infomin'|infomin"),
        ("abx", "a random resized crop"),
        ("", "letters"),
        ("aab", "a is there twice"),
        ("abc:0.5", "add d"),
        ("ad:", "strength is ''"),
        ("ad:3", "from 0 to 2.5"),
        ("ad:-0.1", "a number from 0 to 2.5"),
        ("infomin:nan", "strength is 'nan'"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        expert_values(name)


def test_c_is_refused_for_grey_images():
    digits = load_dataset("digits")
    with pytest.raises(UsageError, match="give 'abde'"):
        refuse_colorless("abcde", digits)
    for name in ("abde", "simclr", None):
        refuse_colorless(name, digits)
    refuse_colorless("abcde", load_dataset("trifeature:32"))


def test_of_d_on_grey_images_it_is_said_what_acts(caplog):
    digits = load_dataset("digits")
    for name in ("ab", "simclr", None):
        refuse_colorless(name, digits)
    refuse_colorless("ad", load_dataset("trifeature:32"))
    assert not caplog.records
    refuse_colorless("ad:0.25", digits)
    assert caplog.messages == [
        "augment is 'ad:0.25', and the images of digits are grey: of the colour distortion d, hue and "
        "saturation do nothing there; brightness and contrast act"
    ]


def test_the_name_of_a_combination_is_found_from_its_values():
    for name in ("a", "ad", "abcde", "ad:0.125", "abd:1", "d:0", *PRESETS, "infomin:0.5"):
        assert composition_name(ExpertConfig(**expert_values(name))) == name
    assert composition_name(ExpertConfig(**expert_values("ad:0.5"))) == "ad"
    assert composition_name(ExpertConfig(**expert_values("ad") | {"jitter_probability": 1.0})) is None
    assert composition_name(ExpertConfig(brightness=40.0)) is None


def test_views_of_a_source_do_not_move_when_an_operation_is_added():
    """Where blur is not drawn, a view is the one without blur."""
    from viewgen.views.draws import ImageDraws
    from viewgen.views.expert import ExpertSource
    from viewgen.views.source import Images

    pixels = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator())
    rows = torch.arange(12)
    images = Images(pixels=pixels, source_index=rows, draws=ImageDraws(3, rows))
    plain = ExpertSource(ExpertConfig()).views(images, 3).pixels
    blurred = ExpertSource(ExpertConfig(blur_probability=0.5)).views(images, 3).pixels
    equal = (plain == blurred).flatten(2).all(dim=2).float().mean()
    assert 0.2 < float(equal) < 0.8


def test_calibration_and_other_measurements_take_a_combination():
    arguments = SubjectArguments(kind="dataset", subject="digits", augment="ad:1")
    assert arguments.open().expert == ExpertConfig(**expert_values("ad:1"))
    recipe = SubjectArguments(kind="dataset", subject="digits").open().expert
    assert recipe == dataset_expert("digits")
    assert recipe.flip_probability == 0
