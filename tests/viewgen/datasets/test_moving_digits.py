"""Moving digits: motion, marginals, what is shared, targets, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.datasets import load_dataset
from viewgen.datasets.moving_digits import NUM_CLIPS, RANGE, RenderedClips, corners
from viewgen.errors import DataError, UsageError
from viewgen.views import VIEWS
from viewgen.views.draws import ImageDraws
from viewgen.views.moving_digits import MovingDigitsConfig, MovingDigitsSource
from viewgen.views.source import Images

NAME = "moving-digits:digits?digits=digits"


@pytest.fixture(scope="module", autouse=True)
def _few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NUM_CLIPS, "train", 3000)
        patch.setitem(NUM_CLIPS, "test", 200)
        yield


@pytest.fixture(scope="module")
def clips():
    return load_dataset(NAME)


def test_positions_are_those_of_a_reflected_motion(clips):
    """A thousand frames, against a motion in steps of 0.01 px of time, reflected one by one."""
    some, frames = clips.pixels.clips(np.arange(50)), np.arange(1, 21)
    place = some.start.copy()
    velocity = 0.064 * np.stack([np.cos(some.direction), np.sin(some.direction)], axis=-1)
    expected = [place.copy()]
    for _ in frames[1:]:
        for _ in range(100):
            place += velocity
            below, above = place < 0, place > RANGE
            place[below] *= -1
            place[above] = 2 * RANGE - place[above]
            velocity[below | above] *= -1
        expected.append(place.copy())
    np.testing.assert_allclose(corners(some, frames), np.stack(expected, axis=1), atol=1e-6)


def test_later_positions_are_uniform_and_the_middle_is_13_8_px_off(clips):
    centres = clips.reals(range(3000)).astype(np.float64)
    counts = np.histogram2d(*(centres - 14).T, bins=6, range=[[0, RANGE]] * 2)[0].flatten()
    # 36 bins, 3,000 clips: χ² of 35 degrees of freedom
    assert ((counts - 3000 / 36) ** 2 / (3000 / 36)).sum() < 70
    assert np.linalg.norm(centres - 32, axis=1).mean() == pytest.approx(13.8, abs=0.2)


def test_a_digit_is_where_its_target_says(clips):
    images = clips.images(range(60)).astype(float).max(axis=1)
    centres = clips.reals(range(60))
    digits = load_dataset("digits")
    black = RenderedClips(
        "train",
        digits,
        replace(
            digits,
            pixels=type(
                "B", (), {"read": staticmethod(lambda rows: np.zeros((len(rows), 3, 32, 32), np.uint8))}
            )(),
        ),
    )
    content = black.clips(np.arange(60))
    alone = black.read(np.arange(60))[:, 0].astype(float)
    assert (images >= alone).all()
    # the centre of mass moves with the centre: whole pixels, then parts of one
    own = digits.images(content.digit)[:, 0, 2:30, 2:30].astype(float)
    rows, columns = np.mgrid[:64, :64]
    for clip in range(60):
        mass = alone[clip].sum()
        found = np.array([(alone[clip] * columns).sum(), (alone[clip] * rows).sum()]) / mass
        inside = np.array([(own[clip] * columns[:28, :28]).sum(), (own[clip] * rows[:28, :28]).sum()])
        np.testing.assert_allclose(found, inside / own[clip].sum() + centres[clip] - 14, atol=0.1)


def test_targets_and_name(clips):
    assert clips.name == "moving-digits?background=digits&digits=digits"
    assert load_dataset(clips.name).digest == clips.digest
    assert [one.name for one in clips.attributes] == ["digit", "background", "x", "y"]
    content = clips.pixels.clips(np.arange(5))
    digits = load_dataset("digits")
    np.testing.assert_array_equal(clips.targets[:5, 0], digits.targets[content.digit])
    assert not np.array_equal(load_dataset(NAME, "test").images([0]), clips.images([0]))


def test_pictures_of_a_folder(tmp_path, monkeypatch):
    """The name loads the same again, and a change of any picture is another digest."""
    monkeypatch.setitem(NUM_CLIPS, "train", 1)
    for number in range(9):
        (tmp_path / f"pictures/{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.full((40, 40, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number % 2}/{number}.png")
    name = f"moving-digits:folder:{tmp_path}/pictures?size=32?digits=digits"
    first = load_dataset(name, data_root=tmp_path / "data")
    assert first.name == name
    assert load_dataset(first.name, data_root=tmp_path / "data").digest == first.digest
    shown = int(first.pixels.clips(np.array([0])).background[0])
    for other in {0, 8} - {shown}:  # shown in no clip
        path = sorted((tmp_path / "pictures").glob("*/*.png"))[other]
        Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).save(path)
    again = load_dataset(name, data_root=tmp_path / "data")
    assert np.array_equal(again.images([0]), first.images([0]))
    assert again.digest != first.digest


def views(clips, share, *, same="picture", seed=0, rows=range(12)):
    index = torch.tensor([*rows])
    source = MovingDigitsSource(MovingDigitsConfig(share=share, same=same), clips.pixels)
    pixels = torch.from_numpy(clips.images(index.numpy()))
    made = source.views(Images(pixels=pixels, source_index=index, draws=ImageDraws(seed, index)), 11)
    return made.pixels.numpy()


def test_all_factors_shared_is_frame_20(clips):
    made = views(clips, "digit,position,background")
    np.testing.assert_array_equal(made[10], clips.images(range(12)))
    frames = clips.pixels.clips(np.arange(12))
    first = clips.pixels.render(frames, corners(frames, np.array([1])))[:, 0]
    np.testing.assert_array_equal(made[0], first)


@pytest.mark.parametrize("share", ["digit", "position", "background", "digit,background"])
def test_only_the_named_factors_are_shared(clips, share, monkeypatch):
    """What is rendered as the image, by factor, against frame 20 of the clips."""
    rendered = []
    render = RenderedClips.render

    def kept(self, content, places):
        rendered.append((content, places))
        return render(self, content, places)

    monkeypatch.setattr(RenderedClips, "render", kept)
    views(clips, share, rows=range(40))
    (clip, _), (image, places) = rendered[-2:]
    equal = {
        "digit": (image.digit == clip.digit).mean(),
        "position": (places[:, 0] == corners(clip, np.array([20]))[:, 0]).all(axis=1).mean(),
        "background": ((image.background == clip.background) & (image.crop == clip.crop).all(axis=1)).mean(),
    }
    for factor, part in equal.items():
        assert part == 1 if factor in share.split(",") else part < 0.1, factor
    again = views(clips, share, seed=1, rows=range(40))
    assert not np.array_equal(again[10], views(clips, share, rows=range(40))[10])


@pytest.mark.parametrize(
    "share", ["background", "digit", "position", "digit,position", "background,position"]
)
def test_pixels_show_what_is_shared(clips, share, monkeypatch):
    """Outside of both digits the picture of frame 20 or another; bright pixels those of a shared digit."""
    rendered = []
    render = RenderedClips.render

    def kept(self, content, places):
        rendered.append(places)
        return render(self, content, places)

    monkeypatch.setattr(RenderedClips, "render", kept)
    rows = range(24)
    image = views(clips, share, rows=rows)[10].astype(int)
    own = corners(clips.pixels.clips(np.array(rows)), np.array([20]))[:, 0]
    places = rendered[-1][:, 0]
    frame = clips.images(rows).astype(int)
    free = np.ones((len(rows), 64, 64), bool)
    for row in rows:
        for x, y in (own[row], places[row]):
            free[row, int(y) : int(y) + 30, int(x) : int(x) + 30] = False
    same = np.array([(image[row] == frame[row])[:, free[row]].mean() for row in rows])
    assert (same == 1).all() if "background" in share else np.median(same) < 0.8
    assert np.abs(places - own).max() < 1e-9 if "position" in share else np.abs(places - own).mean() > 5
    if share == "digit,position":  # the brightest pixels are the digit's, whatever lies behind it
        bright = frame.min(axis=1) > 230
        assert (image.min(axis=1)[bright] > 230).mean() > 0.9
        assert bright.sum() > 200


def test_pictures_without_classes(tmp_path, monkeypatch):
    """Photographs behind the digits: the digit and its place are read, and no class of a picture."""
    for part in ("train", "valid"):
        (tmp_path / f"DIV2K_{part}_HR").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"DIV2K_{part}_HR/1.png")
    found = load_dataset(
        f"moving-digits:photos:{tmp_path}?size=64?digits=digits", data_root=tmp_path / "data"
    )
    assert [one.name for one in found.attributes] == ["digit", "x", "y"]
    assert found.images(range(3)).shape == (3, 3, 64, 64)
    content = found.pixels.clips(np.arange(5))
    np.testing.assert_array_equal(found.target("digit")[:5], load_dataset("digits").targets[content.digit])
    settings = MovingDigitsConfig(share="background", same="class")
    with pytest.raises(DataError, match="have no classes; give same=picture"):
        VIEWS.entry("moving-digits").fit(settings, found)
    assert VIEWS.entry("moving-digits").fit(MovingDigitsConfig(share="digit", same="class"), found)


def test_a_factor_of_the_same_class_is_another_picture(clips):
    content = clips.pixels.clips(np.arange(200))
    other = clips.pixels.of_class(content, np.random.default_rng(0).random((200, 2)))
    targets = load_dataset("digits").targets
    np.testing.assert_array_equal(targets[other.digit], targets[content.digit])
    np.testing.assert_array_equal(targets[other.background], targets[content.background])
    assert (other.digit != content.digit).mean() > 0.9
    assert not np.array_equal(views(clips, "digit", same="class")[10], views(clips, "digit")[10])


def test_refusals(clips):
    for share in ("", "digit,digit", "pos"):
        with pytest.raises(UsageError, match="expected one or more of digit, position, background"):
            MovingDigitsConfig(share=share)
    with pytest.raises(UsageError, match="did you mean 'position'"):
        MovingDigitsConfig(share="positions")
    with pytest.raises(UsageError, match="same is given and has no effect"):
        MovingDigitsConfig(share="position", same="class").refuse_ignored({"same"})
    with pytest.raises(DataError, match="digits has none; give --dataset moving-digits"):
        VIEWS.entry("moving-digits").fit(MovingDigitsConfig(), load_dataset("digits"))
    with pytest.raises(DataError, match="has no single class for every image"):
        load_dataset("moving-digits:trifeature?digits=digits")
    with pytest.raises(UsageError, match="expected a data set of pictures"):
        load_dataset("moving-digits:moving-digits")
    assert json.dumps(MovingDigitsConfig(share="digit, position").factors) == '["digit", "position"]'
