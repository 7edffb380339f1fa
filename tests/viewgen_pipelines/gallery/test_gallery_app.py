"""The application over HTTP: what is there, what is not, who may ask."""

import re
import socket
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest

from viewgen.store import CacheReader
from viewgen_pipelines.gallery.security import is_loopback, known_hosts
from viewgen_pipelines.gallery.sources import CacheSource

NASTY = '<script>document.title="pwned"</script>'


@pytest.fixture
def site(make_cache, at_hand, serve):
    names = {"views": 0, "second": 9, "third": 10}
    return serve(*(CacheSource(url=make_cache(name, seed=seed).url) for name, seed in names.items()))


def links_of(page, address):
    found = re.findall(r'(?:href|src|action)="([^"]*)"', page)
    return {urljoin(address, unescape(link)).partition("#")[0] for link in found}


def test_every_link_of_every_page_leads_somewhere(site):
    waiting, seen = [f"{site.url}/"], set()
    while waiting:
        address = waiting.pop(0)
        if address in seen:
            continue
        seen.add(address)
        answer = site.get(address.removeprefix(site.url))
        assert answer.status == 200, address
        if answer.headers["content-type"].startswith("text/html") and len(seen) < 60:
            links = links_of(answer.text, address)
            assert all(link.startswith(site.url) for link in links), "nothing from elsewhere"
            waiting += sorted(links - seen)
    assert any("/image/" in address for address in seen)
    assert {address.split("/")[4] for address in seen if "/other/" in address} == {"1", "2"}


def test_names_and_reasons_are_text(site):
    for path in ("/", "/images.html", "/image/1.html", "/image/6.html", "/compare.html"):
        page = site.get(path).text
        assert NASTY not in page, path
        assert "<script>document" not in page, path
        assert "&lt;script&gt;" in page, path


def test_every_picture_has_an_alternative_text(site):
    for path in ("/", "/images.html", "/image/1.html", "/compare.html"):
        for tag in re.findall(r"<img[^>]*>", site.get(path).text):
            assert re.search(r'alt="[^"]+"', tag) or 'class="brand"' in tag or "icon.svg" in tag, tag


NOT_THERE = [
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/static/../app.py",
    "/static/..%2f..%2fapp.py",
    "/static/%2e%2e%2fapp.py",
    "/static//etc/passwd",
    "/static/base.html",
    "/picture/1/..%2f..%2fzarr.json",
    "/picture/../zarr.json",
    "/picture/1/../../zarr.json",
    "/zarr.json",
    "/commits/00000000.json",
    "/strip/1",
    "/strip/40.png",
    "/strip/-1.png",
    "/other/0/strip/1.png",
    "/other/3/strip/1.png",
    "/strip/1.5.png",
    "/strip/" + "9" * 5000 + ".png",
    "/strip/%D9%A1.png",
    "/image/40.html",
    "/image/1.png",
    "/picture/1/view-3.png",
    "/frames/1/9.png",
    "/docs",
    "/openapi.json",
    "/%00",
]


def test_whatever_else_is_asked_for_is_not_there(site):
    for path in NOT_THERE:
        answer = site.get(path)
        assert answer.status == 404, path
        assert "root:" not in answer.text, path
        assert "Traceback" not in answer.text, path


def test_nothing_can_be_changed(site):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert site.get("/images.html", method).status in (404, 405), method


def test_the_host_header_is_checked(site):
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"):
        assert site.get("/", Host=host).status == 200, host
    for host in (
        "gallery.example",
        "127.0.0.1.gallery.example",
        "127.0.0.1@gallery.example",
        "localhost:80:80",
        "",
    ):
        assert site.get("/", Host=host).status == 421, host


@pytest.mark.parametrize(
    "hosts", [("evil.example", "127.0.0.1"), ("127.0.0.1", "evil.example"), ("a", "a"), ()]
)
def test_several_host_headers_are_refused(site, hosts):
    """Whoever is on the way may have taken another of them than the application does."""
    place = urlsplit(site.url)
    lines = ["GET / HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        answer = connection.makefile("rb").readline()
    assert answer.split()[1] in (b"400", b"421")


def test_answers_forbid_what_pages_do_not_need(site):
    for path in ("/", "/static/gallery.js", "/strip/1.png", "/nowhere"):
        headers = site.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_token_opens_and_nothing_else_does(make_cache, at_hand, serve):
    site = serve(CacheSource(url=make_cache().url), token="s3cret-token")
    for path in ("/", "/strip/1.png", "/live.json", "/?token=wrong", "/?token="):
        answer = site.get(path)
        assert answer.status == 401
        assert "s3cret" not in answer.text
        assert b"PNG" not in answer.body
    assert site.get("/static/gallery.css").status == 200
    assert site.get("/", Authorization="Bearer s3cret-token").status == 200
    assert site.get("/", Authorization="Bearer wrong").status == 401
    assert site.get("/", Cookie="viewgen=1; x").status == 401

    answer = site.get("/images.html?sort=-steps&token=s3cret-token")
    assert (answer.status, answer.headers["location"]) == (303, "?sort=-steps")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "s3cret" not in cookie, "the cookie does not give the token away"
    assert site.get("/images.html", Cookie=cookie.partition(";")[0]).status == 200

    answer = site.get("/login", "POST", "token=s3cret-token")
    assert (answer.status, answer.headers["location"]) == (303, "index.html")
    assert site.get("/login", "POST", "token=wrong").status == 401
    assert site.get("/login", "POST", "token=s3cret-token", Host="evil.example").status == 421


def test_hosts_of_an_open_address_are_this_machines(monkeypatch):
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("192.0.2.7")
    assert not is_loopback("gallery.example")
    monkeypatch.setattr("socket.gethostname", lambda: "Box")
    monkeypatch.setattr("socket.getfqdn", lambda: "box.lab.example")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(0, 0, 0, "", ("192.0.2.7", 0))])
    names = known_hosts("0.0.0.0", ["proxy.example"])
    assert {"box", "box.lab.example", "192.0.2.7", "proxy.example", "127.0.0.1"} <= names
    assert "192.0.2.8" not in names
    assert "192.0.2.8" in known_hosts("192.0.2.8")


def test_pages_read_no_views_and_a_strip_reads_its_own(make_cache, at_hand, serve, monkeypatch):
    asked = []
    views = CacheReader.views
    monkeypatch.setattr(
        CacheReader, "views", lambda self, rows, *a: asked.append(rows) or views(self, rows, *a)
    )
    site = serve(CacheSource(url=make_cache().url))
    for path in ("/", "/images.html", "/images.html?sort=-distance&class=1&page=2"):
        site.get(path)
    assert asked == []
    site.get("/strip/17.png")
    site.get("/strip/17.png")
    assert asked == [17], "read once, then kept"


def test_pictures_are_kept_by_the_browser_under_their_fingerprint_only(site):
    page = site.get("/images.html").text
    address = unescape(re.search(r'src="(strip/3.png\?v=\w+)"', page)[1])
    assert "immutable" in site.get(f"/{address}").headers["cache-control"]
    assert "no-cache" in site.get("/strip/3.png?v=old").headers["cache-control"]


def test_a_cache_that_is_not_there_yet_is_waited_for(tmp_path, serve):
    answer = serve(CacheSource(url=str(tmp_path / "none.zarr"))).get("/")
    assert answer.status == 503
    assert 'http-equiv="refresh"' in answer.text


def test_caches_of_different_images_are_not_compared(make_cache, at_hand, serve):
    other = make_cache("other", dataset={"name": "made-up", "split": "train", "digest": "sha256:00"})
    first, second = (CacheSource(url=make_cache(name).url) for name in ("views", "second"))
    page = serve(first, CacheSource(url=other.url)).get("/compare.html").text
    assert "different images" in page
    assert "strip/" not in page
    page = serve(first, CacheSource(url=other.url), second).get("/compare.html").text
    assert "different images" in page, "the rest is compared all the same"
    assert "other/2/strip/" in page
    assert "other/1/strip/" not in page


def test_a_damaged_view_is_said_and_not_shown(make_cache, at_hand, serve):
    cache = make_cache()
    path = cache.storage.local_path(cache.spec.array_layout()["views"].object_path(0))
    data = bytearray(path.read_bytes())
    data[100] ^= 255
    path.write_bytes(data)
    answer = serve(CacheSource(url=cache.url)).get("/strip/0.png")
    assert answer.status == 500
    assert "cannot be shown" in answer.text


def test_the_contact_sheet_is_a_download(site):
    answer = site.get("/contact-sheet.png?sort=-distance&page=2")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.body.startswith(b"\x89PNG")
    assert site.get("/contact-sheet.png?status=failed").status == 404
