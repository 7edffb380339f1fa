"""URLs that lead to a metadata service, into a private network by a redirect, or through a chain."""

import http.server
import json
import threading

import pytest
from click.testing import CliRunner

from viewgen.addresses import check_redirect, check_url
from viewgen.cli import cli
from viewgen.datasets.download import RemoteFile, fetch
from viewgen.errors import MissingFileError, StorageError
from viewgen.store import CacheReader, open_storage

SERVICES = [
    "169.254.169.254",
    "169.254.170.2",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[64:ff9b::a9fe:a9fe]",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "metadata.google.internal",
    "METADATA.google.internal.",
]


@pytest.mark.parametrize("host", SERVICES)
@pytest.mark.parametrize("form", ["http://{}/latest/meta-data", "https://user:secret@{}:80/c", "sftp://{}/c"])
def test_metadata_services_are_refused_however_they_are_written(host, form):
    with pytest.raises(StorageError, match=r"metadata service|chains protocols") as caught:
        open_storage(form.format(host))
    assert "secret" not in str(caught.value)


def test_an_endpoint_is_an_address_too():
    for endpoint in ("http://169.254.169.254", "http://[::ffff:169.254.169.254]:80"):
        with pytest.raises(StorageError, match="metadata service"):
            open_storage("s3://bucket/c", {"anon": True, "client_kwargs": {"endpoint_url": endpoint}})


@pytest.mark.parametrize(
    "url",
    ["simplecache::http://host/c", "zip://x::https://host/a.zip", "filecache::s3://b/c", "http://[::1]/c"],
)
def test_chains_of_protocols_are_refused(url):
    with pytest.raises(StorageError, match="chains protocols"):
        open_storage(url)


@pytest.mark.parametrize("host", ["example.org", "10.0.0.7", "127.0.0.1", "localhost", "100.100.100.201"])
def test_other_hosts_pass(host):
    check_url(f"http://{host}:8000/c")


def test_a_bucket_is_no_host():
    for url in ("s3://metadata/views.zarr", "gs://instance-data/c.zarr", "memory://metadata/c"):
        check_url(url)


@pytest.mark.parametrize(
    ("location", "refused"),
    [
        ("/elsewhere", False),
        ("https://93.184.215.14/c", False),
        ("http://169.254.169.254/latest", True),
        ("//169.254.169.254/latest", True),
        ("http://127.0.0.1:9/c", True),
        ("http://localhost/c", True),
        ("http://10.1.2.3/c", True),
        ("http://[::1]/c", True),
    ],
)
def test_redirects_into_a_private_network_are_refused(location, refused):
    if not refused:
        check_redirect("https://93.184.215.15/c/zarr.json", location)
        return
    with pytest.raises(StorageError, match=r"metadata service|private network"):
        check_redirect("https://93.184.215.15/c/zarr.json", location)


@pytest.fixture
def server():
    """A server that redirects /metadata and /private, and serves /ok; yields its URL and what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            folder = self.path.split("/")[1]
            places = {
                "metadata": "http://169.254.169.254/zarr.json",
                "private": f"http://localhost:{self.server.server_port}/ok/zarr.json",
                "same": "/ok/zarr.json",
            }
            body = b"{}"
            self.send_response(302 if folder in places else 200)
            if folder in places:
                self.send_header("Location", places[folder])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 a name of http.server

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()
    thread.join()


def test_readers_follow_no_redirect_into_a_private_network(server):
    url, asked = server
    assert open_storage(f"{url}/same").read("zarr.json") == b"{}"
    asked.clear()
    for folder in ("metadata", "private"):
        with pytest.raises(StorageError, match=r"metadata service|private network"):
            CacheReader(f"{url}/{folder}")
    assert {path.split("/")[1] for path in asked} == {"metadata", "private"}, "nobody asked for the target"


def test_a_name_that_resolves_to_a_metadata_service_is_refused(monkeypatch):
    import socket

    def resolve(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port or 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(StorageError, match="metadata service"):
        open_storage("http://innocent.example/c").read("zarr.json")


def test_downloads_follow_no_redirect_into_a_private_network(server, tmp_path):
    url, asked = server
    file = RemoteFile(name="f", urls=(f"{url}/metadata/f", f"{url}/private/f"), num_bytes=2, md5="0" * 32)
    with pytest.raises(MissingFileError, match=r"metadata service.*private network"):
        fetch(file, tmp_path)
    assert [path.split("/")[1] for path in asked] == ["metadata", "private"]


def test_a_record_of_a_training_does_not_lead_there_either(tmp_path, monkeypatch):
    """The record names the cache that it was trained on; whoever made it chose that URL."""
    from viewgen.diagnostics.subjects import SubjectArguments

    document = {"dataset": {}, "config": {}, "cache": {"url": "http://169.254.169.254/latest"}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    arguments = SubjectArguments(kind="training", subject=str(tmp_path))
    with pytest.raises(StorageError, match="metadata service"):
        arguments._cache()


def test_the_command_says_so_and_ends_with_1():
    result = CliRunner().invoke(cli, ["show", "http://169.254.169.254/latest"])
    assert isinstance(result.exception, StorageError)
