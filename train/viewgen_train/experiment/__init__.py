"""Experiments: grids of caches, trainings, diagnostics and seeds as one file, and their tables.

It stands above trainings, which it runs, and above caches, which it makes; an encoder for the distances of a
cache is a training too. The shipped experiments are the TOML files in ``presets/``.
"""

from viewgen_train.experiment.document import presets
from viewgen_train.experiment.run import ExperimentResult, experiment

__all__ = ["ExperimentResult", "experiment", "presets"]
