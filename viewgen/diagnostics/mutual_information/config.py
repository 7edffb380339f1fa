"""Settings of an estimate of mutual information."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from viewgen.diagnostics import ESTIMATORS
from viewgen.settings import Settings, setting

if TYPE_CHECKING:
    from viewgen.diagnostics.mutual_information.estimator import Estimator
    from viewgen.roles import Role

__all__ = ["MIConfig"]

DEFAULTS = {
    "images": {"learning_rate": 1e-3, "warm_up_share": 0.0},
    "vectors": {"learning_rate": 5e-3, "warm_up_share": 0.5},
}


class MIConfig(Settings):
    """Settings of an estimate of mutual information."""

    title = "mutual information"

    estimator: str = setting("mine", "estimator that the statistics network is trained for")
    num_steps: int = setting(400, "updates of the statistics network", ge=1)
    batch_size: int = setting(128, "images per update; also K of InfoNCE", ge=8)
    learning_rate: float | None = setting(
        None, "Adam's, falling to zero along a cosine; by default 0.001 for images, 0.005 for vectors", gt=0
    )
    held_out_share: float = setting(
        0.3, "share of the images on which the estimate is made, up to max_held_out", gt=0, lt=1
    )
    validation_share: float = setting(0.15, "share of the images that choose the weights to keep", gt=0, lt=1)
    max_held_out: int = setting(4096, "most images on which the estimate is made", ge=1)
    num_draws: int = setting(4, "draws of every held-out image's views", ge=1)
    num_checks: int = setting(10, "times that the validation images are looked at", ge=1)
    num_resamplings: int = setting(500, "resamplings of the bootstrap", ge=40)
    confidence: float = setting(0.95, "confidence of the interval", gt=0, lt=1)
    ema_rate: float = setting(0.01, "weight of the newest batch in MINE's moving average", gt=0, le=1)
    warm_up_share: float | None = setting(
        None,
        "share of MINE's updates that follow the Jensen–Shannon objective first; by default 0 for images, "
        "which learn more in as many updates without, and 0.5 for vectors",
        ge=0,
        lt=1,
    )
    clip: float = setting(5.0, "τ of SMILE, in nats", gt=0)
    width: int = setting(16, "channels of the image trunk's stem", ge=1)
    shared_trunk: bool = setting(
        True,
        "one trunk for both images, or one for each; each has its own where their roles or channels differ",
    )
    critic: Literal["concatenated", "separable"] = setting(
        "concatenated",
        "score of a pair: a network of both features side by side, or the product of unit vectors of either "
        "view divided by critic_temperature, as contrastive training has it",
        since=2,
    )
    critic_temperature: float = setting(0.1, "τ of the separable critic", since=2, gt=0)
    estimator_settings: dict[str, Any] = setting(
        {}, "settings of the estimator that are not among these", since=2
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.held_out_share + self.validation_share >= 1:
            raise ValueError("held_out_share and validation_share leave no images to train on")
        self._estimator_settings(self.estimator)
        return self

    def resolved(self, *, vectors: bool) -> Self:
        """Return these settings with the default values for vectors, or for images, where none is given."""
        defaults = DEFAULTS["vectors" if vectors else "images"]
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return self.replace(**missing)

    def of_roles(self, roles: tuple[Role, ...]) -> Self:
        """Return these settings for views of these roles: different kinds of images have a trunk each."""
        return self.replace(shared_trunk=False) if roles else self

    def ignored(self) -> dict[str, str]:
        """Return the temperature, unless the critic is separable."""
        return {"critic_temperature": "critic is 'concatenated'"} if self.critic == "concatenated" else {}

    @property
    def read_off(self) -> tuple[str, ...]:
        """Estimators whose values are reported: the built-in ones and the trained one."""
        return tuple(dict.fromkeys([*ESTIMATORS.built_in, self.estimator]))

    def build(self, estimator: str) -> Estimator:
        """Return a new estimator with these settings."""
        found: Estimator = ESTIMATORS.entry(estimator).build(
            self._estimator_settings(estimator), batch_size=self.batch_size, num_steps=self.num_steps
        )
        return found

    def _estimator_settings(self, estimator: str) -> Settings:
        kind = ESTIMATORS.entry(estimator).settings
        names = [name for name in kind.model_fields if name in type(self).model_fields]
        shared = {name: value for name in names if (value := getattr(self, name)) is not None}
        own = self.estimator_settings if estimator == self.estimator else {}
        return kind(**(shared | own))
