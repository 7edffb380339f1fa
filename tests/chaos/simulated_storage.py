"""The storage of a simulated world: an object store that fails as networks do, and a local folder."""

import errno
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from simulated_world import World

from viewgen.errors import MissingFileError, StorageError
from viewgen.store import ObjectExistsError, Storage
from viewgen.store.remote import FsspecStorage


class FileSystem:
    """An object store behind fsspec's interface, with the faults of networks."""

    protocol = ("s3",)

    def __init__(self, world: World) -> None:
        self.world = world

    def invalidate_cache(self, place: str = "") -> None:
        pass

    def _strip_protocol(self, place: str) -> str:
        return place

    def pipe_file(self, place: str, data: bytes, mode: str = "overwrite") -> None:
        world, path, create = self.world, place.removeprefix("c/"), mode == "create"
        world.step(f"{'create' if create else 'put'} {path}")
        fault = world.draw(("503", "409", "lost", "lost and sent again", "late", "twice"))
        if fault:
            world.note(f"  fault: {fault}")
        if fault == "503":
            raise OSError(errno.EBUSY, "SlowDown")
        if fault == "409" and create:
            raise OSError(errno.EIO, "An error occurred (ConditionalRequestConflict) on PutObject")
        if fault == "late":
            who = f"the late request of {world.process.name}"
            world.later(world.random.expovariate(0.1), lambda: world.put(path, data, create, who))
            raise TimeoutError("no answer")
        landed = world.put(path, data, create)
        if fault == "twice":
            who = f"the second copy of a request of {world.process.name}"
            world.later(world.random.expovariate(0.1), lambda: world.put(path, data, create, who))
        if fault == "lost and sent again":
            world.step(f"{'create' if create else 'put'} {path} (again)")
            landed = world.put(path, data, create)
        if fault == "lost":
            raise ConnectionError("no answer")
        if not landed:
            raise OSError(errno.EINVAL, "An error occurred (PreconditionFailed) on PutObject")

    def cat_file(self, place: str, start: int | None = None, end: int | None = None) -> bytes:
        return self._ask(place, "read")[start:end]

    def info(self, place: str) -> dict[str, Any]:
        return {"size": len(self._ask(place, "look at"))}

    def find(self, place: str, detail: bool) -> dict[str, dict[str, Any]]:
        folder = place.removeprefix("c").lstrip("/")
        self.world.step(f"list {folder}")
        self._may_fail()
        objects = self.world.objects
        chosen = [path for path in objects if not folder or path.startswith(f"{folder}/")]
        return {f"c/{path}": {"size": len(objects[path])} for path in chosen}

    def ls(self, place: str, detail: bool) -> list[str]:
        return sorted({f"c/{path.split('/')[1]}" for path in self.find(place, detail)})

    def rm_file(self, place: str) -> None:
        path = place.removeprefix("c/")
        self.world.step(f"delete {path}")
        self._may_fail()
        self.world.remove(path)

    def _ask(self, place: str, verb: str) -> bytes:
        path = place.removeprefix("c/")
        self.world.step(f"{verb} {path}")
        self._may_fail()
        if path not in self.world.objects:
            raise FileNotFoundError(path)
        return self.world.objects[path]

    def _may_fail(self) -> None:
        if self.world.draw(("read 503",)):
            raise OSError(errno.EBUSY, "SlowDown")


class ObjectStore(FsspecStorage):
    """The real storage of object stores, over the simulated file system."""

    parallel_reads = 1

    def __init__(self, world: World) -> None:
        self.url = "s3://c"
        self._secrets = []
        self._fs = FileSystem(world)
        self._root = "c"
        self._protocols = {"s3"}


class Folder(Storage):
    """A local file system: no request gets lost, and creation is atomic. Without a world's steps: a look."""

    def __init__(self, world: World, *, stepping: bool = True) -> None:
        self.url = "/c"
        self.world = world
        self._step = world.step if stepping else (lambda label: None)

    def read(self, path: str) -> bytes:
        self._step(f"read {path}")
        if path not in self.world.objects:
            raise MissingFileError(path)
        return self.world.objects[path]

    def read_range(self, path: str, start: int, length: int) -> bytes:
        return self.read(path)[start : start + length]

    def write_new(self, path: str, data: bytes) -> None:
        self._step(f"create {path}")
        if self.world.draw(("503",)):
            raise StorageError("no space left on device")
        if not self.world.put(path, data, create=True):
            raise ObjectExistsError(path)

    def write(self, path: str, data: bytes) -> None:
        self._step(f"put {path}")
        if self.world.draw(("503",)):
            raise StorageError("no space left on device")
        self.world.put(path, data, create=False)

    def size(self, path: str) -> int | None:
        self._step(f"look at {path}")
        return len(self.world.objects[path]) if path in self.world.objects else None

    def paths(self, prefix: str = "") -> list[str]:
        self._step(f"list {prefix}")
        return sorted(path for path in self.world.objects if not prefix or path.startswith(f"{prefix}/"))

    def entries(self) -> list[str]:
        self._step("list")
        return sorted({path.split("/")[0] for path in self.world.objects})

    def delete(self, path: str) -> None:
        self._step(f"delete {path}")
        self.world.remove(path)

    def delete_tree(self, prefix: str) -> None:
        for path in self.paths(prefix):
            self.delete(path)
