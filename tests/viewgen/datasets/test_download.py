"""Downloads from a real HTTP server on this machine: whole, cut, resumed, wrong, and none at all."""

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from viewgen.cli import main
from viewgen.datasets import cifar, download, download_dataset, load_dataset
from viewgen.datasets.cifar import CIFAR10
from viewgen.datasets.download import RemoteFile, fetch, obtain
from viewgen.errors import CorruptDataError, MissingFileError, StorageError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@dataclass
class Site:
    """What the server offers, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    ranges: bool = True
    status: int | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    offered = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            offered.requests.append((self.path, wanted))
            data = offered.files.get(self.path[1:])
            if offered.status or data is None:
                self.send_error(offered.status or 404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and offered.ranges else 0
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:][: offered.cuts.pop(0)] if offered.cuts else data[start:])

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "RETRY_SECONDS", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        offered.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield offered
        server.shutdown()
        thread.join()


def remote(site: Site, content: bytes = CONTENT, name: str = "data.bin", **changes: object) -> RemoteFile:
    site.files.setdefault(name, content)
    file = RemoteFile(
        name=name, urls=(f"{site.url}/{name}",), num_bytes=len(content), md5=hashlib.md5(content).hexdigest()
    )
    return replace(file, **changes)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"}


def test_a_whole_download_takes_its_name_and_is_not_repeated(site: Site, tmp_path: Path) -> None:
    file = remote(site)
    assert fetch(file, tmp_path / "new").read_bytes() == CONTENT
    assert fetch(file, tmp_path / "new").read_bytes() == CONTENT
    assert names(tmp_path / "new") == {"data.bin"}
    assert len(site.requests) == 1


def test_a_cut_connection_is_resumed_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.cuts = [1_000_000, 500_000]
    assert fetch(remote(site), tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in site.requests] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_the_part_of_a_killed_download_is_resumed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:2_999_999])
    assert fetch(remote(site), tmp_path).read_bytes() == CONTENT
    assert site.requests == [("/data.bin", "bytes=2999999-")]


def test_a_complete_part_needs_no_request(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(remote(site), tmp_path).read_bytes() == CONTENT
    assert site.requests == []


def test_a_server_without_ranges_sends_everything_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:10])
    assert fetch(remote(site), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"something else", CONTENT[::-1], CONTENT + b"longer"])
def test_a_part_of_another_file_is_replaced(site: Site, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "data.bin.part").write_bytes(stale)
    assert fetch(remote(site), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == {"data.bin"}


def test_a_connection_that_never_gets_further_leaves_its_part(site: Site, tmp_path: Path) -> None:
    site.cuts = [1000, 0]
    with pytest.raises(MissingFileError, match="1000 of 3000000 bytes kept for the next try"):
        fetch(remote(site), tmp_path)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:1000]
    assert fetch(remote(site), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(site: Site, tmp_path: Path) -> None:
    file = remote(site)
    site.files["data.bin"] = CONTENT[:-1] + b"\0"
    with pytest.raises(CorruptDataError, match=file.md5) as caught:
        fetch(file, tmp_path)
    assert caught.value.exit_code == 5
    assert names(tmp_path) == set()


def test_more_bytes_than_announced_are_refused(site: Site, tmp_path: Path) -> None:
    file = remote(site)
    site.files["data.bin"] = CONTENT + b"more"
    with pytest.raises(MissingFileError, match="more than the expected 3000000"):
        fetch(file, tmp_path)
    assert "data.bin" not in names(tmp_path)


def test_a_mirror_serves_when_the_first_address_fails(site: Site, tmp_path: Path) -> None:
    file = remote(site)
    file = replace(file, urls=(f"{site.url}/gone.bin", *file.urls))
    assert fetch(file, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_answer_names_file_url_and_place(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    file = remote(site)
    with pytest.raises(MissingFileError, match=f"answered {status}") as caught:
        fetch(file, tmp_path)
    assert_advice(str(caught.value), file, tmp_path)


def test_offline_names_file_url_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    file = RemoteFile(name="data.bin", urls=("http://127.0.0.1:1/data.bin",), num_bytes=7, md5="0" * 32)
    with pytest.raises(MissingFileError, match="NewConnectionError") as caught:
        fetch(file, tmp_path)
    assert_advice(str(caught.value), file, tmp_path)
    assert names(tmp_path) == set()


def test_without_leave_to_download_nothing_is_made(tmp_path: Path) -> None:
    file = RemoteFile(name="data.bin", urls=("http://127.0.0.1:1/data.bin",), num_bytes=7, md5="0" * 32)
    with pytest.raises(MissingFileError) as caught:
        obtain(file, (tmp_path / "x", tmp_path), download=False)
    assert_advice(str(caught.value), file, tmp_path / "x")
    assert names(tmp_path) == set()


def assert_advice(message: str, file: RemoteFile, directory: Path) -> None:
    for part in (file.name, file.urls[0], file.md5, str(directory / file.name)):
        assert part in message


def test_a_file_put_there_by_hand_is_verified(site: Site, tmp_path: Path) -> None:
    file = remote(site)
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert obtain(file, (tmp_path / "x", tmp_path), download=False) == tmp_path / "data.bin"
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(CorruptDataError, match=r"2999999 bytes, expected 3000000\. Delete it"):
        obtain(file, (tmp_path,), download=True)
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1] + b"\0")
    with pytest.raises(CorruptDataError, match=f"expected {file.md5}"):
        obtain(file, (tmp_path,), download=True)


def test_an_unwritable_root_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="--data-root"):
        fetch(remote(site), tmp_path / "file" / "sub")


def test_two_downloaders_share_one_transfer(site: Site, tmp_path: Path) -> None:
    file = remote(site)
    threads = [threading.Thread(target=fetch, args=(file, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(site.requests) == 1


@pytest.fixture
def small_cifar(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a ten-image CIFAR-10 that the local server offers."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        members = {f"data_batch_{part}.bin": bytes([part]) + bytes([part]) * 3072 for part in range(1, 6)}
        members |= {
            "test_batch.bin": bytes(3073),
            "batches.meta.txt": b"\n".join(b"c%d" % i for i in range(10)),
        }
        for name, data in members.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    file = remote(site, packed.getvalue(), CIFAR10.archive.name)
    monkeypatch.setattr(cifar, "CIFAR10_ENTRY", replace(CIFAR10, archive=file).entry)


def test_loading_downloads_once(site: Site, small_cifar: None, tmp_path: Path) -> None:
    for _ in range(2):
        dataset = load_dataset("cifar10", data_root=tmp_path)
        assert dataset.labels(range(5)).tolist() == [1, 2, 3, 4, 5]
    assert len(site.requests) == 1
    (path,) = download_dataset("cifar10", tmp_path)
    assert path == tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    assert len(site.requests) == 1


def test_command_downloads_and_reports(
    site: Site, small_cifar: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed() -> bool:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["datasets", "--json", "--data-root", str(tmp_path)])
        rows = json.loads(capsys.readouterr().out)["datasets"]
        return next(row["present"] for row in rows if row["name"] == "cifar10")

    assert not listed()
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["datasets", "--download", "cifar10", "--data-root", str(tmp_path)])
    assert str(tmp_path / "cifar10" / "cifar-10-binary.tar.gz") in capsys.readouterr().err
    assert listed()


@pytest.mark.parametrize(("status", "damage", "code"), [(503, False, 1), (None, True, 5)])
def test_command_exit_codes(
    site: Site,
    small_cifar: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int | None,
    damage: bool,
    code: int,
) -> None:
    site.status = status
    if damage:
        site.files[CIFAR10.archive.name] = bytes(len(site.files[CIFAR10.archive.name]))
    with pytest.raises(SystemExit, match=f"^{code}$"):
        main(["datasets", "--download", "cifar10", "--data-root", str(tmp_path)])
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert names(tmp_path / "cifar10") == set()
