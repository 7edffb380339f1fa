"""Mutual information of views, estimated on held-out images with confidence intervals."""

from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimate import Bound, MIEstimate, estimate_mutual_information
from viewgen.diagnostics.mutual_information.pairs import ArrayPairs, Pairs

__all__ = ["ArrayPairs", "Bound", "MIConfig", "MIEstimate", "Pairs", "estimate_mutual_information"]
