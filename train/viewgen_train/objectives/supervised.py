"""Cross-entropy of the images' classes: the reference for what a readout of features could reach.

Each class attribute has a linear classifier on the backbone's features, and the loss is the sum over the
attributes. A readout of the others tells what a network keeps of an attribute that it was not asked for.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.errors import UsageError, nearest_name
from viewgen.settings import Settings, setting
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, Widths

__all__ = ["ENTRY", "Supervised", "SupervisedSettings"]


class SupervisedSettings(Settings):
    """Attributes to learn."""

    title = "supervised"

    attribute: str | None = setting(None, "attribute that is learned; by default all, with equal weights")


class Supervised(nn.Module):
    """Cross-entropy of linear classifiers on the features of one view.

    Args:
        settings: attributes to learn.
    """

    num_expert, num_generated = 0, 1
    head = Head()

    def __init__(self, settings: SupervisedSettings) -> None:
        super().__init__()
        self.settings = settings
        self.columns: tuple[int, ...] = ()
        self.classifiers = nn.ModuleList()

    def allocate(self, widths: Widths) -> None:
        """Create the classifiers.

        Raises:
            UsageError: the data set has no classes, or no such attribute.
        """
        names, chosen = tuple(widths.classes), self.settings.attribute
        if not names:
            raise UsageError("the images have no classes, which objective 'supervised' learns")
        if chosen is not None and chosen not in names:
            raise UsageError(
                f"attribute is {chosen!r}{nearest_name(chosen, names)}; the images have {', '.join(names)}"
            )
        self.columns = tuple(index for index, name in enumerate(names) if chosen in (None, name))
        self.classifiers = nn.ModuleList(
            [nn.Linear(widths.features, widths.classes[names[column]]) for column in self.columns]
        )

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the sum of the cross-entropies, and the share of images whose attributes are all right."""
        assert out.features is not None
        assert out.labels is not None
        features, right = out.features[0], torch.ones_like(out.labels[:, 0], dtype=torch.bool)
        # data-parallel processes need a gradient of every weight
        loss = 0.0 * out.z.sum()
        for column, classifier in zip(self.columns, self.classifiers, strict=True):
            logits, labels = classifier(features), out.labels[:, column]
            loss = loss + F.cross_entropy(logits, labels)
            right &= logits.argmax(dim=1) == labels
        return {"loss": loss, "training_top1": right.float().mean()}

    def after_step(self, out: Outputs) -> None:
        """Do nothing: the classifiers are trained by gradients."""


ENTRY = ObjectiveEntry(
    name="supervised",
    summary="cross-entropy of the images' classes, a reference for readouts",
    settings=SupervisedSettings,
    build=Supervised,
    needs=frozenset({"features", "labels"}),
    bears=frozenset(),
    reasons={
        **dict.fromkeys(("A1", "A2"), "it learns classes from one view, and has no pairs"),
        **dict.fromkeys(("IFM", "hard negatives"), "it has no negatives"),
    },
)
