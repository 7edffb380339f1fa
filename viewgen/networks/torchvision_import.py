"""The one place that imports torchvision.

PyPI's torchvision wheels register operators that only a CUDA torch provides; beside a CPU torch the import
stops with "operator torchvision::nms does not exist". Declaring the schemas first lets the parts that need
no compiled operator (models, transforms) work.
"""

import importlib
from types import ModuleType

import torch

__all__ = ["import_torchvision", "plain_import_fails"]

_declared: torch.library.Library | None = None


def plain_import_fails() -> bool:
    """Return True if torchvision could be imported in this process only with its schemas declared first."""
    return _declared is not None


def import_torchvision(submodule: str = "") -> ModuleType:
    """Import ``torchvision`` or a submodule (``"models"``, ``"transforms.v2"``) beside any torch build."""
    global _declared
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    if torch.version.cuda is None and torch.version.hip is None and _declared is None:
        try:
            return importlib.import_module(name)
        except (RuntimeError, AttributeError, ImportError):
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _declared = library
    return importlib.import_module(name)
