"""How much views share: mutual information, estimated on held-out images with confidence intervals."""

from viewgen.diagnostics.mutual_information.estimate import Bound, MIEstimate, estimate_mutual_information
from viewgen.diagnostics.mutual_information.estimators import ESTIMATORS
from viewgen.diagnostics.mutual_information.pairs import ArrayPairs, Pairs
from viewgen.diagnostics.mutual_information.training import MIConfig

__all__ = [
    "ESTIMATORS",
    "ArrayPairs",
    "Bound",
    "MIConfig",
    "MIEstimate",
    "Pairs",
    "estimate_mutual_information",
]
