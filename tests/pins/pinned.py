"""What is pinned: commands, run in a copy of the golden files, and what they left, read from the disk.

Only surfaces that outlive a move of modules are used: the command `viewgen` as installed, Zarr as any Zarr
library reads it, CSV, JSON and safetensors. What needs an import of ours stands in `reach`.
"""

import contextlib
import csv
import importlib.metadata
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden" / "v0.1.0"
PINS = Path(__file__).parent

NUM_IMAGES = 16
# three shards, the last of which is partial
_IMAGES = f"cache --dataset digits --limit {NUM_IMAGES} --shard-images 6 --models networks --executor local"
_VIEWS = f"{_IMAGES} --views 2 --inversions inversions.zarr"

# What were the defaults of 0.1.0, named since others took their place: W-search followed random directions to
# ε₁, lengths were in the generator's own codes, and inversions took 12 steps of Adam.
_ADAM = "--set invert.solver=adam --set invert.max_steps=12"
_OWN_CODES = "--set truncation=1"
_START = f"--set start=boundary --set spread_share=0.75 {_OWN_CODES} {_ADAM}"
_OLD = f"--solver boundary {_START}"
# name: command that makes the cache of that name; views start from the golden inversions
METHODS = {
    "wsearch": f"{_VIEWS} --method wsearch {_OLD}",
    "wsearch-short": f"{_VIEWS} --method wsearch --max-steps 1 --keep-latents {_OLD}",
    "wsearch-adam": f"{_VIEWS} --method wsearch --solver adam --max-steps 12 --keep-latents {_START}",
    "wperturb": f"{_VIEWS} --method wperturb --keep-latents {_OWN_CODES} {_ADAM}",
    "expert": f"{_IMAGES} --views 2 --method expert",
    "invert": f"{_IMAGES} --method invert --solver adam --max-steps 12",
}
# the commands of the two golden caches of views: one is complete, the other lacks shards
CACHE = f"{METHODS['wsearch']} --out cache.zarr"
INCOMPLETE = f"{METHODS['wsearch']} --out incomplete.zarr"

_NARROW = "--set width=2 --set projection_dim=8 --set knn_every=0 --no-evaluate"
_SIMCLR = f"train --dataset digits --limit 20 --batch-size 16 --assimilation none {_NARROW}"
_A2 = f"train --dataset digits --cache cache.zarr --batch-size 12 --assimilation A2 {_NARROW}"
NUM_STEPS = 20
# name: command of a training with one step a pass over the images, so that a row of its metrics is a step
CURVES = {
    "simclr": f"{_SIMCLR} --epochs {NUM_STEPS}",
    # 0.1.0 used the views of the one image of the golden cache that did not converge
    "A2": f"{_A2} --epochs {NUM_STEPS} --use-unconverged",
}
FINISHED = f"{CURVES['simclr']} --out runs/finished"
UNFINISHED = f"{_A2} --epochs {NUM_STEPS} --out runs/unfinished"
EVALUATION = "eval runs/finished --probe-epochs 3 --probe-seeds 1 -k 1 --device cpu --json"

_EXPERT = f"train --dataset digits --limit 20 --batch-size 16 --epochs 3 {_NARROW}"
_CACHED = f"train --dataset digits --cache cache.zarr --batch-size 12 --epochs 3 {_NARROW}"
_CODES = f"train --dataset digits --inversions inversions.zarr --models networks --epochs 3 {_NARROW}"
# name: command of a training of three steps, one for each loss and each source of generated views
OBJECTIVES = {
    "infonce": f"{_EXPERT} --assimilation none --set loss=infonce",
    "simsiam": f"{_EXPERT} --assimilation none --set loss=simsiam",
    "A1": f"{_CACHED} --assimilation A1",
    "A2-simclr": f"{_CACHED} --assimilation A2-simclr --set views_per_step=2",
    "A2-full": f"{_CACHED} --assimilation A2-full --set batchnorm=separate",
    "A2-simsiam": f"{_EXPERT} --assimilation A2-simsiam --generated expert",
    "viewmaker": f"{_EXPERT} --assimilation A1 --generated viewmaker",
    "wperturb": f"{_CODES} --assimilation A2 --generated wperturb --batch-size 12 {_OWN_CODES}",
    "online": f"{_CODES} --assimilation A2 --generated online --batch-size 12",
}

_DIGITS = "cache --dataset digits --models networks --executor local --method"
# name: command of a cache that is never made, only known by its identity: defaults first, then other settings
CACHE_IDENTITIES = {
    "wsearch": f"{_DIGITS} wsearch {_OLD}",
    "wsearch of 100 images, seed 3": f"{_DIGITS} wsearch --limit 100 --seed 3 {_OLD}",
    "wsearch by Adam": f"{_DIGITS} wsearch --solver adam --epsilon-boundary 0.2 --uniformity-weight 0.1 "
    f"{_START}",
    "wsearch around the image": f"{_DIGITS} wsearch --anchor image --epsilon-uniformity 0.4 --keep-latents "
    f"{_OLD}",
    "wsearch in bfloat16": f"{_DIGITS} wsearch --precision bfloat16 --max-steps 7 --shard-images 100 {_OLD}",
    "wsearch with the networks that ship": f"cache --dataset digits --executor local --method wsearch {_OLD}",
    "wperturb": f"{_DIGITS} wperturb {_OWN_CODES} {_ADAM}",
    "wperturb, little noise": f"{_DIGITS} wperturb --sigma 0.1 --views 4 --keep-latents {_OWN_CODES} {_ADAM}",
    "expert": f"{_DIGITS} expert",
    "expert of the test split": f"{_DIGITS} expert --split test --views 2",
    "invert": f"{_DIGITS} invert --solver adam --max-steps 12",
    "invert, few steps": f"{_DIGITS} invert --solver adam --max-steps 3",
}
# name: command of a training that is only known by its identity
RUN_IDENTITIES = {
    "none": "train --dataset digits --assimilation none",
    "A2-simsiam of expert views": "train --dataset digits --assimilation A2-simsiam --generated expert",
    "A1 against a Viewmaker": "train --dataset digits --assimilation A1 --generated viewmaker --seed 4",
    "A2": "train --dataset digits --cache cache.zarr --batch-size 16 --use-unconverged",
    "A2, other settings": "train --dataset digits --cache cache.zarr --batch-size 8 --set alpha=0.9 "
    "--set temperature=0.1 --set expert.hue=0.05 --epochs 7 --use-unconverged",
    "A2 of codes": "train --dataset digits --inversions inversions.zarr --models networks --batch-size 16 "
    f"--generated wperturb --set sigma=0.3 {_OWN_CODES}",
}


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """Work in a copy of the golden files in `folder`: one thread, no flushes, no drawing, no gallery."""
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(os, "fsync", lambda descriptor: None)
        # to draw the curves takes longer than these trainings
        patch.setattr("matplotlib.figure.Figure.draw", lambda figure, renderer: None)
        # a local cache takes as many threads as there are cores
        patch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
        for name in ("VIEWGEN_CACHE", "VIEWGEN_DATA"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("VIEWGEN_GALLERY", "0")
        yield folder
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(before)


def run(words: str) -> tuple[int, str, str]:
    """Run a command line, without ``viewgen``, in this process: (exit code, stdout, stderr)."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="viewgen")
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            script.load()(words.split())
        except SystemExit as ending:
            code = int(ending.code or 0)
    return code, out.getvalue(), err.getvalue()


def done(words: str) -> str:
    """Run a command that must succeed, and return its standard output."""
    code, out, err = run(words)
    assert code == 0, f"viewgen {words}\nends with exit code {code}:\n{err}"
    return out


def cache_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Return every array of a cache, read by zarr."""
    import zarr

    folders = sorted(folder for folder in Path(path).iterdir() if (folder / "zarr.json").is_file())
    return {folder.name: np.asarray(zarr.open_array(folder, mode="r")[...]) for folder in folders}


def cache_identity(path: str | Path) -> str:
    """Return the identity under which a cache was made."""
    document = json.loads(Path(path, "zarr.json").read_text(encoding="utf-8"))
    return str(document["attributes"]["viewgen"]["identity"])


def make_views(name: str) -> dict[str, np.ndarray]:
    """Run a method's command in the workplace and return what it stored."""
    done(f"{METHODS[name]} --out {name}.zarr")
    return cache_arrays(f"{name}.zarr")


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """Return what a method stored in 0.1.0."""
    with np.load(GOLDEN / "methods" / f"{name}.npz") as file:
        return dict(file)


def run_training(name: str) -> Path:
    """Run a training of `CURVES` or `OBJECTIVES` in the workplace and return its folder."""
    done(f"{(CURVES | OBJECTIVES)[name]} --out runs/{name}")
    return Path("runs", name)


def losses(folder: Path) -> list[float]:
    """Return the loss of every step of a run."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    return [float(row["loss"]) for row in rows]


def accuracies(document: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracies in what `viewgen eval` prints."""
    knn = {f"{metric} {k}": value for metric, table in document["knn"].items() for k, value in table.items()}
    return {"top1": document["top1"], **knn}


def stored(name: str) -> Any:
    """Return the contents of a JSON file of this folder."""
    return json.loads((PINS / f"{name}.json").read_text(encoding="utf-8"))
