"""What every storage promises, held against memory, local folders, file:// URLs and S3."""

import contextlib
import http.client
import http.server
import logging
import threading
import uuid

import pytest

from viewgen.errors import StorageError
from viewgen.store import ObjectExistsError, open_storage
from viewgen.testing import StorageContract

pytestmark = pytest.mark.usefixtures("no_flushing")


class TestLocal(StorageContract):
    @pytest.fixture
    def url(self, tmp_path):
        return str(tmp_path / "new folder/c.zarr")


class TestFileUrl(StorageContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"file://{tmp_path}/c.zarr"


class TestMemory(StorageContract):
    @pytest.fixture
    def url(self):
        url = f"memory://{uuid.uuid4().hex}/c.zarr"
        yield url
        open_storage(url).delete_tree("")


@pytest.fixture(scope="session")
def s3_server():
    """An S3 look-alike in this process; yields its endpoint."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextlib.contextmanager
def cutting_proxy(server):
    """Yield the endpoint of a proxy that cuts the first answer to each conditional PUT, and what it cut."""
    cut = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = http.client.HTTPConnection(server.removeprefix("http://"))
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if "If-None-Match" in self.headers and self.path not in cut:
                cut.append(self.path)
                self.close_connection = True
                return
            self.send_response(answer.status)
            kept = {"content-type", "etag", "last-modified", "content-range", "accept-ranges"}
            for name, value in answer.getheaders():
                if name.lower() in kept or name.lower().startswith("x-amz"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_DELETE = do_PUT  # noqa: N815 names of http.server

        def log_message(self, *_):
            pass

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_port}", cut
    proxy.shutdown()
    proxy.server_close()
    thread.join()


class TestS3(StorageContract):
    @pytest.fixture
    def options(self, s3_server):
        endpoint = {"endpoint_url": s3_server}
        return {"key": "AKIAEXAMPLEKEY", "secret": "example-secret", "client_kwargs": endpoint}

    @pytest.fixture
    def url(self, options):
        import s3fs

        bucket = uuid.uuid4().hex
        s3fs.S3FileSystem(**options).mkdir(bucket)
        return f"s3://{bucket}/folder/c.zarr"

    def test_creation_is_a_condition_of_the_request(self, storage, monkeypatch):
        """The check before the PUT only saves a transfer: without it the server refuses as well."""
        storage.write_new("a", b"1")
        monkeypatch.setattr(storage, "size", lambda path: None)
        with pytest.raises(ObjectExistsError):
            storage.write_new("a", b"2")
        assert storage.read("a") == b"1"

    def test_an_answer_that_is_cut_after_the_write(self, s3_server, options, url):
        """The server does what a conditional PUT asks for, and the connection ends before its answer."""
        with cutting_proxy(s3_server) as (endpoint, cut):
            storage = open_storage(url, {**options, "client_kwargs": {"endpoint_url": endpoint}})
            storage.write_new("a", b"mine")
            assert len(cut) == 1
            assert storage.read("a") == b"mine"
            with pytest.raises(ObjectExistsError):
                storage.write_new("a", b"yours")
            assert storage.refuses_existing()
            assert storage.paths() == ["a"]

    def test_a_missing_bucket_and_wrong_options_are_one_clear_message(self, options):
        with pytest.raises(
            StorageError, match="cannot write s3://nowhere/c/a: the bucket or folder does not exist"
        ):
            open_storage("s3://nowhere/c", options).write_new("a", b"")
        with pytest.raises(StorageError, match="names no bucket"):
            open_storage("s3://", options)
        with pytest.raises(StorageError, match="misspelt"):
            open_storage("s3://b/c", {**options, "misspelt": 1}).read("a")

    def test_no_credentials_in_messages(self, options):
        secrets = {"key": "AKIAEXAMPLEKEY", "secret": "example-secret"}
        endpoint = {"endpoint_url": "http://127.0.0.1:9"}
        quick = {"config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1}}
        storage = open_storage("s3://bucket/c", {**secrets, **quick, "client_kwargs": endpoint})
        storage._fs.retries = 1
        with pytest.raises(StorageError, match="cannot read s3://bucket/c/a") as caught:
            storage.read("a")
        for text in (str(caught.value), repr(storage)):
            assert not any(secret in text for secret in secrets.values())
