"""Contracts of storages, view sources, generators, data sets and diagnostics, as pytest classes.

A plug-in's tests subclass the contract of their noun, set the object under test, and run under pytest::

    from viewgen.testing import ViewSourceContract

    class TestSwirl(ViewSourceContract):
        entry = ENTRY

The contract of objectives is `viewgen_train.testing.ObjectiveContract`, that of executors is
`viewgen_pipelines.testing.ExecutorContract`.
"""

from viewgen.testing.datasets import DatasetContract
from viewgen.testing.diagnostics import DiagnosticContract
from viewgen.testing.generators import GeneratorContract
from viewgen.testing.storage import StorageContract
from viewgen.testing.views import LearnedSourceContract, ViewSourceContract

__all__ = [
    "DatasetContract",
    "DiagnosticContract",
    "GeneratorContract",
    "LearnedSourceContract",
    "StorageContract",
    "ViewSourceContract",
]
