"""W-perturb: views from Gaussian noise on the code, g(e(x) + σ·N(0, I)) (§3.2 of the paper)."""

import math
from dataclasses import dataclass

from viewgen.errors import UsageError

__all__ = ["WPerturbConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WPerturbConfig:
    """Settings of W-perturb.

    Attributes:
        sigma: standard deviation of the noise, independent per layer and element (best 0.2, Tables 7 and 8).
    """

    sigma: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise UsageError(f"sigma is {self.sigma}; a standard deviation is a number of at least 0")
