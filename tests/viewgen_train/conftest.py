"""A folder of 8-px pictures, a cache of random views of it, and trainings small enough for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.store import CacheSpec, open_storage
from viewgen_train.plan import TrainOptions, TrainPlan, make_plan
from viewgen_train.resolve import train_settings
from viewgen_train.settings import TrainSettings

SETTINGS: dict[str, Any] = {
    "width": 4,
    "projection_dim": 8,
    "batch_size": 8,
    "epochs": 4,
    "learning_rate": 0.05,
    "warm_up_epochs": 1.0,
    "knn_every": 2,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit-equal runs need one number of threads; small networks are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the curves out: drawing takes longer than these trainings."""
    monkeypatch.setattr("viewgen_train.curves.draw_curves", lambda *_: None)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 8-px pictures: 21 to train on, 8 to test with."""
    folder = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    for split, counts in {"train": (11, 10), "test": (4, 4)}.items():
        for label, (name, count) in enumerate(zip(("dark", "light"), counts, strict=True)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 128, (8, 8, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("tiny-root"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path, tiny_root: str) -> ImageDataset:
    return load_dataset(f"folder:{tiny_folder}", data_root=tiny_root)


@pytest.fixture(scope="session")
def spec_of(make_spec: Callable[..., CacheSpec]) -> Callable[..., CacheSpec]:
    """Return a factory (data set, **changes) of specifications that fit a data set."""

    def make(dataset: ImageDataset, **changes: Any) -> CacheSpec:
        about = {
            "name": dataset.name,
            "split": dataset.split,
            "digest": dataset.digest,
            "num_images": len(dataset),
            "images": {"first": len(dataset)},
        }
        about |= changes.pop("about", {})
        size = dataset.image_size
        defaults = {"num_images": len(dataset), "height": size, "width": size, "num_views": 3}
        return make_spec(**(defaults | {"dataset": about} | changes))

    return make


@pytest.fixture(scope="session")
def cache_of(
    spec_of: Callable[..., CacheSpec],
    write_cache: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., str]:
    """Return a factory (data set, labels, status, **changes) of complete caches of random views."""

    def make(
        dataset: ImageDataset,
        *,
        labels: Any = None,
        status: Any = None,
        url: str | None = None,
        **changes: Any,
    ) -> str:
        url = url or str(tmp_path_factory.mktemp("caches") / "views.zarr")
        spec = spec_of(dataset, **changes)
        labels = dataset.targets if labels is None else labels
        write_cache(open_storage(url), spec, status=status, label=labels[: spec.num_images])
        return url

    return make


@pytest.fixture(scope="session")
def tiny_cache(tiny: ImageDataset, cache_of: Callable[..., str]) -> str:
    return cache_of(tiny)


@pytest.fixture
def make_settings(tiny: ImageDataset) -> Callable[..., TrainSettings]:
    return lambda **settings: train_settings(tiny.name, SETTINGS | {"precision": "float32"} | settings)


@pytest.fixture
def make_tiny_plan(
    tiny: ImageDataset,
    tiny_cache: str,
    tiny_root: str,
    make_settings: Callable[..., TrainSettings],
    tmp_path: Path,
) -> Callable[..., TrainPlan]:
    """Return a factory of plans: settings by name, and `out`, `cache`, `memory_bytes`."""
    from viewgen.store import CacheReader

    def make(
        *,
        out: str | Path | None = None,
        cache: str | None = None,
        memory_bytes: int = 1 << 30,
        **settings: Any,
    ) -> TrainPlan:
        found = make_settings(**settings)
        reader = CacheReader(cache or tiny_cache)
        view_cache = {"url": reader.url, "identity": reader.spec.identity, "method": reader.spec.method}
        return TrainPlan(
            settings=found,
            dataset=tiny.name,
            split="train",
            digest=tiny.digest,
            num_images=reader.spec.num_images,
            cache=view_cache if found.views.name == "cache" else None,
            generator=None,
            out=str(out or tmp_path / "run"),
            data_root=tiny_root,
            storage_options={},
            memory_bytes=memory_bytes,
        )

    return make


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of caches, empty; the working directory is empty too."""
    folder = tmp_path / "caches"
    monkeypatch.setenv("VIEWGEN_CACHE", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def plan_of(tiny_root: str, caplog: pytest.LogCaptureFixture) -> Callable[..., Any]:
    """Return a function (options) → (plan, messages)."""

    def make(**options: Any) -> Any:
        caplog.clear()
        small = {"width": 2, "projection_dim": 4, "batch_size": 8, "epochs": 1, "warm_up_epochs": 0.0}
        settings = small | options.pop("settings", {})
        with caplog.at_level("INFO", "viewgen_train"):
            plan = make_plan(
                TrainOptions(**({"data_root": tiny_root, "device": "cpu"} | options), settings=settings)
            )
        return plan, "\n".join(caplog.messages)

    return make
