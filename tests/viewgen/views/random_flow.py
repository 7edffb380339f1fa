"""A flow with random weights, in a file and as settings of its views."""

from pathlib import Path

import torch

from viewgen.networks.files import save_model
from viewgen.networks.flow import Flow, FlowConfig

STATISTICS = {"mean": (0.5, 0.4, 0.3), "deviation": (0.2, 0.1, 0.3)}


def write_flow(folder: Path, *, space: str = "YDbDr", spread: float = 0.2) -> Path:
    """Write a flow to ``flow.safetensors`` in a folder, and return its path."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow = Flow(FlowConfig(image_size=8, space=space, coupling="affine", hidden=4, **STATISTICS))
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=spread)
    path = folder / "flow.safetensors"
    save_model(flow, path)
    return path
