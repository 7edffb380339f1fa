"""Objectives: losses of the views of a step, one file per objective.

To add an objective, see `viewgen_train.objectives.objective`.
"""

from viewgen.registry import Registry
from viewgen_train.objectives.entry import ObjectiveEntry

__all__ = ["OBJECTIVES"]

OBJECTIVES: Registry[ObjectiveEntry] = Registry(
    "objective",
    "viewgen.objectives",
    {
        "simclr": "viewgen_train.objectives.simclr",
        "infonce": "viewgen_train.objectives.infonce",
        "simsiam": "viewgen_train.objectives.simsiam",
        "supcon": "viewgen_train.objectives.supcon",
        "decoupled": "viewgen_train.objectives.decoupled",
        "align-logsumexp": "viewgen_train.objectives.align_logsumexp",
        "align-uniform": "viewgen_train.objectives.align_uniform",
        "linear": "viewgen_train.objectives.linear",
        "barlow-twins": "viewgen_train.objectives.barlow_twins",
        "vicreg": "viewgen_train.objectives.vicreg",
        "moco": "viewgen_train.objectives.moco",
        "byol": "viewgen_train.objectives.byol",
        "nnclr": "viewgen_train.objectives.nnclr",
        "cpc": "viewgen_train.objectives.cpc",
        "sequence": "viewgen_train.objectives.sequence",
        "supervised": "viewgen_train.objectives.supervised",
    },
)
