"""Checkpoints of a training, and the weights beside them: ``last.safetensors`` and ``best.safetensors``.

A Viewmaker that trained beside the encoder gets a file of its own, ``viewmaker.safetensors``, in the end.

The checkpoint file holds the state without the encoder's weights, and is authoritative. New weights are
written under the name of their step, then the checkpoint is replaced, then the weights are renamed to
``last``. If the process dies in between, the weights of the current checkpoint still exist.

A checkpoint ends with the sha256 digest of its bytes, behind the archive that `torch.load` reads; those of
0.1.0 have the checksums of a zip archive alone. Weights files carry a digest in their header
(`viewgen.networks.files`). The checkpoint before the last one, with its weights, is kept under other names.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from viewgen.errors import CorruptDataError, MissingFileError, ModelError
from viewgen.files import file_sha256, link_atomically, write_atomically
from viewgen.networks.branches import Branches
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import Kind, read_header, read_state, save_model

__all__ = [
    "CHECKPOINT",
    "PREVIOUS",
    "keep_previous",
    "read_checkpoint",
    "restore_weights",
    "settle_weights",
    "use_previous",
    "write_beside",
    "write_best",
    "write_checkpoint",
    "write_weights",
]

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
LAST, BEST, PREVIOUS_WEIGHTS = "last.safetensors", "best.safetensors", "previous.safetensors"
# kinds of networks that view sources train beside the encoder
KINDS_BESIDE: tuple[Kind, ...] = ("viewmaker",)

_TRAILER = b"\nviewgen sha256:%s\n"
_TRAILER_BYTES = len(_TRAILER % bytes(64))
_TRAILER_PATTERN = re.compile(re.escape(_TRAILER).replace(b"%s", b"([0-9a-f]{64})"))
_NEEDED = {"trainer", "step", "seconds"}


class _Hashing(io.RawIOBase):
    """A file that computes the digest of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint with its digest, atomically."""

    def write(file: IO[bytes]) -> None:
        hashing = _Hashing(file)
        try:
            torch.save({**checkpoint, "digest": "sha256"}, cast(IO[bytes], hashing))
        except RuntimeError as error:
            # of a file that cannot be written, torch's writer tells its own position only
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.write(_TRAILER % hashing.sha256.hexdigest().encode())

    write_atomically(path, write, sole_writer=True)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return a checkpoint, or None if there is none.

    Raises:
        CorruptDataError: its bytes are not those that were written, or it is no checkpoint.
    """
    if not path.exists():
        return None
    try:
        has_digest = _check_bytes(path)
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = _NEEDED - loaded.keys()
        if "digest" in loaded and not has_digest:
            raise ValueError("its digest is gone")
    except Exception as error:  # torch.load has no error class of its own
        raise CorruptDataError(f"{path} cannot be read ({error}); {_remedy(path)}") from error
    if missing:
        raise CorruptDataError(f"{path} is no checkpoint of a training; {_remedy(path)}")
    return loaded


def _check_bytes(path: Path) -> bool:
    """Compare a checkpoint with its digest or checksums; return True if it has a digest.

    Raises:
        ValueError: it is damaged.
    """
    length = path.stat().st_size - _TRAILER_BYTES
    with path.open("rb") as file:
        file.seek(max(0, length))
        trailer = _TRAILER_PATTERN.fullmatch(file.read())
    if trailer is None:
        with zipfile.ZipFile(path) as archive:
            if (entry := archive.testzip()) is not None:
                raise ValueError(f"the checksum of its entry {entry} is wrong")
        return False
    if file_sha256(path, length) != trailer[1].decode():
        raise ValueError("its bytes are not those that were written: the sha256 digest differs")
    return True


def _remedy(path: Path) -> str:
    previous = path.with_name(PREVIOUS)
    if not previous.exists():
        return "delete it, or give --overwrite to start afresh"
    return (
        f"go on from the checkpoint before it with `viewgen train … --previous-checkpoint`, or for "
        f"`viewgen pretrain` copy {previous.name} to {path.name}; or give --overwrite to start afresh"
    )


def keep_previous(folder: Path) -> None:
    """Keep the present checkpoint, which is about to be replaced, as the previous one."""
    if (folder / CHECKPOINT).exists():
        link_atomically(folder / CHECKPOINT, folder / PREVIOUS)


def use_previous(folder: Path) -> int:
    """Make the previous checkpoint of a training and its weights the present ones; return its step.

    Raises:
        MissingFileError: there is no previous checkpoint.
        CorruptDataError: it is damaged too.
    """
    checkpoint = read_checkpoint(folder / PREVIOUS)
    if checkpoint is None:
        raise MissingFileError(
            f"{folder} has no checkpoint before the last one ({PREVIOUS}); leave out --previous-checkpoint, "
            "or give --overwrite to start afresh"
        )
    step = int(checkpoint["step"])
    weights = _weights_of(folder, step)
    read_state(weights)
    if weights.name != LAST:
        link_atomically(weights, folder / LAST)
    link_atomically(folder / PREVIOUS, folder / CHECKPOINT)
    return step


def _of_step(folder: Path, step: int) -> Path:
    return folder / f"last-{step}.safetensors"


def _weights_of(folder: Path, step: int) -> Path:
    """Return the file of the weights after `step` steps.

    Raises:
        CorruptDataError: there is none.
    """
    for path in (_of_step(folder, step), folder / LAST, folder / PREVIOUS_WEIGHTS):
        if path.exists() and read_header(path).get("step") == step:
            return path
    raise CorruptDataError(f"{folder} has a checkpoint of step {step} without its weights ({LAST})")


def write_weights(encoder: Encoder | Branches, folder: Path, step: int, notes: Mapping[str, Any]) -> None:
    """Write the weights after `step` steps, under the name of the step."""
    save_model(encoder, _of_step(folder, step), notes={**notes, "step": step})


def settle_weights(folder: Path, step: int) -> None:
    """Rename the weights of `step` to ``last``, keep those before, remove those of unfinished checkpoints."""
    own = _of_step(folder, step)
    if own.exists():
        if (folder / LAST).exists():
            link_atomically(folder / LAST, folder / PREVIOUS_WEIGHTS)
        own.replace(folder / LAST)
    # other leftovers of killed processes: weights of another step, and half-written files
    for leftover in (*folder.glob("last-*.safetensors"), *folder.glob(".*.safetensors.*")):
        leftover.unlink(missing_ok=True)


def write_best(encoder: Encoder | Branches, folder: Path, step: int, notes: Mapping[str, Any]) -> None:
    """Write the best weights so far."""
    save_model(encoder, folder / BEST, notes={**notes, "step": step})


def write_beside(networks: Mapping[str, Any], folder: Path, step: int, notes: Mapping[str, Any]) -> None:
    """Write ``<kind>.safetensors`` of the networks of `KINDS_BESIDE` among those of a view source."""
    for kind in KINDS_BESIDE:
        if kind in networks:
            save_model(networks[kind], folder / f"{kind}.safetensors", notes={**notes, "step": step})


def restore_weights(encoder: Encoder | Branches, folder: Path, step: int) -> None:
    """Load the weights that belong to the checkpoint after `step` steps.

    Raises:
        CorruptDataError: the weights are missing or damaged.
    """
    try:
        encoder.load_state_dict(read_state(_weights_of(folder, step)))
    except (CorruptDataError, ModelError) as error:
        raise CorruptDataError(f"{error}; {_remedy(folder / CHECKPOINT)}") from error
