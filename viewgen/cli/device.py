"""The option ``--device``."""

from viewgen.errors import UsageError

__all__ = ["usable_device"]


def usable_device(name: str) -> str:
    """Return the torch device that `name` means; ``"auto"`` is a GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used: {error}") from error
    return name
