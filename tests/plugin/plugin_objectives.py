"""Margin: two views of an image are to be nearer than those of its neighbour in the batch."""

from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Outputs, PairObjective


class MarginSettings(Settings):
    """The margin."""

    title = "margin"

    margin: float = setting(0.5, "similarity by which a positive exceeds the mean negative", gt=0, le=2)


class Margin(PairObjective):
    """Hinge of similarities."""

    def __init__(self, settings: MarginSettings) -> None:
        self.margin = settings.margin

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the mean hinge."""
        similarity = out.z[0] @ out.z[1].T
        positive = similarity.diagonal()
        negative = (similarity.sum(dim=1) - positive) / (len(positive) - 1)
        return {"loss": (self.margin - positive + negative).clamp_min(0).mean()}


ENTRY = ObjectiveEntry(
    name="margin", summary="hinge of similarities", settings=MarginSettings, build=Margin, weighted=True
)
