"""The two image conventions, and pictures of batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.images import to_model, to_storage
from viewgen.picture import tile, write_png


def test_every_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1)
    model = to_model(levels)
    assert (model.dtype, model.min().item(), model.max().item()) == (torch.float32, -1, 1)
    assert torch.equal(to_storage(model), levels)
    torch.testing.assert_close(model.double(), levels.double() / 127.5 - 1, atol=1e-6, rtol=0)  # float32
    assert torch.equal(to_model(levels.numpy()), model)


def test_storage_rounds_to_the_nearest_level_and_clamps():
    step = 2 / 255
    model = torch.tensor([-7.0, -1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.51 * step, 1.0, 7.0])
    assert to_storage(model.view(1, 1, 1, 6)).flatten().tolist() == [0, 0, 1, 254, 255, 255]
    half = to_model(to_storage(model), dtype=torch.float16)
    assert half.dtype == torch.float16


def test_conversion_leaves_its_argument_alone():
    storage = np.full((1, 3, 2, 2), 7, np.uint8)
    storage.flags.writeable = False
    assert to_model(storage).shape == (1, 3, 2, 2)
    assert storage.max() == 7
    model = torch.full((1, 3, 2, 2), 5.0)
    to_storage(model)
    assert model.max() == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int8])
def test_only_uint8_counts_as_storage(dtype):
    with pytest.raises(TypeError, match="uint8"):
        to_model(torch.zeros(1, 3, 2, 2, dtype=dtype))


def test_tiles_lie_row_by_row(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 4, 6), np.uint8)
    canvas = tile(images, 2, gap=1, scale=2)
    assert canvas.shape == (3 * 9 + 1, 2 * 13 + 1, 3)
    painted = np.zeros(canvas.shape[:2], bool)
    for index, image in enumerate(images):
        top, left = 1 + 9 * (index // 2), 1 + 13 * (index % 2)
        for y in range(8):
            for x in range(12):
                assert canvas[top + y, left + x].tolist() == image[:, y // 2, x // 2].tolist()
                painted[top + y, left + x] = True
    assert (canvas[~painted] == 255).all()
    path = tmp_path / "new" / "tiles.png"
    write_png(canvas, path)
    assert np.array_equal(np.asarray(Image.open(path)), canvas)
    assert [file.name for file in path.parent.iterdir()] == ["tiles.png"]
