"""The map shows originals and views of every cache where f puts them."""

import re

import numpy as np
import pytest

from viewgen.datasets.dataset import MemoryImages
from viewgen_pipelines.gallery import map as maps
from viewgen_pipelines.gallery.pages import Pages
from viewgen_pipelines.gallery.sources import CacheSource

ENCODER = {"encoder": "sha256:11"}


class Colours:
    """A stand-in for the networks: f is the mean colour of an image."""

    paths = {"encoder": "somewhere"}  # noqa: RUF012

    def project(self, images):
        return images.mean(axis=(2, 3)).astype(np.float32)

    def pairwise_distances(self, views):
        z = self.project(views)
        return np.linalg.norm(z[:, None] - z[None], axis=2)


@pytest.fixture
def made(make_cache, at_hand, monkeypatch):
    """Sources of two caches, whose second lacks rows 8 to 15; every class has a colour of its own."""
    monkeypatch.setattr(CacheSource, "networks", lambda *_: Colours())
    colours = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)
    noise = np.random.default_rng(0).integers(-15, 6, (40, 3, 1, 1))
    pixels = np.broadcast_to(colours[np.arange(40) % 3][:, :, None, None] + noise, (40, 3, 8, 8))
    object.__setattr__(at_hand, "pixels", MemoryImages(pixels.astype(np.uint8)))
    sources = []
    for name, shards in (("views", range(5)), ("second", [0, 2, 3, 4])):
        cache = make_cache(name, shards=[], models=ENCODER)
        make = cache.make

        def coloured(shard_id, make=make, cache=cache):
            arrays = make(shard_id)
            own = pixels[arrays["source_index"]][:, None]
            arrays["views"] = np.repeat(own, cache.spec.num_views, axis=1).astype(np.uint8)
            return arrays

        cache.make = coloured
        cache.commit(*shards)
        cache.score()
        sources.append(CacheSource(url=cache.url))
    return sources


def test_points_lie_where_f_puts_them_and_belong_to_images_of_every_cache(made):
    snapshots = [source.snapshot() for source in made]
    rows = maps.shared_rows(snapshots, snapshots[0].rows)
    assert rows.tolist() == [row for row in range(40) if row != 6 and row not in range(8, 16)]
    found = maps.make_map(made, snapshots, rows)
    np.testing.assert_array_equal(found.rows, rows)
    assert found.num_points == len(rows) * (1 + 3 + 3)
    points = np.concatenate([found.originals[:, None], *found.views], axis=1)
    assert (points.min(), points.max()) == pytest.approx((0, 1))
    centres = np.stack([points[rows % 3 == value].mean(axis=(0, 1)) for value in range(3)])
    nearest = np.linalg.norm(points[:, :, None] - centres, axis=3).argmin(axis=2)
    assert (nearest == (rows % 3)[:, None]).all(), "what f keeps apart lies apart"
    again = maps.make_map(made, snapshots, rows)
    np.testing.assert_array_equal(found.originals, again.originals)


@pytest.mark.parametrize("committed", [[0, 2, 3, 4], []])
def test_partners_equal_a_loop_over_the_rows(make_cache, committed):
    first = CacheSource(url=make_cache().url).snapshot()
    cache = make_cache("other", shards=[])
    make, rows_of = cache.make, cache.spec.shard_rows
    # the same images in another order, and images that the first cache has not
    places = np.random.default_rng(0).permutation(60)[:40]
    cache.make = lambda shard_id: make(shard_id) | {"source_index": places[list(rows_of(shard_id))]}
    cache.commit(*committed)
    other = CacheSource(url=cache.url).snapshot()
    rows = np.random.default_rng(1).permutation(first.rows)
    expected = [-1] * len(rows)
    for number, row in enumerate(rows):
        for candidate in other.rows:
            same = other.columns["source_index"][candidate] == first.columns["source_index"][row]
            if same and other.readable(int(candidate)):
                expected[number] = int(candidate)
    assert maps.partners(other, first, rows).tolist() == expected
    assert (max(expected) >= 0) == bool(committed)


def test_few_images_of_large_caches_are_chosen_evenly(made, monkeypatch):
    monkeypatch.setattr(maps, "MAX_POINTS", 70)
    monkeypatch.setattr(maps, "embed", lambda z: np.zeros((len(z), 2)))
    snapshots = [source.snapshot() for source in made]
    rows = maps.shared_rows(snapshots, snapshots[0].rows)
    found = maps.make_map(made, snapshots, rows)
    assert found.num_points <= 70
    assert (found.rows[0], found.rows[-1], len(found.rows)) == (rows[0], rows[-1], 10)


def test_a_panel_of_each_cache_leads_to_images_and_marks_views_of_another_class(made):
    pages = Pages(made[0], made[1:])
    text = pages.map_points()
    panels = text.split('<svg class="map-panel"')[1:]
    assert len(panels) == 2
    for number, panel in enumerate(panels):
        strip = "other/1/strip" if number else "strip"
        assert len(re.findall("<circle", panel)) == 31 * 4
        assert set(re.findall(r'data-strip="(.*?)/[0-9]+.png', panel)) == {strip}
        # rows 3, 21, 27 and 33 have one; that of 9 and 15 is missing in the second cache, that of 39 unread
        assert re.findall(r"foreign.*?#([0-9]+), view 2, read as another class", panel) == [
            "3",
            "21",
            "27",
            "33",
        ]
    assert "<script>document" not in text, "names of classes are text"
    assert "&lt;script&gt;" in text
    assert pages.map_points() == text


def test_why_there_is_no_map_is_said(make_cache, made, monkeypatch):
    without = CacheSource(url=make_cache("without").url)
    assert "made without an encoder" in Pages(without).map_page()
    few = make_cache("few", shards=[1], models=ENCODER)
    few.commit(0)
    assert "at least 8" in maps.why_no_map(made[0], made[0].snapshot(), 7)
    assert maps.why_no_map(made[0], made[0].snapshot(), 8) == ""
    monkeypatch.setattr(Colours, "paths", {})
    assert "--models" in Pages(made[0]).map_page()
    monkeypatch.setattr(maps, "installed", lambda extra: False)
    assert "pip install &#39;viewgen[readouts]&#39;" in Pages(made[0]).map_points()


@pytest.mark.slow
def test_points_come_after_their_page_and_show_their_image(browser, made, serve):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"{serve(*made).url}/map.html")
    WebDriverWait(browser, 60).until(lambda b: len(b.find_elements("css selector", ".map-panel")) == 2)
    preview = browser.find_element("id", "preview")
    assert not preview.is_displayed()
    *_, last = browser.find_elements("css selector", ".map-panel a")
    ActionChains(browser).move_to_element(last).perform()
    assert preview.is_displayed()
    assert preview.find_element("tag name", "figcaption").text == "cat #39, original"
    assert browser.execute_async_script(
        "const [picture, done] = arguments; picture.decode().then(() => done(picture.naturalWidth))",
        preview.find_element("tag name", "img"),
    )
    ActionChains(browser).click(last).perform()
    WebDriverWait(browser, 60).until(lambda b: b.current_url.endswith("/image/39.html"))
