"""viewgen: views for contrastive learning, made, kept, trained on and measured."""

from importlib import import_module
from typing import Any

__all__ = [
    "ResumableBatchSampler",
    "ViewDataset",
    "ViewStream",
    "__version__",
    "cache",
    "calibrate",
    "evaluate",
    "experiment",
    "inspect",
    "load_dataset",
    "measure",
    "mi",
    "open",
    "prepare",
    "pull",
    "push",
    "train",
]

__version__: str

# The front door: name → module, imported when it is asked for, since torch takes seconds.
_FRONT_DOOR = {
    "ResumableBatchSampler": "viewgen.view_sampler",
    "ViewDataset": "viewgen.view_dataset",
    "ViewStream": "viewgen.view_stream",
    "cache": "viewgen_pipelines.cache",
    "calibrate": "viewgen.diagnostics.calibration",
    "evaluate": "viewgen_train.evaluate",
    "experiment": "viewgen_train.experiment",
    "inspect": "viewgen_pipelines.inspecting",
    "load_dataset": "viewgen.datasets",
    "measure": "viewgen_pipelines.measure",
    "mi": "viewgen_pipelines.mutual_information",
    "open": "viewgen.opening",
    "prepare": "viewgen_pretrained.prepare",
    "pull": "viewgen.sharing.command",
    "push": "viewgen.sharing.command",
    "train": "viewgen_train.training",
}


def __getattr__(name: str) -> Any:
    """Return a function or class of the front door, or the version."""
    if name == "__version__":
        # its module takes as long as all else that `viewgen --help` needs
        from importlib.metadata import version

        return version("viewgen")
    if name not in _FRONT_DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FRONT_DOOR[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
