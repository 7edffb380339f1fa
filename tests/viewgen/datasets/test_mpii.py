"""MPII-like folders, in the published layout: people, key points, splits, and damage."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from viewgen.datasets import load_dataset
from viewgen.datasets.mpii import ANNOTATIONS, KEY_POINTS
from viewgen.errors import CorruptDataError, UsageError

SIDE = 250  # pixels of a person of scale 1


def structure(**fields):
    """Return a MATLAB structure."""
    found = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        found[name][0, 0] = value
    return found


def row(structures):
    """Return structures of the same fields as a row."""
    return np.concatenate(structures, axis=1)


def person(centre=(125.0, 125.0), scale=1.0, ids=range(16)):
    """Return a person whose key point k lies at (10·k, 5·k), written from 1, with a head of 30×40 px."""
    points = row([structure(x=10.0 * k + 1, y=5.0 * k + 1, id=k, is_visible=k % 2) for k in ids])
    return structure(
        x1=0.0, y1=0.0, x2=30.0, y2=40.0, scale=scale, objpos=structure(x=centre[0] + 1, y=centre[1] + 1),
        annopoints=structure(point=points),
    )  # fmt: skip


def undescribed():
    """Return a person without key points, as the release has them, with empty fields."""
    empty = np.zeros((0, 0))
    return structure(x1=0.0, y1=0.0, x2=1.0, y2=1.0, scale=empty, objpos=empty, annopoints=empty)


@pytest.fixture
def release(tmp_path):
    """Ten training pictures of 250 px, the first of two people, and one whose annotations are withheld."""
    folder = tmp_path / "mpii"
    (folder / "images").mkdir(parents=True)
    names = [f"{number:09d}.jpg" for number in range(11)]
    for number, name in enumerate(names):
        pixels = np.full((SIDE, SIDE, 3), 20 * number, np.uint8)
        pixels[:, :50, 1] = 255  # the left fifth is green
        Image.fromarray(pixels).save(folder / "images" / name, quality=95)
    people = [row([person(), person(scale=2.0, ids=(9, 10)), undescribed()])] + [person() for _ in range(9)]
    pictures = [
        structure(image=structure(name=name), annorect=rect)
        for name, rect in zip(names, [*people, undescribed()], strict=True)
    ]
    trained = np.array([[1] * 10 + [0]])
    savemat(folder / ANNOTATIONS, {"RELEASE": structure(annolist=row(pictures), img_train=trained)})
    return folder


def test_people_and_their_key_points(release, tmp_path):
    train, test = (
        load_dataset(f"mpii:{release}?size=50&test=0.2", split, data_root=tmp_path / "data")
        for split in ("train", "test")
    )
    assert (len(train) + len(test), train.image_size) == (11, 50)
    assert train.attribute_names == tuple(KEY_POINTS.values())
    assert len(train.real_names) == 27
    whole = [(one, index) for one in (train, test) for index in range(len(one)) if one.targets[index].all()]
    assert len(whole) == 10
    for dataset, index in whole:
        # the crop is the picture, a fifth as large; places are those of pixels' centres
        places = {name: dataset.target(name)[index] for name in dataset.real_names}
        assert places["left_wrist.x"] == pytest.approx((150 + 0.5) / 5 - 0.5, abs=1e-3)
        assert places["left_wrist.y"] == pytest.approx((75 + 0.5) / 5 - 0.5, abs=1e-3)
        assert places["head_size"] == pytest.approx(0.6 * 50 / 5, abs=1e-3)
        green = dataset.images([index])[0, 1]
        assert green[:, :8].min() > 200
        assert green[:, 12:].max() < 200
    ((dataset, index),) = [
        (one, index) for one in (train, test) for index in range(len(one)) if not one.targets[index].all()
    ]
    names = [name for name in dataset.attribute_names if dataset.target(name)[index]]
    assert names == ["head_top", "right_wrist"]
    # a square of 500 px around (125, 125), black outside of the picture
    assert dataset.target("right_wrist.x")[index] == pytest.approx((100 + 0.5 + 125) / 10 - 0.5, abs=1e-3)
    assert dataset.target("left_wrist.x")[index] == 0
    assert dataset.images([index])[0][:, :11].max() < 20
    again = load_dataset(train.name, data_root=tmp_path / "data")
    assert again.digest == train.digest
    assert np.array_equal(again.real_targets, train.real_targets)


def test_damage_is_told(release, tmp_path):
    def load(query="?size=16"):
        return load_dataset(f"mpii:{release}{query}", data_root=tmp_path / "data")

    (release / "images" / "000000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"names .*000000003.jpg, which is not there"):
        load()
    savemat(release / ANNOTATIONS, {"RELEASE": structure(annolist=np.zeros((0, 0)))})
    with pytest.raises(CorruptDataError, match="is not the published annotations"):
        load()
    (release / ANNOTATIONS).write_bytes(b"no MATLAB file")
    with pytest.raises(CorruptDataError, match="cannot be read as a MATLAB file"):
        load()
    (release / ANNOTATIONS).unlink()
    with pytest.raises(FileNotFoundError, match="as it is published"):
        load()
    with pytest.raises(UsageError, match="needs a path"):
        load_dataset("mpii", data_root=tmp_path)
