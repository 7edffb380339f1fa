"""A gallery that other machines can reach, behind the real proxy of Ray Serve: who gets in, and how."""

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(PIPELINE_TESTS := Path(__file__).parent.parent / "viewgen_pipelines"))

import faulty_method  # noqa: F401

from viewgen_pipelines.cache import cache

pytestmark = [pytest.mark.chaos, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What ``viewgen inspect --expose --json`` says of its gallery."""
    url = str(tmp_path_factory.mktemp("exposed") / "c.zarr")
    options = {"views": 2, "limit": 16, "shard_images": 8, "executor": "local", "quiet": True}
    cache("digits", method="faulty", out=url, **options)
    words = [sys.executable, str(PIPELINE_TESTS / "faulty_cli.py"), "inspect", url, "--json"]
    words += ["--host", "0.0.0.0", "--expose", "--port", str(free_port())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield json.loads(line)
        finally:
            process.terminate()
            process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


def ask(served: dict[str, str], path: str, *hosts: str, method: str = "GET", body: str = "", **headers: str):
    """Return status, headers and text of the answer to a request at the gallery's port of 127.0.0.1."""
    port = urlsplit(served["url"]).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    for host in hosts or ("127.0.0.1",):
        connection.putheader("Host", host)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode("latin-1")


def test_the_token_opens_and_nothing_else_does(served, tally):
    place = urlsplit(served["url"])
    folder, token = place.path, served["token"]
    assert len(token) >= 24
    assert parse_qs(place.query)["token"] == [token]
    pages = ("", "index.html", "images.html", "image/1.html", "strip/1.png", "live.json", "contact-sheet.png")
    for page in pages:
        for path in (folder + page, f"{folder}{page}?token=", f"{folder}{page}?token={token[:-1]}"):
            status, _, text = ask(served, path)
            assert status == 401, path
            assert "digits" not in text
            assert token not in text
    assert ask(served, folder, Authorization="Bearer wrong")[0] == 401
    assert ask(served, folder, Cookie="viewgen-00000000=00")[0] == 401
    assert ask(served, f"{folder}login", method="POST", body="token=wrong")[0] == 401

    status, headers, _ = ask(served, f"{folder}images.html?token={token}")
    assert status == 303
    assert token not in headers["location"], "it stays in no history"
    cookie = headers["set-cookie"]
    assert token not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    for page in pages:
        assert ask(served, folder + page, Cookie=cookie.partition(";")[0])[0] == 200, page
        assert ask(served, folder + page, Authorization=f"Bearer {token}")[0] == 200, page
    status, headers, _ = ask(served, f"{folder}login", method="POST", body=f"token={token}")
    assert status == 303
    tally(f"an exposed gallery: {4 * len(pages)} requests without its token refused, with it served")


def test_other_hosts_and_routes_are_refused(served, tally):
    folder, token = urlsplit(served["url"]).path, served["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert ask(served, folder, "evil.example", **bearer)[0] == 421
    for hosts in (("evil.example", "127.0.0.1"), ("127.0.0.1", "evil.example")):
        assert ask(served, folder, *hosts, **bearer)[0] in (400, 421)
        assert ask(served, "/-/routes", *hosts)[0] in (400, 404, 421)
    for path in ("/-/routes", "/-/routes/", "/-/ROUTES", f"{folder}../-/routes", "//-/routes", "/-//routes"):
        status, _, text = ask(served, path, **bearer)
        assert status in (404, 421), path
        assert served["application"] not in text
    assert ask(served, "/-/healthz")[0] == 200
    name = urlsplit(served["url"]).hostname
    assert ask(served, folder, name, **bearer)[0] == 200, "under the machine's own name"
    tally("foreign and double Host headers refused; /-/routes answers 404")


def test_an_address_that_others_reach_needs_the_word(tmp_path):
    words = [
        sys.executable,
        str(PIPELINE_TESTS / "faulty_cli.py"),
        "inspect",
        str(tmp_path),
        "--host",
        "0.0.0.0",
    ]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--expose" in ended.stderr
