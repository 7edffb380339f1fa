"""CPC v2: features of the patches of lower rows are predicted from the rows above.

An image is a grid of R×R patches that overlap by half. The encoder embeds each patch; a masked convolutional
network of the grid sees the rows up to a patch's own and gives its context c. For every offset k, a linear
map predicts the projection of the patch k rows below: for prediction p = 0.1·W_k c and the projections t_j of
all patches of the batch, the loss is −log(exp(p·t₊) / Σ_j exp(p·t_j)), mean over the predictions and the
offsets (the pseudo-code of Hénaff et al. has their sum). Patches one row apart share half of their pixels, so
that the smallest offset is 2.

The version for small images differs from Hénaff et al.: one direction (from above) instead of four, one
expert transform of the whole image instead of one of each patch, and a residual network of the usual width.

An assimilation adds views of an image, and CPC has one view: neither A1 nor A2 is defined.

Shape legend: N images, R patches per side, P = R², F feature dimension, D projection dimension.

References:
    Data-Efficient Image Recognition with Contrastive Predictive Coding, Hénaff et al., 2020, section 2 and
    appendix A.2, https://arxiv.org/abs/1905.09272
    Representation Learning with Contrastive Predictive Coding, van den Oord et al., 2018,
    https://arxiv.org/abs/1807.03748
"""

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from viewgen.settings import Settings, setting
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, Widths

__all__ = ["CPC", "ENTRY", "CPCSettings", "Context", "cpc"]

# scale of the predictions (emb_scale of the pseudo-code)
PREDICTION_SCALE = 0.1


class CPCSettings(Settings):
    """Settings of CPC v2 for small images."""

    title = "cpc"

    patches: int = setting(7, "R, patches per side, which overlap by half", ge=2, le=64)
    first_offset: int = setting(2, "smallest number of rows between context and prediction", ge=1)
    last_offset: int = setting(4, "largest number of rows between context and prediction", ge=1)
    context_width: int = setting(256, "channels of the context network", ge=1)
    context_blocks: int = setting(5, "residual blocks of the context network", ge=1)

    @model_validator(mode="after")
    def _offsets_fit(self) -> Self:
        if not self.first_offset <= self.last_offset < self.patches:
            raise ValueError(
                f"offsets are {self.first_offset} to {self.last_offset} rows of {self.patches}; expected "
                "first_offset ≤ last_offset < patches"
            )
        return self


class ContextBlock(nn.Module):
    """Residual block of masked convolutions: each position sees its row and the one above.

    Args:
        dim: channels of the grid.
        width: channels between the convolutions.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(dim, width, 1)
        self.across = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.down = nn.Conv2d(width, width, (2, 1))
        self.expand = nn.Conv2d(width, dim, 1)

    def forward(self, grid: Tensor) -> Tensor:
        """Map `(N, F, R, R)` to the same shape."""
        across = self.across(F.relu(self.reduce(grid)))
        down = self.down(F.pad(across, (0, 0, 1, 0)))
        return grid + self.expand(F.relu(down))  # type: ignore[no-any-return]


class Context(nn.Module):
    """Context network: the context of a patch is a function of the rows up to its own.

    Args:
        dim: F.
        width: channels between the convolutions.
        num_blocks: number of residual blocks.
    """

    def __init__(self, dim: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[ContextBlock(dim, width) for _ in range(num_blocks)])

    def forward(self, patches: Tensor) -> Tensor:
        """Map features of patches, `(N, R, R, F)`, to contexts, `(N, R, R, F)`."""
        return F.relu(self.blocks(patches.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def cpc(predictions: Tensor, targets: Tensor, offset: int) -> Tensor:
    """Return CPC's loss of one offset.

    Args:
        predictions: predictions of the patches `offset` rows below, `(N, R, R, D)`; those of the last rows,
            which have none below, are not used.
        targets: projections of all patches, `(N, R, R, D)`, which are each other's negatives.
        offset: k.

    Returns:
        mean over the N·(R − k)·R predictions, `()`.
    """
    made = predictions[:, : predictions.shape[1] - offset].flatten(0, 2)
    index = torch.arange(targets[..., 0].numel(), device=targets.device).view(targets.shape[:3])
    logits = PREDICTION_SCALE * made @ targets.flatten(0, 2).T
    return F.cross_entropy(logits, index[:, offset:].flatten())


class CPC(nn.Module):
    """CPC v2 of one view.

    Args:
        settings: settings of CPC.
    """

    num_expert, num_generated = 0, 1

    def __init__(self, settings: CPCSettings) -> None:
        super().__init__()
        self.settings = settings
        self.head = Head(projector="linear", unit=False, patches=settings.patches, norm="layer")
        self.context = nn.Module()
        self.predictors = nn.ModuleList()

    @property
    def offsets(self) -> range:
        """Numbers of rows between contexts and predictions."""
        return range(self.settings.first_offset, self.settings.last_offset + 1)

    def allocate(self, widths: Widths) -> None:
        """Create the context network and the linear maps of the predictions."""
        settings = self.settings
        self.context = Context(widths.features, settings.context_width, settings.context_blocks)
        self.predictors = nn.ModuleList(
            [nn.Linear(widths.features, widths.projections) for _ in self.offsets]
        )

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the view, mean over the offsets."""
        assert out.patches is not None
        assert out.patch_projections is not None
        side = (self.settings.patches, self.settings.patches)
        context = self.context(out.patches[0].unflatten(1, side))
        targets = out.patch_projections[0].unflatten(1, side)
        losses = [
            cpc(predictor(context), targets, offset)
            for predictor, offset in zip(self.predictors, self.offsets, strict=True)
        ]
        return {"loss": torch.stack(losses).mean()}

    def after_step(self, out: Outputs) -> None:
        """Do nothing: the networks are trained by gradients."""


ENTRY = ObjectiveEntry(
    name="cpc",
    summary="CPC v2: patches predicted from the rows above",
    settings=CPCSettings,
    build=CPC,
    needs=frozenset({"patches"}),
    bears=frozenset(),
    reasons={
        **dict.fromkeys(
            ("A1", "A2"), "it contrasts the patches of one view of an image, and an assimilation adds views"
        ),
        **dict.fromkeys(
            ("IFM", "hard negatives"),
            "it compares vectors of any length, for which neither a perturbation of size ε nor a least "
            "similarity is defined",
        ),
    },
)
