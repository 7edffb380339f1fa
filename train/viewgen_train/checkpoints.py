"""The weights beside a checkpoint: ``last.safetensors`` and ``best.safetensors``.

The checkpoint's own file holds the rest of the state and is what counts. New weights are written under the
name of their step, the checkpoint is replaced, then they take the name ``last``: a process that dies in
between leaves the weights of whichever checkpoint stands.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from viewgen.errors import CorruptDataError
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import read_header, save_model

__all__ = ["restore_weights", "settle_weights", "write_best", "write_weights"]

LAST, BEST = "last.safetensors", "best.safetensors"


def _of_step(folder: Path, step: int) -> Path:
    return folder / f"last-{step}.safetensors"


def write_weights(encoder: Encoder, folder: Path, step: int, notes: Mapping[str, Any]) -> None:
    """Write the weights after `step` steps, under a name of their own."""
    save_model(encoder, _of_step(folder, step), notes={**notes, "step": step})


def settle_weights(folder: Path, step: int) -> None:
    """Call the weights of `step` ``last``, and remove those of a checkpoint that was never finished."""
    own = _of_step(folder, step)
    if own.exists():
        own.replace(folder / LAST)
    # other leftovers of killed processes: weights of another step, and half-written files
    for leftover in (*folder.glob("last-*.safetensors"), *folder.glob(".*.safetensors.*")):
        leftover.unlink(missing_ok=True)


def write_best(encoder: Encoder, folder: Path, step: int, notes: Mapping[str, Any]) -> None:
    """Write the best weights so far."""
    save_model(encoder, folder / BEST, notes={**notes, "step": step})


def restore_weights(encoder: Encoder, folder: Path, step: int) -> None:
    """Load the weights that belong to the checkpoint after `step` steps.

    Raises:
        CorruptDataError: they are not there.
    """
    for path in (_of_step(folder, step), folder / LAST):
        if path.exists() and read_header(path).get("step") == step:
            encoder.load_state_dict(load_file(path))
            return
    raise CorruptDataError(
        f"{folder} has a checkpoint of step {step} without its weights ({LAST}); "
        "give --overwrite to start afresh"
    )
