"""Caches of data sets that lie elsewhere and are new to the machine: at a URL, on a hub."""

import io

import numpy as np
import pytest
from PIL import Image

from viewgen.store import CacheReader, open_storage
from viewgen_pipelines.cache import cache

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def made(dataset, folder):
    url = str(folder / "views.zarr")
    options = {"views": 1, "executor": "local", "quality": False, "quiet": True}
    cache(dataset, method="original", out=url, data_root=str(folder / "data"), **options)
    reader = CacheReader(url)
    return reader.views(reader.rows, view_index=0)


def test_a_folder_at_a_url(tmp_path):
    url = f"memory://{tmp_path.name}/pictures"
    storage = open_storage(url)
    for number, pixels in enumerate(PIXELS):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format="PNG")
        storage.write(f"{'ab'[number // 3]}/{number}.png", out.getvalue())
    np.testing.assert_array_equal(made(f"folder:{url}", tmp_path), PIXELS.transpose(0, 3, 1, 2))


def test_a_data_set_of_a_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.fromarray(pixels) for pixels in PIXELS], "label": [0, 0, 0, 1, 1, 1]}
    table = datasets.Dataset.from_dict(rows, features=features)
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names, **_: asked.append(names) or {"train": table, "test": table}
    )
    np.testing.assert_array_equal(made("hf:someone/flowers", tmp_path), PIXELS.transpose(0, 3, 1, 2))
    assert asked[0] == ("someone/flowers",)
