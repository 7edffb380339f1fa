"""A map of an encoder's features by t-SNE, coloured by each attribute, with silhouettes as numbers.

The map keeps neighbours together, not distances: its silhouette says how well classes part in the picture,
that of the features how well they part in the space itself.

References:
    Visualizing Data using t-SNE, van der Maaten and Hinton, 2008,
    https://www.jmlr.org/papers/v9/vandermaaten08a.html
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, Figure 4,
    https://arxiv.org/abs/2012.09962
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from viewgen.diagnostics.generated import spread
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.suppression import silhouette
from viewgen.errors import UsageError
from viewgen.extras import need
from viewgen.randomness import addressed_seed
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Tsne", "TsneConfig", "draw_map"]

MOST_NAMED = 20


class TsneConfig(Settings):
    """Sample and neighbourhoods of the map."""

    title = "tsne"

    num_images: int = setting(1000, "test images on the map, evenly spread over the split", ge=10, le=20_000)
    perplexity: float = setting(30.0, "effective number of neighbours of an image", gt=1)


class Tsne:
    """Silhouettes of each attribute in the features and on their map, which ``--plots`` draws.

    Args:
        config: sample and neighbourhoods.
    """

    needs = frozenset({"encoder", "train", "test"})

    def __init__(self, config: TsneConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return ``silhouette`` and ``map_silhouette`` of every class attribute.

        Raises:
            UsageError: the images have no classes, or no more than the perplexity.
            MissingExtraError: scikit-learn is not installed.
        """
        need("readouts")
        from sklearn.manifold import TSNE

        test = subject.test
        if not test.has_classes:
            raise UsageError(f"{test.name} has images without a class, by which a map is coloured")
        rows = spread(len(test), self.config.num_images)
        if len(rows) <= self.config.perplexity:
            raise UsageError(
                f"perplexity is {self.config.perplexity:g} for {len(rows)} images; expected fewer than these"
            )
        features = subject.features[1].embeddings.cpu()[torch.from_numpy(rows)]
        seed32 = addressed_seed(seed, "tsne") % 2**32
        places = TSNE(perplexity=self.config.perplexity, init="pca", random_state=seed32).fit_transform(
            features.numpy()
        )
        on = f"{len(rows):,} {test.split}, perplexity {self.config.perplexity:g}"
        measures, panels = [], []
        for attribute in (one for one in test.attributes if one.kind == "class"):
            labels = test.target(attribute.name)[rows]
            values = {
                "silhouette": silhouette(features, torch.from_numpy(labels)),
                "map_silhouette": silhouette(torch.from_numpy(places), torch.from_numpy(labels)),
            }
            measures += [
                Measure(name=name, value=value, on=on, group=attribute.name) for name, value in values.items()
            ]
            title = f"{attribute.name}, silhouette {values['silhouette']:.2f}"
            panels.append((title, labels, attribute.values))
        subject.keep_file("map.png", lambda: draw_map(places, panels))
        return measures


def draw_map(
    places: NDArray[np.float32], panels: Sequence[tuple[str, NDArray[np.int64], Sequence[str]]]
) -> bytes:
    """Return a PNG of points `(N, 2)` with a panel for each attribute: title, classes `(N,)`, their names."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, labels, names) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        known = np.unique(labels)
        colours = colormaps["tab20" if len(known) > 10 else "tab10"]
        for number, label in enumerate(known):
            chosen = labels == label
            name = names[label] if len(names) > label else str(label)
            colour = colours(number % colours.N)
            axes.scatter(*places[chosen].T, s=5, color=colour, linewidths=0, label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        if len(known) <= MOST_NAMED:
            axes.legend(fontsize=6, markerscale=2, loc="best")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


ENTRY = Entry(
    name="tsne",
    summary="map of the features by t-SNE, coloured by attribute, with silhouettes (--plots draws it)",
    settings=TsneConfig,
    needs=Tsne.needs,
    build=Tsne,
    on_request=True,
)
