"""A Viewmaker with random weights, in a file."""

from pathlib import Path

import torch

from viewgen.networks.files import save_model
from viewgen.networks.viewmaker import Viewmaker, ViewmakerConfig


def write_viewmaker(folder: Path, *, width: int = 4) -> Path:
    """Write a Viewmaker to ``viewmaker.safetensors`` in a folder, and return its path."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        viewmaker = Viewmaker(ViewmakerConfig(width=width))
    path = folder / "viewmaker.safetensors"
    save_model(viewmaker, path)
    return path
