"""Small caches of made-up images, the gallery's application over HTTP, and a headless browser."""

import http.client
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.status import Status
from viewgen.store import (
    CacheSpec,
    ShardCommit,
    Storage,
    commit_shard,
    create_cache,
    open_storage,
    write_shard,
)
from viewgen.store.quality import write_scores
from viewgen_pipelines.gallery import sources
from viewgen_pipelines.gallery.app import build_app
from viewgen_pipelines.gallery.sources import CacheSource

NASTY = '<script>document.title="pwned"</script>'
SIZE, NUM_IMAGES = 8, 40


@pytest.fixture(autouse=True)
def quick_writes(no_flushing: None) -> None:
    """Caches of tests need not survive a power cut."""


@pytest.fixture(scope="session")
def dataset() -> ImageDataset:
    """40 images of 8 px in three classes, one of which has a name that is markup."""
    pixels = np.random.default_rng(1).integers(0, 256, (NUM_IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    return ImageDataset(
        name="made-up",
        split="train",
        image_size=SIZE,
        num_classes=3,
        class_names=("cat", NASTY, "zebra & co"),
        pixels=MemoryImages(pixels),
        targets=np.arange(NUM_IMAGES, dtype=np.int64) % 3,
    )


@pytest.fixture
def at_hand(dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    """Have the gallery find the data set."""
    monkeypatch.setattr(sources, "load_dataset", lambda *_, **__: dataset)
    return dataset


@dataclass
class MadeCache:
    """A cache that a test fills shard by shard; rows 5 and 6 have not converged and failed."""

    url: str
    spec: CacheSpec
    storage: Storage
    arrays: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    def commit(self, *shard_ids: int, run_id: str = "run-a") -> None:
        for shard_id in shard_ids:
            arrays = self.make(shard_id)
            self.arrays[shard_id] = arrays
            rows = self.spec.shard_rows(shard_id)
            failures = {
                row: f"ValueError: {NASTY}"
                for row, code in zip(rows, arrays["status"].tolist(), strict=True)
                if code == 3
            }
            commit_shard(
                self.storage,
                ShardCommit(
                    shard_id=shard_id,
                    identity=self.spec.identity,
                    objects=write_shard(self.storage, self.spec, shard_id, arrays),
                    status=arrays["status"],
                    failures=failures,
                    run_id=run_id,
                    seconds=2.0,
                    stats={
                        "mean_pairwise": 0.4,
                        "mean_pairwise_counts": [0] * 20 + [len(rows)] + [0] * 79,
                        "anchor_distance": 0.1,
                    },
                ),
            )

    def score(self) -> dict[str, np.ndarray]:
        """Keep scores: rows 3, 9, 15 … have a view of another class, rows 4, 9, 14 … no margin."""
        rows = np.arange(NUM_IMAGES)[:, None]
        views = np.arange(self.spec.num_views)[None]
        margin = np.where((rows % 6 == 3) & (views == 1), -0.25, 0.5) + 0.001 * rows
        scores = {
            "label_margin": np.where(rows % 5 == 4, np.nan, margin),
            "nearest_view": 0.1 + 0.01 * ((13 * rows) % NUM_IMAGES) + 0.001 * views,
            "density": 1.0 + 0.01 * ((17 * rows) % NUM_IMAGES) + 0 * views,
        }
        shown = np.isin(self.statuses, (Status.OK, Status.NOT_CONVERGED))[:, None]
        scores = {name: np.where(shown, found, np.nan).astype(np.float32) for name, found in scores.items()}
        write_scores(self.storage, self.spec, scores)
        return scores

    @property
    def statuses(self) -> np.ndarray:
        found = np.zeros(NUM_IMAGES, np.uint8)
        for shard_id, arrays in self.arrays.items():
            found[list(self.spec.shard_rows(shard_id))] = arrays["status"]
        return found

    def make(self, shard_id: int) -> dict[str, np.ndarray]:
        rows = np.asarray(self.spec.shard_rows(shard_id))
        V = self.spec.num_views
        generator = np.random.default_rng(shard_id)
        shape = (len(rows), V, 3, self.spec.height, self.spec.width)
        arrays = {
            "views": generator.integers(0, 256, shape, dtype=np.uint8),
            "source_index": rows.astype(np.int64),
            "label": (rows % 3).astype(np.int64),
            "distance": np.repeat(0.2 + 0.005 * ((7 * rows) % NUM_IMAGES)[:, None], V, 1).astype(np.float32),
            "steps": ((11 * rows) % NUM_IMAGES).astype(np.int32),
            "inversion_error": (0.001 * ((3 * rows) % NUM_IMAGES + 1)).astype(np.float32),
            "status": np.ones(len(rows), np.uint8),
        }
        for name, layout in self.spec.array_layout().items():
            if "w_plus" in name:
                arrays[name] = np.zeros((len(rows), *layout.row_shape), np.float32)
        if self.spec.num_views > 1:
            arrays["status"][rows == 5] = 2
            arrays["status"][rows == 6] = 3
            arrays["distance"][rows == 6] = np.nan
            arrays["views"][rows == 6] = 0
        return arrays


@pytest.fixture
def make_cache(
    tmp_path: Any, dataset: ImageDataset, make_spec: Callable[..., CacheSpec]
) -> Callable[..., MadeCache]:
    """Return a function (name, shards to commit, **changes of the specification) → a cache of 40 images."""

    def make(name: str = "views", shards: Any = range(5), **changes: Any) -> MadeCache:
        keys: dict[str, Any] = {
            "dataset": {"name": "made-up", "split": "train", "digest": dataset.digest},
            "config": {"epsilon_boundary": 0.3, "epsilon_uniformity": 0.5, "max_steps": 50},
            "num_images": NUM_IMAGES,
            "num_views": 3,
            "height": SIZE,
            "width": SIZE,
            "shard_images": 8,
        }
        spec = make_spec(**(keys | changes))
        cache = MadeCache(
            url=str(tmp_path / f"{name}.zarr"),
            spec=spec,
            storage=open_storage(str(tmp_path / f"{name}.zarr")),
        )
        create_cache(cache.storage, spec)
        cache.commit(*shards)
        return cache

    return make


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class Site:
    """A running gallery."""

    url: str

    def get(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        """Ask for a path exactly as it stands: nothing normalises ``..`` on the way."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Return a function (sources of caches, **options of the application) → the gallery on its own port."""
    import uvicorn

    servers = []

    def start(source: CacheSource, *others: CacheSource, **options: Any) -> Site:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(build_app(source, others, **options), log_level="error", ws="none", lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        servers.append((server, thread, listener))
        while not server.started:
            time.sleep(0.01)
        return Site(f"http://127.0.0.1:{listener.getsockname()[1]}")

    yield start
    for server, thread, listener in servers:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)
        listener.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One headless Chromium for all tests, driven through Debian's chromium and chromium-driver."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("needs a browser: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1280,900",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """The browser, on a page of its own; a test fails if a page wrote an error to the console."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    yield chromium
    errors = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    chromium.get("about:blank")
    assert errors == []
