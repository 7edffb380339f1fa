"""Views under encoders that the search did not see, on constructed caches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from constructed_caches import IMAGES, NUM_VIEWS, SIDE, copies, measured, subject_of
from torch import nn

from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.seen import gradient_change
from viewgen.diagnostics.view_sample import by_images
from viewgen.errors import ModelError, UsageError
from viewgen.networks.files import save_model

pytestmark = pytest.mark.usefixtures("no_flushing", "one_folder_of_classifiers")


# seen by f alone


class _Blind(nn.Module):
    """An encoder that looks at the mean brightness of one half only, as an angle."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.half, self.config = half, SimpleNamespace(image_size=SIDE)

    def forward(self, x):
        side = x[..., : SIDE // 2] if self.half == 0 else x[..., SIDE // 2 :]
        angle = side.mean(dim=(1, 2, 3))
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_a_change_that_only_f_sees_does_not_survive(monkeypatch, tmp_path):
    views = copies(IMAGES).astype(int)
    views[..., : SIDE // 2] = (views[..., : SIDE // 2] + 40).clip(0, 255)
    files = {str(tmp_path / f"{name}.safetensors"): half for name, half in (("same", 0), ("other", 1))}
    monkeypatch.setattr(
        "viewgen.diagnostics.seen.load_model", lambda path, kind, device: _Blind(files[str(path)])
    )
    found = measured("seen", subject_of(views, encoder=_Blind(0)), encoders=tuple(files))
    assert found["survives same"] == pytest.approx(1)
    assert found["distance same"] == found["distance f"] > 0.1
    assert found["survives other"] == pytest.approx(0, abs=1e-6)
    # rounding decides between images of nearly one brightness
    assert found["own_image_nearest other"] > 0.9 > found["own_image_nearest f"]
    assert found["spread f"] == pytest.approx(0, abs=1e-5)


def test_encoders_of_trainings_are_named_by_their_folders(monkeypatch, tmp_path):
    folders = [tmp_path / name for name in ("seed-1", "seed-2")]
    for folder in folders:
        folder.mkdir()
    loaded = []
    monkeypatch.setattr(
        "viewgen.diagnostics.seen.load_model", lambda path, kind, device: loaded.append(path) or _Blind(1)
    )
    found = measured("seen", subject_of(copies(IMAGES), encoder=_Blind(0)), encoders=tuple(map(str, folders)))
    assert loaded == [folder / "last.safetensors" for folder in folders]
    assert {"distance f", "distance seed-1", "distance seed-2"} <= found.keys()


def test_encoders_that_cannot_be_compared_are_named(small_models, tmp_path):
    path = tmp_path / "e.safetensors"
    save_model(small_models.encoder, path)
    subject = subject_of(copies(IMAGES), encoder=small_models.encoder)
    with pytest.raises(UsageError, match="twice"):
        measured("seen", subject, encoders=(str(path), str(path)))
    wrong = _Blind(0)
    wrong.config.image_size = 16
    with pytest.raises(ModelError, match="16-px images, the views have 8 px"):
        measured("reach", subject_of(copies(IMAGES), encoder=wrong))


def test_blocks_of_images_give_what_all_at_once_give(monkeypatch):
    views = copies(IMAGES)
    whole = by_images(gradient_change, views[:, :, ::-1].copy(), IMAGES)
    monkeypatch.setattr("viewgen.diagnostics.view_sample.VALUES_AT_ONCE", 3 * views[0].size)
    assert torch.equal(by_images(gradient_change, views[:, :, ::-1].copy(), IMAGES), whole)


def test_encoders_are_separated_by_commas_on_the_command_line():
    entry = DIAGNOSTICS.entry("seen")
    assert entry.settings(encoders="a.safetensors, b.safetensors").encoders == (
        "a.safetensors",
        "b.safetensors",
    )
    assert entry.settings(encoders=["a"]).encoders == ("a",)


def test_gradient_change_in_closed_form():
    ramp = torch.arange(SIDE).expand(1, 3, SIDE, SIDE).float() * 10
    views = torch.stack([ramp[0] * 2, ramp[0] * 3])[None]
    assert gradient_change(views, ramp).tolist() == pytest.approx([1.5])
    assert gradient_change(views[:, :1] * 0 + ramp[:, None] + 7, ramp).tolist() == [0.0]
    brighter = subject_of((copies(IMAGES).astype(int) + 51).clip(0, 255))
    assert 0 < measured("seen", brighter)["pixel_change"] <= 0.2


class _Brightness:
    """In the place of LPIPS: the difference of mean brightness, in levels of storage."""

    def __init__(self, device):
        pass

    def features(self, images):
        return [127.5 * images.mean(dim=(1, 2, 3))]

    def distance(self, first, second):
        return (first[0] - second[0]).abs()


def test_lpips_compares_views_with_each_other_and_with_their_anchor(monkeypatch, tmp_path):
    monkeypatch.setattr("viewgen.inversion.perceptual.lpips_trunk", lambda: tmp_path / "vgg16.pth")
    steps = 10 * np.arange(1, NUM_VIEWS + 1)[None, :, None, None, None]
    subject = subject_of(100 + steps + 0 * copies(IMAGES), reconstructions=100 + 0 * IMAGES)
    assert "lpips_change" not in measured("seen", subject)
    assert any("LPIPS was not measured" in note for note in subject.notes)
    monkeypatch.setattr("viewgen.diagnostics.lpips.check_perceptual", lambda *_, **__: None)
    monkeypatch.setattr("viewgen.diagnostics.lpips.LpipsDistance", _Brightness)
    assert measured("seen", subject)["lpips_change"] == pytest.approx(steps.mean(), rel=1e-5)
    first, second = np.triu_indices(NUM_VIEWS, 1)
    expected = 10 * np.abs(first - second).mean()
    assert measured("diversity", subject)["lpips_diversity"] == pytest.approx(expected, rel=1e-5)
    assert "lpips_change" not in measured("seen", subject, num_lpips=0)
