"""Weight files beside a checkpoint: ``last.safetensors`` and ``best.safetensors``.

The checkpoint file holds the rest of the state and is authoritative. New weights are written under the name
of their step, then the checkpoint is replaced, then the weights are renamed to ``last``. If the process dies
in between, the weights of the current checkpoint still exist.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from viewgen.errors import CorruptDataError
from viewgen.networks.branches import Branches
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import read_header, save_model

__all__ = ["restore_weights", "settle_weights", "write_best", "write_weights"]

LAST, BEST = "last.safetensors", "best.safetensors"


def _of_step(folder: Path, step: int) -> Path:
    return folder / f"last-{step}.safetensors"


def write_weights(encoder: Encoder | Branches, folder: Path, step: int, notes: Mapping[str, Any]) -> None:
    """Write the weights after `step` steps, under the name of the step."""
    save_model(encoder, _of_step(folder, step), notes={**notes, "step": step})


def settle_weights(folder: Path, step: int) -> None:
    """Rename the weights of `step` to ``last``; remove weights of unfinished checkpoints."""
    own = _of_step(folder, step)
    if own.exists():
        own.replace(folder / LAST)
    # other leftovers of killed processes: weights of another step, and half-written files
    for leftover in (*folder.glob("last-*.safetensors"), *folder.glob(".*.safetensors.*")):
        leftover.unlink(missing_ok=True)


def write_best(encoder: Encoder | Branches, folder: Path, step: int, notes: Mapping[str, Any]) -> None:
    """Write the best weights so far."""
    save_model(encoder, folder / BEST, notes={**notes, "step": step})


def restore_weights(encoder: Encoder | Branches, folder: Path, step: int) -> None:
    """Load the weights that belong to the checkpoint after `step` steps.

    Raises:
        CorruptDataError: the weights are missing.
    """
    for path in (_of_step(folder, step), folder / LAST):
        if path.exists() and read_header(path).get("step") == step:
            encoder.load_state_dict(load_file(path))
            return
    raise CorruptDataError(
        f"{folder} has a checkpoint of step {step} without its weights ({LAST}); "
        "give --overwrite to start afresh"
    )
