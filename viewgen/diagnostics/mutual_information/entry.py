"""Registry entries of estimators."""

from dataclasses import dataclass

from viewgen.registry import Entry

__all__ = ["EstimatorEntry"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimatorEntry(Entry):
    """Registry entry of an estimator of mutual information.

    `build` takes the settings, `batch_size` (K) and `num_steps`, and returns an `Estimator`. A setting that
    `MIConfig` also has takes its value from `MIConfig`.

    Attributes:
        title: name in tables and plots.
    """

    title: str = ""
