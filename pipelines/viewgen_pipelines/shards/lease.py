"""The lease: at most one driver works on a cache at a time.

``run/lease/<epoch>.json`` is created by whoever takes the lease, create-only, so that of two drivers that
both find an expired lease one wins. The holder rewrites its file every `HEARTBEAT_SECONDS`; the file with the
highest epoch rules. Workers ask `LeaseToken.check` before they write a commit record, so that the workers of
a driver that has gone do not commit into another driver's run.

A holder that died on this machine is recognised at once, by its process id and that process's start time; one
on another machine after `EXPIRY_SECONDS` without a heartbeat.
"""

import contextlib
import json
import os
import platform
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

FOLDER = f"{RUN_FOLDER}/lease"


def this_process() -> dict[str, Any]:
    """Identify this process: host (name, boot and process namespace), process id and start time."""
    return {"host": _host(), "pid": os.getpid(), "process_start": _process_start(os.getpid())}


def process_is_alive(process: dict[str, Any]) -> bool | None:
    """Say whether a process described by `this_process` still runs; None if it is on another machine."""
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
    """Start time of a process in clock ticks since boot: tells a reused process id from the first owner's."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended: only its parent has not yet asked for the exit status.
    return None if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseToken:
    """What a worker needs to ask whether its driver still holds the lease."""

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
        """Take the lease or raise `LeaseError`, which says who holds it, since when and when it ends."""
        epochs = _epochs(self.storage)
        if epochs:
            record = _read(self.storage, epochs[-1])
            if record is not None:
                self._refuse_if_held(record, epochs[-1], sleep)
        epoch = epochs[-1] + 1 if epochs else 1
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
        """Give the lease back; does nothing when it was lost or never taken."""
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

    def _refuse_if_held(self, record: dict[str, Any], epoch: int, sleep: Callable[[float], object]) -> None:
        alive = process_is_alive(record["holder"])
        if alive is False:
            return
        age = time.time() - record["heartbeat"]
        if alive is None and age > EXPIRY_SECONDS:
            # Clocks of two machines differ: believe in the holder's death only if its heartbeat stands still.
            sleep(1.5 * HEARTBEAT_SECONDS)
            again = _read(self.storage, epoch)
            if again is None or again["heartbeat"] == record["heartbeat"]:
                return
        holder = record["holder"]
        host = str(holder["host"]).split()[0]
        since = datetime.fromtimestamp(record["started"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if alive:
            remedy = f"wait for it, or end it with `kill {holder['pid']}`, and run this command again"
        else:
            remedy = (
                f"wait for it or end it there; {EXPIRY_SECONDS:.0f} s after its last heartbeat "
                f"({max(age, 0):.0f} s ago) the lease ends by itself"
            )
        raise LeaseError(
            f"{self.storage.url} is being written by run {record['run_id']} (process {holder['pid']} "
            f"on {host}, since {since}): {remedy}"
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
    return sorted(int(name[:8]) for name in names if name.endswith(".json") and name[:8].isdigit())


def _read(storage: Storage, epoch: int) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(storage.read(_path(epoch)))
    except MissingFileError:
        return None
    return record


def ruling_record(storage: Storage) -> dict[str, Any] | None:
    """Return who holds the lease (or held it last): run_id, holder, started and heartbeat (epoch seconds)."""
    epochs = _epochs(storage)
    return _read(storage, epochs[-1]) if epochs else None
