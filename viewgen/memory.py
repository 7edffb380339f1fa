"""Memory: free and used bytes, the number of images that fit, and the allocator's settings.

An evaluation always takes one group of images, so more slots only add the state of each image between its
steps: codes, moments, gradients. Both parts are measured, by a trial with one group and a trial with two, and
slots are added while a margin remains. Views do not depend on the number of slots.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch

from viewgen.errors import OutOfMemoryError
from viewgen.networks.acceleration import Announce

__all__ = [
    "BatchSize",
    "CudaMemory",
    "MemoryProbe",
    "ProcessMemory",
    "SlotRunner",
    "available_bytes",
    "fitting_slots",
    "free_gpu_bytes",
    "is_out_of_memory",
    "keep_freed_memory",
    "total_bytes",
]

BatchSize = int | Literal["auto"] | None
Result = TypeVar("Result")

# Share of the free memory that is used: fragments, other processes, images harder than those of the trial.
MARGIN = 0.8
MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


class MemoryProbe(Protocol):
    """A probe of this worker's share of one device's memory."""

    def available(self) -> int:
        """Return the bytes that this worker may still allocate."""
        ...

    def start(self) -> None:
        """Begin a measurement."""
        ...

    def peak(self) -> int:
        """Return the peak of the bytes in use since `start`, minus those in use at `start`."""
        ...


class CudaMemory:
    """Memory of a CUDA device.

    Args:
        device: the CUDA device.
        share: this worker's share of the device's memory.
    """

    def __init__(self, device: torch.device, share: float = 1.0) -> None:
        self.device = device
        self.share = share
        self._base = 0

    def available(self) -> int:
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(free_gpu_bytes(self.device) * self.share) + cached

    def start(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)
        self._base = torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        return max(0, torch.cuda.max_memory_allocated(self.device) - self._base)


class ProcessMemory:
    """Main memory of this process on Linux; on other systems it is unknown, and `available` returns 0.

    Args:
        share: this worker's share of the machine's free memory.
    """

    def __init__(self, share: float = 1.0) -> None:
        self.share = share
        self._base = 0

    def available(self) -> int:
        return int(available_bytes() * self.share)

    def start(self) -> None:
        with suppress(OSError):  # without it the peak since the process began stands
            Path("/proc/self/clear_refs").write_text("5")
        self._base = _status_bytes("VmRSS")

    def peak(self) -> int:
        return max(0, (_status_bytes("VmHWM") or _max_resident_bytes()) - self._base)


def available_bytes(cgroup: Path = _CGROUP, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the available main memory of the machine, or of the container if that is less, in bytes.

    Args:
        cgroup: folder of the control group (version 2, or 1's ``memory`` below it).
        meminfo: the kernel's memory statistics of the machine.
    """
    free = []
    if meminfo.is_file():
        free.append(_fields(meminfo).get("MemAvailable", 0) * 1024)
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most = _number(cgroup / limit)
        if most is not None:
            # pages of files that nobody uses are given up when memory is asked for
            spare = _fields((cgroup / limit).parent / "memory.stat").get(cache, 0)
            free.append(max(0, most - (_number(cgroup / used) or 0) + spare))
    return min(free, default=0)


def total_bytes(cgroup: Path = _CGROUP) -> int:
    """Return the main memory of the machine, or the limit of its container if that is less, in bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(cgroup / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([machine, *(limit for limit in limits if limit is not None)])


def free_gpu_bytes(device: torch.device) -> int:
    """Return the free memory of a CUDA device in bytes."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of returning them to the kernel; returns True on success.

    A network's activations are freed and allocated again every step; by default each of those blocks is
    unmapped and faulted in again, which costs large batches more time than their arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    """Return name → number of a file of lines ``name[:] number …``."""
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = [line.replace(":", " ").split()[:2] for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _status_bytes(name: str) -> int:
    return _fields(Path("/proc/self/status")).get(name, 0) * 1024


def _max_resident_bytes() -> int:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fitting_slots(one: int, two: int, *, group_size: int, slot_bytes: int, available: int) -> int:
    """Return the number of images that fit at once, in whole groups, at least one.

    Args:
        one: peak memory of a search with one group, in bytes.
        two: peak memory of a search with two groups, in bytes.
        group_size: images per group.
        slot_bytes: bytes of an image's state, the minimum of a slot.
        available: free bytes; the share `MARGIN` of them is used.
    """
    each = max(two - one, group_size * slot_bytes)
    return group_size * (1 + max(0, int(MARGIN * available) - one) // each)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """Measured bytes: peak memory with one group, peak memory with two groups, available memory."""

    one: int
    two: int
    available: int


class SlotRunner:
    """Runs searches with the requested number of slots, or as many as fit; fewer after memory ran out.

    Args:
        batch_size: images at once, rounded up to whole groups; ``"auto"``: as many as fit; None: one group.
        group_size: images per group.
        slot_bytes: bytes of an image's state.
        probe: memory probe for ``"auto"``.
        announce: callback for the chosen number of slots.
    """

    def __init__(
        self,
        batch_size: BatchSize,
        *,
        group_size: int,
        slot_bytes: int,
        probe: MemoryProbe,
        announce: Announce,
    ) -> None:
        self.group_size = group_size
        self.slot_bytes = slot_bytes
        self.probe = probe
        self.announce = announce
        wanted = group_size if batch_size is None else batch_size
        self.num_slots = None if wanted == "auto" else self._whole_groups(int(wanted))

    def _whole_groups(self, num_images: int) -> int:
        return -(-num_images // self.group_size) * self.group_size

    def run(self, search: Callable[[int], Result], trial: Callable[[int], object], num_images: int) -> Result:
        """Return the result of `search(num_slots)`.

        Args:
            search: search of all images of a shard; called again with fewer slots if memory runs out.
            trial: one step with a given number of images; called before the first search with ``"auto"``.
            num_images: number of images of the shard; more slots would stay empty.

        Raises:
            OutOfMemoryError: not even one group fits.
        """
        if self.num_slots is None:
            self.num_slots = self._measured(trial, num_images)
        while True:
            try:
                return search(self.num_slots)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = _first_line(error)
            # outside the handler: the exception's frames hold the tensors
            self.num_slots = self._halved(self.num_slots, reason)

    def _measured(self, trial: Callable[[int], object], num_images: int) -> int:
        group_size, all_images = self.group_size, self._whole_groups(num_images)
        available = self.probe.available()
        self.probe.start()
        if (problem := _memory_error(trial, group_size)) is not None:
            raise self._too_large(problem)
        one = self.probe.peak()
        if _memory_error(trial, 2 * group_size) is not None:
            self._release()
            self.announce("batch size", f"auto: {group_size} images at once, twice as many do not fit")
            return group_size
        two = max(one, self.probe.peak())
        fitting = fitting_slots(
            one, two, group_size=group_size, slot_bytes=self.slot_bytes, available=available
        )
        chosen = min(fitting, all_images)
        what = "all images of a shard" if chosen == all_images else f"{chosen} images"
        text = (
            f"auto: {what} at once (beyond what the worker holds, a group of {group_size} takes "
            f"{one / MIB:,.0f} MiB and two take {two / MIB:,.0f} MiB; of {available / MIB:,.0f} MiB that are "
            f"free {MARGIN:.0%} may be used)"
        )
        if one > MARGIN * available:
            text += "; memory may run out: use fewer --workers, or more of a GPU for each (--gpus-per-worker)"
        self.announce("batch size", text)
        return chosen

    def _halved(self, num_slots: int, reason: str) -> int:
        self._release()
        if num_slots <= self.group_size:
            raise self._too_large(reason)
        fewer = self._whole_groups(num_slots // 2)
        fewer = fewer if fewer < num_slots else num_slots - self.group_size
        self.announce("memory", f"out of memory with {num_slots} images at once; going on with {fewer}")
        return fewer

    def _release(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _too_large(self, reason: str) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"one group of {self.group_size} images does not fit into memory ({reason}); use fewer "
            "--workers, or more of a GPU for each (--gpus-per-worker)"
        )


def _memory_error(trial: Callable[[int], object], num_images: int) -> str | None:
    """Run a trial; return the reason if memory ran out."""
    try:
        trial(num_images)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _first_line(error)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an exception means that memory ran out, on a GPU or in torch's allocator."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
