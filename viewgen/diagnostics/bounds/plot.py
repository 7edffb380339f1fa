"""Bars of the bounds: the summands of ρ_max against what is allowed, and bounds against errors."""

import io
from collections.abc import Mapping

__all__ = ["draw_terms"]

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
    top.legend(fontsize=8, ncols=5)
    for number, (title, names) in enumerate(COMPARED):
        panel = figure.add_subplot(grid[1 + number // 2, number % 2])
        shown = [name for name in names if name in values]
        heights = [values[name] for name in shown]
        colours = ["#1f3552" if name in MEASURED else "#9db8d9" for name in shown]
        panel.barh(range(len(shown)), heights, color=colours)
        # bounds can be orders of magnitude above what they bound
        panel.set_xscale("symlog", linthresh=1)
        panel.set_yticks(range(len(shown)), [f"{name} = {values[name]:.3g}" for name in shown], fontsize=8)
        panel.invert_yaxis()
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(title, fontsize=10)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
