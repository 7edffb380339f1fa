"""The pages in a real browser. Every test also fails if a page writes an error to the console."""

from pathlib import Path

import numpy as np
import pytest

from viewgen_pipelines.gallery.index import CacheIndex
from viewgen_pipelines.gallery.queries import Query, select
from viewgen_pipelines.gallery.sources import CacheSource
from viewgen_pipelines.gallery.static_site import write_static
from viewgen_pipelines.shards.lease import Lease

SECONDS = 60


@pytest.fixture
def cache(make_cache):
    made = make_cache()
    made.score()
    return made


@pytest.fixture
def site(cache, make_cache, at_hand, serve):
    return serve(CacheSource(url=cache.url), CacheSource(url=make_cache("second", seed=9).url))


def rows_shown(browser):
    """Rows of the cards that can be seen, in the order of the page."""
    script = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => +c.dataset.row)"
    return browser.execute_script(script)


def choose(browser, name, value):
    """Choose from a list as a person does: a change, after which the page is another."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.wait import WebDriverWait

    before = browser.current_url
    Select(browser.find_element(By.NAME, name)).select_by_value(value)
    WebDriverWait(browser, SECONDS).until(lambda b: b.current_url != before)
    loaded(browser)


def press(browser, key):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    before = browser.current_url
    browser.find_element(By.TAG_NAME, "body").send_keys(key)
    WebDriverWait(browser, SECONDS).until(lambda b: b.current_url != before)
    loaded(browser)


def loaded(browser):
    from selenium.webdriver.support.wait import WebDriverWait

    ready = "return document.readyState === 'complete' && document.documentElement.className === 'scripted'"
    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(ready))


def broken_pictures(browser):
    """Addresses of pictures that did not load; lazy ones are asked for first."""
    script = """
        const done = arguments[arguments.length - 1];
        const pictures = [...document.images];
        for (const picture of pictures) picture.loading = "eager";
        Promise.all(pictures.map((picture) => picture.decode().then(() => null, () => picture.src)))
            .then((found) => done(found.filter((address) => address)));
    """
    return browser.execute_async_script(script)


@pytest.mark.parametrize("path", ["/", "/images.html", "/image/1.html", "/image/6.html", "/compare.html"])
def test_pages_load_with_all_pictures_and_names_stay_text(browser, site, path):
    browser.get(site.url + path)
    assert browser.title.endswith("viewgen"), "a class name that is a script did not run"
    assert broken_pictures(browser) == []
    assert '<script>document.title="pwned"</script>' in browser.find_element("tag name", "body").text
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_order_and_filters_change_what_is_shown(browser, site, cache):
    snapshot = CacheIndex(cache.url).snapshot()
    browser.get(f"{site.url}/images.html")
    assert rows_shown(browser) == list(range(24))
    for sort in ("-distance", "-error", "steps"):
        choose(browser, "sort", sort)
        assert rows_shown(browser) == select(snapshot, Query(sort=sort)).tolist()[:24]
    choose(browser, "class", "2")
    assert rows_shown(browser) == select(snapshot, Query(sort="steps", label="2")).tolist()
    choose(browser, "status", "not-converged")
    assert rows_shown(browser) == [5]
    choose(browser, "class", "")
    choose(browser, "status", "failed")
    assert rows_shown(browser) == [6]
    choose(browser, "status", "")
    choose(browser, "sort", "pair")
    choose(browser, "views", "foreign")
    assert rows_shown(browser) == select(snapshot, Query(sort="pair", views="foreign")).tolist()
    assert len(browser.find_elements("css selector", ".card .badge.failed")) == len(rows_shown(browser))


def test_keys_turn_pages(browser, site):
    from selenium.webdriver.common.keys import Keys

    browser.get(f"{site.url}/images.html?sort=-row")
    press(browser, Keys.ARROW_RIGHT)
    assert rows_shown(browser) == list(range(15, -1, -1))
    press(browser, Keys.ARROW_LEFT)
    assert rows_shown(browser) == list(range(39, 15, -1))
    browser.get(f"{site.url}/image/20.html?sort=-row")
    press(browser, "j")
    assert "/image/19.html" in browser.current_url
    press(browser, "u")
    assert browser.current_url.endswith("/images.html?sort=-row")


def test_a_run_is_followed_without_a_reload(browser, make_cache, at_hand, serve):
    from selenium.webdriver.support.wait import WebDriverWait

    cache = make_cache("live", shards=[0])
    site = serve(CacheSource(url=cache.url))

    def wait_for(text):
        WebDriverWait(browser, SECONDS).until(lambda b: text in b.find_element("id", "live").text)

    with Lease(cache.storage, "run-b"):
        browser.get(f"{site.url}/")
        browser.execute_script("window.sameDocument = true")
        wait_for("1 of 5 shards committed, 8 of 40 images, no shard of this run yet")
        assert "running" in browser.find_element("id", "live").text
        cache.commit(1, 2, run_id="run-b")
        wait_for("3 of 5 shards committed, 24 of 40 images")
        status = browser.find_element("id", "live").text
        assert "views/s" in status
        assert "left" in status
        assert len(browser.find_elements("css selector", "#sample .card")) == 6
        cache.commit(3, 4, run_id="run-b")
        wait_for("complete")
    assert "quarantined" in browser.find_element("id", "troubles").text, "row 6 failed, for a reason"
    assert "ValueError" in browser.find_element("id", "troubles").text
    assert browser.execute_script("return window.sameDocument")


def test_plain_files_open_without_a_server(browser, cache, make_cache, at_hand, tmp_path):
    source, other = CacheSource(url=cache.url), CacheSource(url=make_cache("second", seed=9).url)
    first = write_static(source, [other], tmp_path / "pages", num_images=36)
    written = np.linspace(0, 39, 36).astype(int).tolist()
    address = Path(first).as_uri().removesuffix("index.html")
    browser.get(f"{address}index.html")
    assert broken_pictures(browser) == []
    browser.get(f"{address}images.html")
    assert rows_shown(browser) == written[:24]
    snapshot = source.snapshot()
    choose(browser, "sort", "-distance")
    ordered = [row for row in select(snapshot, Query(sort="-distance")).tolist() if row in written]
    assert rows_shown(browser) == ordered[:24]
    press(browser, "j")
    assert rows_shown(browser) == ordered[24:]
    assert broken_pictures(browser) == []
    choose(browser, "class", "1")
    assert sorted(rows_shown(browser)) == [row for row in written if row % 3 == 1]
    choose(browser, "views", "unread")
    assert sorted(rows_shown(browser)) == [row for row in written if row % 3 == 1 and row % 5 == 4]
    for path in ("image/6.html", f"image/{written[3]}.html", "compare.html?class=0"):
        browser.get(address + path)
        assert broken_pictures(browser) == []


def test_the_token_is_asked_for_once(browser, cache, at_hand, serve):
    site = serve(CacheSource(url=cache.url), token="s3cret-token")
    browser.get(f"{site.url}/images.html?token=s3cret-token")
    assert browser.current_url == f"{site.url}/images.html", "the token does not stay in the address"
    assert len(rows_shown(browser)) == 24
    assert broken_pictures(browser) == []
    browser.delete_all_cookies()
    assert site.get("/images.html").status == 401
