"""How the cost of W-search grows with images, views, updates and resolution: fitted lines and their picture.

Small networks with random weights search views that never satisfy their stopping rule, so that every image
takes the same number of updates. One quantity varies, the others keep their place. Time against images, views
and updates is fitted by a + b·x; time against resolution by a·xᵇ, a straight line between logarithms. Every
round measures every point once; a point is its fastest round, since what disturbs can only add.

    python benchmarks/growth.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from measure import interleave, peak_bytes, write_result
from search_runs import search_problem

from viewgen.memory import keep_freed_memory
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.stylegan2 import Generator, GeneratorConfig
from viewgen.views.wsearch.problem import search_views
from viewgen.views.wsearch.settings import WSearchConfig

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "growth.png"
WIDTH = 32
AT_ONCE = 4
USUAL = {"images": 8, "views": 4, "updates": 4, "resolution": 32}
POINTS = {
    "images": (4, 8, 16, 32),
    "views": (2, 4, 8, 16),
    "updates": (2, 4, 8, 16),
    "resolution": (16, 32, 64, 128),
}
AXES = {
    "images": "images",
    "views": "views per image",
    "updates": "updates per image",
    "resolution": "resolution, pixels",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A least-squares fit.

    Attributes:
        kind: ``"line"`` for y = a + b·x, ``"power"`` for y = a·xᵇ.
        a, b: coefficients.
        r_squared: share of the variance that it explains; of the logarithms for a power.
    """

    kind: str
    a: float
    b: float
    r_squared: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.a + self.b * x if self.kind == "line" else self.a * x**self.b


def fit(x: Sequence[float], y: Sequence[float], kind: str) -> Fit:
    """Fit at least two points."""
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if kind == "power":
        across, up = np.log(across), np.log(up)
    slope, intercept = np.polyfit(across, up, 1)
    rest = float(((up - intercept - slope * across) ** 2).sum())
    total = float(((up - up.mean()) ** 2).sum())
    first = float(np.exp(intercept)) if kind == "power" else float(intercept)
    return Fit(kind=kind, a=first, b=float(slope), r_squared=1 - rest / total if total else 1.0)


def describe(name: str, found: Fit) -> str:
    """Return the fit as a sentence's part."""
    unit = name.removesuffix("s")
    if found.kind == "power":
        text = f"time ∝ {name}^{found.b:.2f}"
    else:
        text = f"{found.a:.2f} s + {1000 * found.b:.0f} ms per {unit}"
    return f"{text} (R² {found.r_squared:.3f})"


def build_search(name: str, value: int) -> Callable[[], object]:
    """Return a search with one quantity changed."""
    size = USUAL | {name: value}
    resolution = size["resolution"]
    torch.manual_seed(0)
    channels = (WIDTH,) * (resolution.bit_length() - 2)
    generator = Generator(GeneratorConfig(image_size=resolution, channels=channels, num_mapping_layers=1))
    encoder = Encoder(EncoderConfig(image_size=resolution, width=8))
    generator.eval().requires_grad_(False)
    encoder.eval().requires_grad_(False)
    anchors = generator.broadcast(generator.mapping(torch.randn(size["images"], 512))).contiguous()
    with torch.no_grad():
        features = encoder(generator.synthesis(anchors).clamp(-1, 1))
    config = WSearchConfig(solver="adam", start="noise", tolerance=1e-9, max_steps=size["updates"])

    def run() -> None:
        problem = search_problem(generator, encoder, anchors, features, config, size["views"])
        result = search_views(problem, AT_ONCE, AT_ONCE)
        assert int(result.steps.min()) == size["updates"]

    return run


def draw(series: Mapping[str, tuple[Sequence[int], Sequence[float], Fit]], path: Path) -> None:
    """Draw points and fitted lines, one panel for each quantity, four at most."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(7.2, 5.4), layout="constrained")
    for panel, (name, (x, y, found)) in zip(panels.flat, series.items(), strict=False):
        along = np.geomspace(x[0], x[-1], 50) if found.kind == "power" else np.linspace(0, x[-1], 50)
        panel.plot(along, found(along), color="0.55", linewidth=1.2, zorder=1)
        panel.scatter(x, y, color="tab:blue", s=24, zorder=2)
        if found.kind == "power":
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
        else:
            panel.set_xlim(0, 1.05 * x[-1])
            panel.set_ylim(0, 1.08 * max(y))
        panel.set_xticks(x, [str(value) for value in x])
        panel.minorticks_off()
        panel.set_xlabel(AXES[name])
        panel.set_ylabel("seconds")
        panel.set_title(describe(name, found), fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@click.command()
@click.option("--rounds", default=2, show_default=True)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure memory too.")
@click.option("--figure", default=FIGURE, type=click.Path(path_type=Path), help="Picture to write.")
def main(rounds: int, memory: bool, figure: Path) -> None:
    """Measure, print the fits, write results/growth.json and the picture."""
    keep_freed_memory()
    points = [(name, value) for name, values in POINTS.items() for value in values]
    seconds = interleave({f"{name} {value}": build_search(name, value) for name, value in points}, rounds)
    series = {}
    document = {}
    for name, values in POINTS.items():
        fastest = [min(seconds[f"{name} {value}"]) for value in values]
        found = fit(values, fastest, "power" if name == "resolution" else "line")
        series[name] = (values, fastest, found)
        peaks = [peak_bytes(build_search, name, value) for value in values] if memory else []
        document[name] = {
            "x": list(values),
            "seconds": fastest,
            "peak_bytes": peaks,
            "kind": found.kind,
            "a": found.a,
            "b": found.b,
            "r_squared": found.r_squared,
            "text": describe(name, found),
        }
        click.echo(f"{AXES[name]:22} {describe(name, found)}")
    draw(series, figure)
    write_result("growth", {"usual": USUAL, "growth": document}, ("torch", "matplotlib"))


if __name__ == "__main__":
    main()
