"""Settings of W-search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from viewgen.settings import Settings, setting

__all__ = ["PSI", "WSearchConfig", "truncation_setting"]

# ψ of the truncated codes in which the authors' noise, rates and σ are given.
PSI = 0.7


def truncation_setting(what: str) -> float:
    """Return the setting ψ of a method whose lengths, `what`, are in truncated codes."""
    # caches of 0.1.0 have lengths in untruncated codes, which is ψ = 1
    told = (
        f"ψ, truncation in whose codes {what} counts: a length s there is ψ·s in the generator's own codes "
        f"(the published numbers are for ψ {PSI})"
    )
    found: float = setting(PSI, told, since=2, absent=1.0, gt=0, le=1)
    return found


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
        "noise",
        "first codes: the anchor's code with a little noise, or, as 0.1.0 did by default, random directions "
        "followed to ε₁ (a method of its own: wboundary)",
    )
    solver: Literal["newton", "adam", "boundary"] = setting(
        "newton",
        "newton: Gauss-Newton steps on eq. 2, forward passes only; adam: gradient steps on eq. 2, as the "
        "authors; boundary: the steps of 0.1.0, which read of λ only whether it is 0",
        flag=True,
    )
    start_passes: int = setting(
        12, "evaluations that look for a view's place on the boundary, for start = boundary", ge=1
    )
    init_noise: float = setting(
        0.005, "standard deviation of the noise start; a view at distance 0 has no gradient", gt=0
    )
    learning_rate: float = setting(0.01, "learning rate of Adam", gt=0)
    decay_steps: float = setting(
        20.0, "updates t after which Adam's rate is divided by 1 + t / decay_steps", gt=0
    )
    max_steps: int = setting(
        1000,
        "updates of an image by this method, after which it counts as not converged; those of the inversion "
        "before it are --set invert.max_steps=N",
        ge=1,
        flag=True,
    )
    tolerance: float = setting(0.03, "distance from ε₁ that a view of a converged image may have", gt=0, le=2)
    spread_share: float = setting(0.85, "share of the feasible spread that ends the search", ge=0, le=1)
    patience: int = setting(5, "updates within which the spread must grow by 1 % to go on", ge=1)
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "precision of the networks while they search; what is stored is float32's", flag=True
    )
    truncation: float = truncation_setting("the initial noise, Adam's rate, the radius and the least step")
    stop_loss: float | None = setting(
        None,
        "value of eq. 2 at which an image's search ends, 0.001 as the authors' (theirs is the mean of a "
        "batch); none: at ε₁ within the tolerance, and spread",
        since=2,
        gt=0,
    )

    radius: float | None = setting(
        None,
        "largest change of a view's code, root mean square of its elements; a view that does not reach ε₁ "
        "within it tries other directions. none: no limit",
        since=2,
        gt=0,
    )
    least_step: float = setting(
        0.0, "smallest change of a view's code, root mean square of its elements", since=2, ge=0
    )
    encoders: tuple[str, ...] = setting(
        (),
        "weights files of further encoders, separated by commas, whose distances count as much as f's",
        since=2,
    )
    combine: Literal["mean", "max"] = setting(
        "mean", "a distance under several encoders: the mean of each one's, or the largest", since=2
    )
    crops: int = setting(
        0,
        "random crops, the same of every image, over which an encoder's features are averaged; 0: none, the "
        "whole image is looked at",
        since=2,
        ge=0,
    )
    crop_area: float = setting(0.5, "smallest share of the image that a crop keeps", since=2, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _separated(cls, values: Any) -> Any:
        """Split names of encoders that are separated by commas, as a command line gives them."""
        if isinstance(values, Mapping) and isinstance(names := values.get("encoders"), str):
            return {**values, "encoders": tuple(name.strip() for name in names.split(",") if name.strip())}
        return values

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.radius is not None and self.least_step >= self.radius:
            raise ValueError(f"least_step is {self.least_step} and radius {self.radius}; expected less")
        return self

    @property
    def boundary_distance(self) -> float:
        """ε₁ as a number; `settle` has replaced ``"auto"``."""
        assert not isinstance(self.epsilon_boundary, str), "auto stands for a number that is measured first"
        return self.epsilon_boundary

    def ignored(self) -> dict[str, str]:
        """Return the settings that the chosen solver, start or stopping rule does not read."""
        found: dict[str, str] = {}
        if self.solver != "adam":
            found |= dict.fromkeys(("learning_rate", "decay_steps"), "only the solver adam reads it")
        if self.start != "boundary":
            found["start_passes"] = "only the start boundary reads it"
        else:
            found["init_noise"] = "the start boundary adds no noise"
        if self.stop_loss is not None:
            unused = "stop_loss ends the search"
            found |= dict.fromkeys(("tolerance", "spread_share", "patience"), unused)
        if self.uniformity_weight == 0:
            found |= dict.fromkeys(("epsilon_uniformity", "spread_share"), "λ is 0, so nothing pushes apart")
        if not self.encoders:
            found["combine"] = "there is one encoder"
        if not self.crops:
            found["crop_area"] = "crops is 0"
        if self.start == "boundary":
            found["radius"] = "the start boundary follows its directions as far as ε₁ takes"
            found["least_step"] = found["radius"]
        if self.solver == "boundary":
            found["stop_loss"] = "the steps of 0.1.0 do not approach the minimum of eq. 2"
            cures = ("radius", "least_step", "encoders", "combine", "crops", "crop_area")
            found |= dict.fromkeys(cures, "the steps of 0.1.0 stay as they were")
        return found
