"""Bars of the bounds: the summands of ρ_max against what is allowed, and bounds against errors."""

import io
from collections.abc import Mapping

__all__ = ["COMPARED_TERMS", "draw_compared_terms", "draw_terms"]

SUMMANDS = {
    "rho: 2(1 − σ)": "#0072b2",
    "rho: R/min p": "#d55e00",
    "rho: σLδ/r": "#009e73",
    "rho: 2σε/r": "#cc79a7",
}
# bounds beside the number that they bound
COMPARED = (
    ("error", ("error_train", "error_test", "lemma1_bound", "lemma1_sharper", "theorem2_bound")),
    ("R_ε", ("loose_share", "theorem1_bound", "theorem1_sharper")),
    ("largest μ·μ", ("divergence_largest", "theorem2_threshold", "theorem3_bound", "theorem3_sharper")),
    ("standardised", ("correlation_alignment", "lemma2_bound", "correlation_divergence", "theorem4_bound",
                      "theorem4_sharper")),
)  # fmt: skip
# label → measure and marker of what stands beside an error
ERRORS = {
    "error, training images": ("error_train", "o"),
    "error, test images": ("error_test", "s"),
    "Lemma 1": ("lemma1_bound", "|"),
    "Lemma 1, main part of each class": ("lemma1_sharper", "x"),
    "Theorem 2, where its condition holds": ("theorem2_bound", "D"),
}
# measures that `draw_compared_terms` shows
COMPARED_TERMS = (
    *SUMMANDS,
    *("rho_allowed", "theorem2_holds"),
    *(name for name, _ in ERRORS.values()),
)
MEASURED = {
    *("error_train", "error_test", "loose_share", "divergence_largest", "correlation_alignment"),
    "correlation_divergence",
}


def draw_terms(values: Mapping[str, float]) -> bytes:
    """Return a PNG of measures by name: measured numbers in dark bars, bounds in light ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 7.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 2, 2))
    top = figure.add_subplot(grid[0, :])
    start = 0.0
    for name, colour in SUMMANDS.items():
        label = f"{name.removeprefix('rho: ')} = {values[name]:.3g}"
        top.barh(0, values[name], left=start, color=colour, label=label)
        start += values[name]
    allowed = values["rho_allowed"]
    top.axvline(allowed, color="black", linestyle="--", label=f"allowed: below {allowed:.3g}")
    top.set_yticks([])
    top.set_title("summands of ρ_max: " + ("the condition holds" if values["theorem2_holds"] else
                  "the condition of Theorem 2 fails"), fontsize=10)  # fmt: skip
    top.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    for number, (title, names) in enumerate(COMPARED):
        panel = figure.add_subplot(grid[1 + number // 2, number % 2])
        shown = [name for name in names if name in values]
        heights = [values[name] for name in shown]
        colours = ["#1f3552" if name in MEASURED else "#9db8d9" for name in shown]
        for place, bar in enumerate(panel.barh(range(len(shown)), heights, color=colours)):
            if _is_no_bound(shown[place], values):
                bar.set(facecolor="none", edgecolor="#9db8d9", linestyle="--")
        # bounds can be orders of magnitude above what they bound
        panel.set_xscale("symlog", linthresh=1)
        labels = [
            f"{name} = {values[name]:.3g}" + (" (no bound)" if _is_no_bound(name, values) else "")
            for name in shown
        ]
        panel.set_yticks(range(len(shown)), labels, fontsize=8)
        panel.invert_yaxis()
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(title, fontsize=10)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _is_no_bound(name: str, values: Mapping[str, float]) -> bool:
    """Return whether a measure is the bound of Theorem 2 where its condition fails."""
    return name == "theorem2_bound" and values.get("theorem2_holds") != 1


def draw_compared_terms(values: Mapping[str, Mapping[str, float]]) -> bytes:
    """Return a PNG of several bounds: summands of ρ_max beside what is allowed, errors beside their bounds.

    Args:
        values: label → measures by name (`COMPARED_TERMS`, of which all but the summands may be missing).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 2.0 + 0.34 * len(values)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    terms, errors = figure.subplots(1, 2, sharey=True)
    starts = dict.fromkeys(values, 0.0)
    for name, colour in SUMMANDS.items():
        widths = [one[name] for one in values.values()]
        terms.barh(
            range(len(values)),
            widths,
            left=list(starts.values()),
            color=colour,
            label=name.removeprefix("rho: "),
        )
        starts = {label: starts[label] + one[name] for label, one in values.items()}
    for place, one in enumerate(values.values()):
        if "rho_allowed" in one:
            label = "allowed: below" if place == 0 else None
            terms.plot(one["rho_allowed"], place, "k|", markersize=12, markeredgewidth=2, label=label)
    terms.set_title("summands of ρ_max", fontsize=10)
    for number, (label, (name, marker)) in enumerate(ERRORS.items()):
        shown = [
            (one[name], place)
            for place, one in enumerate(values.values())
            if name in one and not _is_no_bound(name, one)
        ]
        if shown:
            errors.plot(*zip(*shown, strict=True), marker, color=f"C{number}", label=label)
    errors.set_title("error of the nearest-centre classifier, and its bounds", fontsize=10)
    errors.set_xlim(left=0)
    terms.set_yticks(range(len(values)), values, fontsize=8)
    terms.invert_yaxis()
    for panel in (terms, errors):
        panel.grid(axis="x", alpha=0.3)
        panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
