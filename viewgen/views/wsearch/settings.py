"""Settings of W-search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from viewgen.settings import Settings, setting

__all__ = ["WSearchConfig"]


class WSearchConfig(Settings):
    """Settings of W-search; distances are between unit vectors, in [0, 2]."""

    title = "wsearch"

    epsilon_boundary: Annotated[float, Field(gt=0, le=2)] | Literal["auto"] = setting(
        0.3, "ε₁, distance of a view from its anchor; auto measures it on expert views", flag=True
    )
    epsilon_uniformity: float = setting(
        0.5, "ε₂, mean distance between an image's views at which the push ends", ge=0, le=2, flag=True
    )
    uniformity_weight: float = setting(0.01, "λ, weight of the push apart", ge=0, flag=True)
    boundary: Literal["squared", "hinge"] = setting(
        "squared", "δ: squared is (d − ε₁)², hinge is max(0, ε₁ − d)"
    )
    anchor: Literal["reconstruction", "image"] = setting(
        "reconstruction", "x₀, what ε₁ counts from: the reconstruction g(e(x)) or the image itself", flag=True
    )
    start: Literal["boundary", "noise"] = setting(
        "boundary", "first codes: random directions followed to ε₁, or the anchor's code with a little noise"
    )
    solver: Literal["adam", "boundary"] = setting(
        "boundary",
        "adam: on eq. 2; boundary: Newton steps to ε₁ and along it, which read of ε₂ and λ only where the "
        "push ends and whether there is one",
        flag=True,
    )
    start_passes: int = setting(12, "evaluations that look for a view's place on the boundary", ge=1)
    init_noise: float = setting(
        0.005, "standard deviation of the noise start; a view at distance 0 has no gradient", gt=0
    )
    learning_rate: float = setting(0.01, "learning rate of Adam", gt=0)
    decay_steps: float = setting(
        20.0, "updates t after which Adam's rate is divided by 1 + t / decay_steps", gt=0
    )
    max_steps: int = setting(
        1000, "updates of an image, after which it counts as not converged", ge=1, flag=True
    )
    tolerance: float = setting(0.03, "distance from ε₁ that a view of a converged image may have", gt=0, le=2)
    spread_share: float = setting(0.75, "share of the feasible spread that ends the search", ge=0, le=1)
    patience: int = setting(5, "updates within which the spread must grow by 1 % to go on", ge=1)
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "precision of the networks while they search; what is stored is float32's", flag=True
    )

    @property
    def boundary_distance(self) -> float:
        """ε₁ as a number; `settle` has replaced ``"auto"``."""
        assert not isinstance(self.epsilon_boundary, str), "auto stands for a number that is measured first"
        return self.epsilon_boundary
