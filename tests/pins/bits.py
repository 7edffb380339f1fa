"""Digests of all pinned outputs on this machine, to the bit: before a move, and after it.

``python tests/pins/bits.py record FILE`` writes them; ``python tests/pins/bits.py compare FILE`` makes them
again and lists those that differ, with exit code 1 if there are any. Kernels for other processors and another
version of torch give other bits: record and compare on one machine, in one environment.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pinned
import reach
from safetensors.numpy import load_file


def digest(value: Any) -> str:
    """Return the digest of an array's bytes, or of JSON values."""
    if isinstance(value, np.ndarray):
        data = f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    else:
        data = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def outputs() -> dict[str, str]:
    """Run everything that is pinned, in the workplace; return its name → digest."""
    found: dict[str, Any] = {}
    for name in pinned.METHODS:
        found |= {f"{name} {array}": value for array, value in pinned.make_views(name).items()}
    pinned.done(pinned.INCOMPLETE)
    found |= {f"resumed {name}": value for name, value in pinned.cache_arrays("incomplete.zarr").items()}
    runs = {name: pinned.run_training(name) for name in pinned.CURVES | pinned.OBJECTIVES}
    pinned.done(pinned.UNFINISHED)
    for name, folder in {**runs, "resumed": Path("runs/unfinished")}.items():
        found[f"run {name} losses"] = pinned.losses(folder)
        weights = load_file(folder / "last.safetensors")
        found |= {f"run {name} {tensor}": value for tensor, value in weights.items()}
    found["evaluation"] = pinned.accuracies(json.loads(pinned.done(pinned.EVALUATION)))
    for name, words in pinned.CACHE_IDENTITIES.items():
        found[f"identity of {name}"] = reach.cache_document(words)["attributes"]["viewgen"]["identity"]
    for name, words in pinned.RUN_IDENTITIES.items():
        found[f"identity of the training {name}"] = reach.run_identity(words)
    return {name: digest(value) for name, value in found.items()}


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "compare"):
        raise SystemExit(__doc__)
    file = Path(sys.argv[2]).absolute()
    before = json.loads(file.read_text()) if sys.argv[1] == "compare" else None
    with tempfile.TemporaryDirectory() as name, pinned.workplace(Path(name).resolve()):
        found = outputs()
    if before is None:
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{len(found)} digests in {file}")
        return
    different = sorted(key for key in before.keys() | found.keys() if before.get(key) != found.get(key))
    print("\n".join([f"{len(different)} of {len(before)} digests differ", *different]))
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
