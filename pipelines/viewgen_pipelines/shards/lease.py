"""The lease: at most one driver works on a cache at a time.

The driver that takes the lease creates ``run/lease/<epoch>.json``, create-only, so that one of two drivers
that both find an expired lease wins. The holder rewrites its file every `HEARTBEAT_SECONDS`; the file with
the highest epoch is valid. Workers call `LeaseToken.check` before they write a commit record, so that the
workers of a dead driver do not commit into another driver's run.

A holder that died on this machine is recognised at once, by its process id and that process's start time. A
holder on another machine, or one whose file cannot be read, counts as dead once its file has not changed for
`EXPIRY_SECONDS` of this process's own clock: clocks of two machines are never compared.
"""

import contextlib
import json
import math
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from viewgen.errors import LeaseError, MissingFileError, StorageError
from viewgen.store import RUN_FOLDER, Storage

__all__ = [
    "EXPIRY_SECONDS",
    "HEARTBEAT_SECONDS",
    "Lease",
    "LeaseToken",
    "process_is_alive",
    "ruling_record",
    "this_process",
]

HEARTBEAT_SECONDS = 5.0
EXPIRY_SECONDS = 3 * HEARTBEAT_SECONDS

# Seconds between two looks at the lease of a holder elsewhere.
WATCH_SECONDS = 1.0

FOLDER = f"{RUN_FOLDER}/lease"
LAST_EPOCH = 10**17
LAST_TIME = 253402300800.0  # the year 10000, in seconds since 1970
_NAME = re.compile(r"(\d{8,18})\.json")


def this_process() -> dict[str, Any]:
    """Identify this process: host (name, boot and process namespace), process id and start time."""
    return {"host": _host(), "pid": os.getpid(), "process_start": _process_start(os.getpid())}


def process_is_alive(process: dict[str, Any]) -> bool | None:
    """Return True if a process described by `this_process` still runs; None if it is on another machine."""
    if process.get("host") != _host():
        return None
    pid = int(process["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _process_start(pid) == process.get("process_start")


def _host() -> str:
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("/pid") else Path(path).read_text().strip())
        except OSError:
            continue
    return " ".join(parts)


def _process_start(pid: int) -> str | None:
    """Return a process's start in clock ticks since boot, which tells a reused id from its first owner."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended: only its parent has not yet asked for the exit status.
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseToken:
    """The data with which a worker checks that its driver still holds the lease."""

    run_id: str
    url: str

    def check(self, storage: Storage) -> None:
        """Raise `LeaseError` unless the run still holds the lease and its driver is not known to be dead."""
        record = ruling_record(storage)
        if record is None or record["run_id"] != self.run_id:
            raise LeaseError(f"run {self.run_id} no longer holds the lease of {self.url}; its worker stops")
        if process_is_alive(record["holder"]) is False:
            raise LeaseError(f"the driver of run {self.run_id} on {self.url} has ended; its worker stops")


class Lease:
    """The lease of one cache, held by this process from `acquire` to `release`."""

    def __init__(self, storage: Storage, run_id: str | None = None) -> None:
        self.storage = storage
        self.run_id = run_id or uuid.uuid4().hex[:12]
        self.lost: str | None = None
        self._path: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._started = time.time()

    @property
    def token(self) -> LeaseToken:
        return LeaseToken(run_id=self.run_id, url=self.storage.url)

    def acquire(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Take the lease; if another driver holds it, first watch whether that driver is still alive.

        Args:
            sleep: function that waits for a number of seconds.

        Raises:
            LeaseError: another run holds it; the message names the run, its start and what to do.
        """
        epochs = _epochs(self.storage)
        if epochs:
            self._refuse_if_held(epochs[-1], sleep)
        epoch = epochs[-1] + 1 if epochs else 1
        if epoch > LAST_EPOCH:
            raise LeaseError(
                f"{self.storage.url}/{_path(epochs[-1])} has the last number that a lease can have, so "
                "it was not written by viewgen; if no run is writing the cache, delete the folder "
                f"{FOLDER} in it"
            )
        path = _path(epoch)
        try:
            self.storage.write_new(path, self._record())
        except FileExistsError:
            raise LeaseError(
                f"another run took the lease of {self.storage.url} just now; wait, or use another --out"
            ) from None
        self._path = path
        for old in epochs:
            self.storage.delete(_path(old))
        self._thread = threading.Thread(target=self._beat, name="viewgen-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `LeaseError` if the lease was lost."""
        if self.lost is not None:
            raise LeaseError(self.lost)

    def release(self) -> None:
        """Give the lease back; do nothing if it was lost or never taken."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=EXPIRY_SECONDS)
        if self._path is not None and self.lost is None:
            # It expires by itself; a cleanup that fails must not hide the outcome of the run.
            with contextlib.suppress(StorageError):
                self.storage.delete(self._path)
        self._path = None

    def __enter__(self) -> "Lease":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _record(self) -> bytes:
        now = time.time()
        record = {"run_id": self.run_id, "holder": this_process(), "started": self._started, "heartbeat": now}
        return json.dumps(record).encode()

    def _refuse_if_held(self, epoch: int, sleep: Callable[[float], object]) -> None:
        """Return if the holder of an epoch is dead; otherwise raise an error that names the holder."""
        first = _bytes(self.storage, epoch)
        record = parse_record(first)
        alive = None if record is None else process_is_alive(record["holder"])
        if first is None or alive is False:
            return
        if alive is None and _stands_still(self.storage, epoch, first, sleep):
            return
        if record is None:
            raise LeaseError(
                f"{self.storage.url}/{_path(epoch)} changes, and is no lease that this version understands; "
                "end whatever writes it, or use another --out"
            )
        holder = record["holder"]
        since = datetime.fromtimestamp(record["started"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        where = str(holder["host"]).split()[0]
        kill = f"end it with `kill {holder['pid']}`" if alive else "end it there"
        raise LeaseError(
            f"{self.storage.url} is being written by run {record['run_id']} (process {holder['pid']} on "
            f"{where}, since {since}): wait for it, or {kill}, and run this command again"
        )

    def _beat(self) -> None:
        last_success = time.monotonic()
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                ruling = ruling_record(self.storage)
                if ruling is None or ruling["run_id"] != self.run_id:
                    holder = "nobody" if ruling is None else f"run {ruling['run_id']}"
                    self.lost = f"run {self.run_id} lost the lease of {self.storage.url} to {holder}"
                    return
                assert self._path is not None
                self.storage.write(self._path, self._record())
                last_success = time.monotonic()
            except Exception as error:
                # One failed request is no reason to stop; without a heartbeat others may take over.
                if time.monotonic() - last_success > EXPIRY_SECONDS:
                    self.lost = f"the lease of {self.storage.url} could not be renewed: {error}"
                    return


def _path(epoch: int) -> str:
    return f"{FOLDER}/{epoch:08d}.json"


def _epochs(storage: Storage) -> list[int]:
    names = [path.rpartition("/")[2] for path in storage.paths(FOLDER)]
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def _bytes(storage: Storage, epoch: int) -> bytes | None:
    try:
        return storage.read(_path(epoch))
    except MissingFileError:
        return None


def _stands_still(storage: Storage, epoch: int, first: bytes, sleep: Callable[[float], object]) -> bool:
    """Watch a lease for `EXPIRY_SECONDS`; return True if its file did not change, or was deleted."""
    for _ in range(math.ceil(EXPIRY_SECONDS / WATCH_SECONDS)):
        sleep(WATCH_SECONDS)
        if (now := _bytes(storage, epoch)) != first:
            return now is None
    return True


def parse_record(data: bytes | None) -> dict[str, Any] | None:
    """Return the contents of a lease file: run_id, holder, started and heartbeat (epoch seconds).

    None if there is no file, or if no version of viewgen wrote it.
    """
    try:
        record = json.loads(data or b"")
        holder = record["holder"]
        sound = (
            all(isinstance(text, str) and text.strip() for text in (record["run_id"], holder["host"]))
            and isinstance(holder["pid"], int)
            and 0 < holder["pid"] < 2**31
            and all(0 <= float(record[name]) < LAST_TIME for name in ("started", "heartbeat"))
        )
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return record if sound else None


def ruling_record(storage: Storage) -> dict[str, Any] | None:
    """Return the record of the present (or last) holder of the lease, as `parse_record` does."""
    epochs = _epochs(storage)
    return parse_record(_bytes(storage, epochs[-1])) if epochs else None
