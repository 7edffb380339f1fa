"""Validation of the requested devices and processes of a training."""

import torch

from viewgen.device import resolve_device
from viewgen.errors import UsageError
from viewgen_train.settings import TrainSettings

__all__ = ["check_workers", "usable_device"]


def usable_device(device: str, gpus: int | None, workers: int | None) -> str:
    """Return the device of every process.

    Raises:
        UsageError: the device is not available, or there are fewer GPUs than requested.
    """
    if gpus is not None and workers is not None:
        raise UsageError("--gpus and --workers were given; expected one of them")
    if min(gpus or 1, workers or 1) < 1:
        raise UsageError(f"--gpus {gpus}, --workers {workers}: expected at least 1")
    if gpus is not None and gpus > torch.cuda.device_count():
        raise UsageError(
            f"--gpus {gpus}: this machine has {torch.cuda.device_count()}; give as many as there are, or "
            "--workers N for processes on the CPU"
        )
    if device == "auto":
        return "cpu" if workers else resolve_device()
    return resolve_device(device)


def check_workers(settings: TrainSettings, gpus: int | None, workers: int | None) -> int:
    """Return the number of processes.

    Raises:
        UsageError: the batch size is not divisible by the number of processes, or their parts are not by the
            objective's groups of batch statistics.
    """
    num_workers = gpus or workers or 1
    if settings.optimiser.batch_size % num_workers:
        raise UsageError(
            f"batch_size is {settings.optimiser.batch_size}, which {num_workers} workers cannot share "
            "equally; give a multiple (--batch-size)"
        )
    groups = settings.objective.build().head.key_groups
    if settings.optimiser.batch_size // num_workers % groups:
        raise UsageError(
            f"batch_size is {settings.optimiser.batch_size}, and the part of each of {num_workers} workers "
            f"does not divide into {groups} groups of batch statistics; change batch_size, key_groups or the "
            "number of workers"
        )
    return num_workers
