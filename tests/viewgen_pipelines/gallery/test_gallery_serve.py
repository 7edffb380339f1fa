"""The gallery under Ray Serve: beside a run, on the dashboard's Serve tab, and gone with the run."""

import dataclasses
import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urljoin, urlsplit

import pytest

from viewgen.errors import UsageError
from viewgen.progress import Progress
from viewgen_pipelines.cache import cache
from viewgen_pipelines.gallery import serve
from viewgen_pipelines.gallery.serve import (
    BackgroundGallery,
    GalleryOptions,
    ServedGallery,
    choose_port,
    gallery_url,
)

ray_warnings = pytest.mark.filterwarnings("ignore")  # Ray's own code warns


def fetch(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode()


def status(url, **headers):
    try:
        fetch(url, **headers)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def status_of_hosts(url, *hosts):
    """Return the status of the answer to a request with these Host headers."""
    place = urlsplit(url)
    lines = [f"GET {place.path} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return int(connection.makefile("rb").readline().split()[1])


class Visitor(threading.Thread):
    """Opens gallery and dashboard as soon as their addresses are printed; calls `leave` in the end."""

    def __init__(self, leave):
        super().__init__()
        self.leave = leave
        self.lines, self.found, self.problem = [], {}, None

    def address(self, start):
        end = time.monotonic() + 150
        while time.monotonic() < end:
            for line in list(self.lines):
                if line.startswith(start):
                    return line.removeprefix(start).split()[0]
            time.sleep(0.05)
        raise TimeoutError(self.lines)

    def run(self):
        try:
            dashboard, gallery = self.address("Ray dashboard: "), self.address("gallery: ")
            token = (Path.home() / ".ray/auth_token").read_text().strip()
            self.found["page"] = fetch(gallery)
            self.found["live"] = json.loads(fetch(f"{gallery}live.json"))
            self.found["serve"] = json.loads(
                fetch(f"{dashboard}/api/serve/applications/", Authorization=f"Bearer {token}")
            )
            self.found["gallery"] = gallery
            self.found["evil"] = status(gallery, Host="evil.example")
            self.found["routes"] = status(urljoin(gallery, "/-/routes"))
            self.found["health"] = status(urljoin(gallery, "/-/healthz"))
            self.found["two hosts"] = [
                status_of_hosts(gallery, *hosts) for hosts in (("evil", "127.0.0.1"), ("127.0.0.1", "evil"))
            ]
        except Exception as error:
            self.problem = error
        finally:
            self.leave()


@ray_warnings
def test_a_run_under_ray_has_a_gallery_on_the_serve_tab(shared_dashboard, ray_faults, tmp_path, monkeypatch):
    ray_faults(seconds=150)  # or until the visitor has left: the run does not wait for its gallery
    visitor = Visitor(leave=ray_faults)
    monkeypatch.setattr(Progress, "say", lambda self, line: visitor.lines.append(line))
    visitor.start()
    url = str(tmp_path / "c.zarr")
    cache("digits", method="faulty", views=2, limit=64, shard_images=16, out=url, workers=1, gallery=True)
    visitor.join(timeout=150)
    assert visitor.problem is None
    found = visitor.found
    assert "digits" in found["page"]
    assert "of 4</strong> shards committed" in found["page"]
    assert found["live"]["running"], "the run was followed while it ran"
    (name,) = [name for name in found["serve"]["applications"] if name.startswith("viewgen-c-")]
    application = found["serve"]["applications"][name]
    assert application["status"] == "RUNNING"
    assert found["gallery"].endswith(application["route_prefix"] + "/")
    assert found["gallery"].startswith("http://127.0.0.1:")
    assert found["evil"] == 421
    assert (found["routes"], found["health"]) == (404, 200)
    assert set(found["two hosts"]) <= {400, 421}
    with pytest.raises((urllib.error.URLError, ConnectionError)):  # nothing listens, or just not any more
        fetch(found["gallery"])
    assert any("ray get-auth-token" in line for line in visitor.lines), "how to log in"
    assert any("no login" in line for line in visitor.lines)


def test_an_address_that_is_taken_is_said():
    port = choose_port("127.0.0.1")
    assert 1024 < port < 65536
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UsageError, match="--port"):
            choose_port("127.0.0.1", taken.getsockname()[1])
        assert choose_port("127.0.0.1") != taken.getsockname()[1]


def test_what_the_serving_process_is_told_holds_there_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIEWGEN_DATA", "data")
    options = GalleryOptions(url="views.zarr", compare=("s3://user:secret@bucket/a.zarr",), models="runs/x")
    assert options.url == str(tmp_path / "views.zarr")
    assert options.models == str(tmp_path / "runs/x")
    assert options.data_root == str(tmp_path / "data")
    assert "secret" not in repr(options)
    assert options.slug != GalleryOptions(url="elsewhere/views.zarr").slug
    assert gallery_url(options, "::1", 8000).startswith("http://[::1]:8000/views-")
    assert gallery_url(options, "127.0.0.1", 80, "t").endswith("/?token=t")
    named = dataclasses.replace(options, allow_hosts=("gallery.example.org",))
    assert gallery_url(named, "0.0.0.0", 80).startswith("http://gallery.example.org:80/views-")
    assert gallery_url(named, "127.0.0.1", 80).startswith("http://127.0.0.1:80/views-")
    with pytest.raises(UsageError, match="memory"):
        GalleryOptions(url="memory://views.zarr")


class FakeRay:
    """As much of Ray as a gallery beside a run asks for."""

    def __init__(self, error=None):
        self.error, self.deployed = error, []
        self.util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")

    def remote(self, **settings):
        self.retries = settings["max_retries"]
        return lambda function: SimpleNamespace(remote=self.deployed.append)

    def wait(self, calls, timeout):
        return calls, []

    def get(self, call):
        if self.error is not None:
            raise self.error
        return ServedGallery(url="http://127.0.0.1:8001/c-1/", application="viewgen-c-1", host="127.0.0.1")


@pytest.fixture
def own_gallery(monkeypatch, tmp_path):
    """Return a function that starts a gallery in a session of the run's own; what it says, and its Ray."""

    def start(seconds, **options):
        said, ray = [], FakeRay(**options)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setattr(serve, "WORKERS_FIRST_SECONDS", seconds)
        gallery = BackgroundGallery(GalleryOptions(url=str(tmp_path / "c.zarr")), own=True, say=said.append)
        return gallery, said, ray

    return start


def test_a_short_run_has_no_gallery_and_names_none(own_gallery):
    gallery, said, ray = own_gallery(600)
    gallery.close()
    assert (said, ray.deployed) == ([], [])


def test_a_longer_run_names_the_address_that_its_gallery_got(own_gallery):
    gallery, said, ray = own_gallery(0)
    gallery._teller.join(timeout=60)
    gallery.close()
    (options,) = ray.deployed
    assert options.port is None, "one that is free when it is bound, at each of the retries"
    assert ray.retries == 3
    (line,) = said
    assert line.startswith("gallery: http://127.0.0.1:8001/c-1/ (this machine only, no login")


def test_a_gallery_that_does_not_start_costs_nothing_but_a_line(own_gallery):
    gallery, said, _ = own_gallery(0, error=RuntimeError("Serve is broken\nno replica"))
    gallery._teller.join(timeout=60)
    gallery.close()
    assert said == ["the gallery could not start, the run goes on without it: no replica"]
