"""Settings of the refined inversion."""

from __future__ import annotations

from typing import Literal

from viewgen.settings import Settings, setting

__all__ = ["InvertConfig"]


class InvertConfig(Settings):
    """Settings of the refinement of codes."""

    title = "invert"

    learning_rate: float = setting(0.01, "learning rate of Adam", gt=0)
    max_steps: int = setting(
        50,
        "updates after which an image keeps the best code so far",
        ge=0,
        flag=True,
    )
    perceptual: Literal["lpips", "discriminator", "none"] = setting(
        "discriminator",
        "perceptual term: LPIPS, the like of it on the activations of the generator's discriminator, or none",
    )
    perceptual_weight: float = setting(0.2, "λ_p, relative to the mean squared pixel error", ge=0)
    domain_weight: float = setting(2.0, "λ_d, weight of the code's distance from that of its image", ge=0)
    patience: int = setting(20, "updates within which the loss must fall by 1 % to go on", ge=1)
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "precision of the networks while they refine; what is stored is float32's", flag=True
    )
    solver: Literal["lbfgs", "adam"] = setting(
        "lbfgs",
        "lbfgs: L-BFGS from the mean curvature; adam: that of 0.1.0, which needs four times the max_steps",
        since=2,
        absent="adam",
        flag=True,
    )

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect, with the reason."""
        found = {}
        if self.perceptual == "none":
            found["perceptual_weight"] = "perceptual is 'none'"
        if self.solver != "adam":
            found["learning_rate"] = "only the solver adam reads it"
        return found
