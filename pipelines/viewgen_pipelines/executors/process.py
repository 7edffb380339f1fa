"""What a worker process sets up once before its first step."""

import os

__all__ = ["available_cores", "configure_process"]


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def configure_process(num_threads: int) -> None:
    """Set the number of torch's threads, tune malloc, and leave TF32 off.

    Oversubscribed cores cost a factor of 2 to 4. cuDNN rounds convolutions to TF32's 10 bits unless told not
    to; distances on a GPU shall be those of a CPU.
    """
    import torch

    from viewgen.malloc import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(max(1, num_threads))
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
