"""Diagnostics: measurements of encoders, generators and views, one file each.

To add one, write a class with the protocol `viewgen.diagnostics.measure.Diagnostic` and an `Entry` whose
`needs` are the parts of a `Subject` that it uses. An installed package registers the entry in the entry-point
group ``viewgen.diagnostics``, or ``viewgen.estimators`` for estimators of mutual information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewgen.registry import Entry, Registry

if TYPE_CHECKING:
    from viewgen.diagnostics.mutual_information.entry import EstimatorEntry

__all__ = ["DIAGNOSTICS", "ESTIMATORS"]

DIAGNOSTICS: Registry[Entry] = Registry(
    "diagnostic",
    "viewgen.diagnostics",
    {
        "knn": "viewgen.diagnostics.knn",
        "weighted_knn": "viewgen.diagnostics.weighted_knn",
        "nearest_centre": "viewgen.diagnostics.nearest_centre",
        "probe": "viewgen.diagnostics.probe",
        "collapse": "viewgen.diagnostics.collapse",
        "calibration": "viewgen.diagnostics.calibration",
        "alignment": "viewgen.diagnostics.alignment",
        "mutual_information": "viewgen.diagnostics.mutual_information.diagnostic",
        "fidelity": "viewgen.diagnostics.fidelity",
        "reconstruction": "viewgen.diagnostics.reconstruction",
        "recognition": "viewgen.diagnostics.recognition",
        "label_kept": "viewgen.diagnostics.label_kept",
        "distinct": "viewgen.diagnostics.distinct",
        "diversity": "viewgen.diagnostics.diversity",
        "realism": "viewgen.diagnostics.realism",
        "reach": "viewgen.diagnostics.reach",
        "seen": "viewgen.diagnostics.seen",
        "concentration": "viewgen.diagnostics.concentration.diagnostic",
        "bounds": "viewgen.diagnostics.bounds.diagnostic",
        "suppression": "viewgen.diagnostics.suppression",
        "shortcuts": "viewgen.diagnostics.shortcuts.diagnostic",
        "finetune": "viewgen.diagnostics.finetune",
        "tsne": "viewgen.diagnostics.tsne",
        "outcomes": "viewgen.diagnostics.outcomes",
        "pose": "viewgen.diagnostics.pose",
        "robust_sets": "viewgen.diagnostics.robust_sets",
        "ifm_neighbours": "viewgen.diagnostics.ifm_neighbours",
    },
)

ESTIMATORS: Registry[EstimatorEntry] = Registry(
    "estimator",
    "viewgen.estimators",
    {name: f"viewgen.diagnostics.mutual_information.{name}" for name in ("mine", "infonce", "nwj", "smile")},
)
