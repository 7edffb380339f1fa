"""viewgen: views for contrastive learning, made, kept, trained on and measured."""

from importlib import import_module
from typing import Any

__all__ = [
    "ResumableBatchSampler",
    "ViewDataset",
    "ViewStream",
    "__version__",
    "cache",
    "evaluate",
    "inspect",
    "measure",
    "mi",
    "open",
    "train",
]

__version__: str

# The front door: name → module, imported when it is asked for, since torch takes seconds.
_FRONT_DOOR = {
    "ResumableBatchSampler": "viewgen.view_sampler",
    "ViewDataset": "viewgen.view_dataset",
    "ViewStream": "viewgen.view_stream",
    "cache": "viewgen_pipelines.cache",
    "evaluate": "viewgen_train.evaluate",
    "inspect": "viewgen_pipelines.inspecting",
    "measure": "viewgen_pipelines.measure",
    "mi": "viewgen_pipelines.mutual_information",
    "open": "viewgen.opening",
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
