"""Set-up of a process, done once: threads, memory allocation, a private folder."""

import os
import tempfile
from pathlib import Path

from viewgen.errors import StorageError

__all__ = ["configure_process", "private_folder"]


def configure_process(num_threads: int) -> None:
    """Set the number of torch's threads, tune malloc, and leave TF32 off.

    Oversubscribed cores cost a factor of 2 to 4. By default cuDNN rounds convolutions to TF32's 10 bits;
    without TF32, distances on a GPU agree with those on a CPU.
    """
    import torch

    from viewgen.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(max(1, num_threads))
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def private_folder(name: str = "") -> Path:
    """Return this user's private folder for crash traces and Ray's sessions; only this user can enter it.

    Raises:
        StorageError: a folder of that name belongs to another user.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    base = tempfile.gettempdir()
    # Ray's socket paths below it must stay under 107 bytes.
    folder = Path(base if len(base) <= 20 else "/tmp") / f"viewgen-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise StorageError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own")
    if name:
        folder = folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
