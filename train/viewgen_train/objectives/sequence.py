"""Sequence: InfoNCE between the frames of a clip, read by an LSTM, and an image.

The features of frames 1 … T go through one layer of an LSTM, whose last output is projected linearly, as
the features of the last view, the image, are. Both are unit vectors; the image's is that of the encoder's
projector.

References:
    What Makes for Good Views for Contrastive Learning?, Tian, Sun, Poole, Krishnan, Schmid and Isola, 2020,
    appendix B.4, https://arxiv.org/abs/2005.10243

Shape legend: T frames, N images, F feature dimension, D projection dimension.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.settings import Settings, setting
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.infonce import info_nce
from viewgen_train.objectives.objective import Head, Outputs, Widths

__all__ = ["ENTRY", "Sequence", "SequenceSettings"]


class SequenceSettings(Settings):
    """Settings of the sequence loss."""

    title = "sequence"

    temperature: float = setting(0.1, "τ", gt=0)
    num_frames: int = setting(10, "T, frames of a clip, the views before the image", ge=1)
    hidden: int = setting(64, "width of the LSTM", ge=1)


class Sequence(nn.Module):
    """InfoNCE of a clip and an image.

    Args:
        settings: settings of the sequence loss.
    """

    num_expert = 0

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        self.settings, self.temperature = settings, settings.temperature
        self.num_generated = settings.num_frames + 1
        self.head = Head(projector="linear")
        self.lstm = nn.LSTM(1, settings.hidden)
        self.projector = nn.Linear(settings.hidden, 1)

    def allocate(self, widths: Widths) -> None:
        """Create the LSTM and its projection."""
        self.lstm = nn.LSTM(widths.features, self.settings.hidden)
        self.projector = nn.Linear(self.settings.hidden, widths.projections)

    def clip(self, features: Tensor) -> Tensor:
        """Map features of frames `(T, N, F)` to unit vectors `(N, D)`."""
        outputs, _ = self.lstm(features)
        return F.normalize(self.projector(outputs[-1]), dim=1)

    def num_candidates(self, num_images: int) -> int:
        """Return N."""
        return num_images

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss, mean over both directions."""
        assert out.features is not None
        return {"loss": info_nce(self.clip(out.features[:-1]), out.z[-1], self.temperature)}

    def after_step(self, out: Outputs) -> None:
        """Do nothing: the networks are trained by gradients."""


ENTRY = ObjectiveEntry(
    name="sequence",
    summary="InfoNCE of a clip, read by an LSTM, and an image (moving digits)",
    settings=SequenceSettings,
    build=Sequence,
    needs=frozenset({"features"}),
    bears=frozenset(),
    reasons={
        **dict.fromkeys(("A1", "A2"), "it contrasts a clip with an image, and an assimilation adds views"),
        **dict.fromkeys(
            ("IFM", "hard negatives"), "the vector of a clip is no projection of a view, which these act on"
        ),
    },
)
