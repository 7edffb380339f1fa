"""Plain files: complete, without a reference to anything outside, and never over somebody's own files."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from viewgen.cli import cli
from viewgen.errors import DataError, MissingFileError, StorageError, UsageError
from viewgen_pipelines.gallery.sources import CacheSource
from viewgen_pipelines.gallery.static_site import write_static
from viewgen_pipelines.inspecting import inspect


def test_every_link_leads_to_a_file(make_cache, at_hand, tmp_path):
    source, *others = (CacheSource(url=make_cache(name).url) for name in ("views", "second", "third"))
    first = write_static(source, others, tmp_path / "pages", num_images=7)
    pages = list((tmp_path / "pages").rglob("*.html"))
    assert len(list((tmp_path / "pages/image").iterdir())) == 7
    assert {page.name for page in first.parent.glob("*.html")} == {
        "index.html",
        "images.html",
        "compare.html",
        "map.html",
    }
    for page in pages:
        for link in re.findall(r'(?:href|src)="([^"#]+)[^"]*"', page.read_text()):
            assert "://" not in link
            target = (page.parent / link.partition("?")[0]).resolve()
            assert target.is_file(), f"{page} → {link}"
            assert target.is_relative_to(tmp_path / "pages")
    assert "<script>document" not in "".join(page.read_text() for page in pages)


def test_an_earlier_gallery_is_written_over_and_nothing_else(make_cache, at_hand, tmp_path):
    source = CacheSource(url=make_cache().url)
    write_static(source, [], tmp_path / "pages", num_images=2)
    write_static(source, [], tmp_path / "pages", num_images=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(StorageError, match="something else"):
        write_static(source, [], tmp_path / "mine", num_images=2)
    with pytest.raises(StorageError, match="that is a file"):
        write_static(source, [], tmp_path / "mine/thesis.tex", num_images=2)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_cache_without_images_has_no_pages(make_cache, tmp_path):
    with pytest.raises(DataError, match="no images yet"):
        write_static(CacheSource(url=make_cache(shards=[]).url), [], tmp_path / "pages", num_images=2)
    assert not (tmp_path / "pages").exists()


def test_inspect_writes_them(make_cache, at_hand, tmp_path):
    page = inspect(make_cache().url, static=tmp_path / "pages", images=3)
    assert page == Path(tmp_path / "pages/index.html")
    assert len(list((tmp_path / "pages/image").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "--expose"),
        ({"host": "192.0.2.1"}, "--expose"),
        ({"images": 3}, "--images"),
        ({"images": 0, "static": "x"}, "--images"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(make_cache, options, message):
    with pytest.raises(UsageError, match=message):
        inspect(make_cache().url, **options)


def test_the_command_says_where_the_first_page_is(make_cache, at_hand, tmp_path):
    cache = make_cache()
    runner = CliRunner()
    written = runner.invoke(cli, ["inspect", cache.url, "--static", str(tmp_path / "a"), "--images", "2"])
    assert (written.exit_code, written.stdout) == (0, f"{tmp_path / 'a/index.html'}\n")
    words = ["inspect", cache.url, "--static", str(tmp_path / "b"), "--images", "2", "--json"]
    document = json.loads(runner.invoke(cli, words).stdout)
    assert document["url"] == (tmp_path / "b/index.html").as_uri()
    missing = runner.invoke(cli, ["inspect", str(tmp_path / "none.zarr")])
    assert isinstance(missing.exception, MissingFileError), "before Ray is started"
