"""Settings of glibc's allocator for tensors on the CPU."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of returning them to the kernel; returns whether it was done.

    A network's activations are freed and allocated again every step; by default each of those blocks is
    unmapped and faulted in anew, which costs large batches more time than their arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20))
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)
