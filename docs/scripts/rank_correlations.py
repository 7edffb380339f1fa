"""Do alignment and divergence rank encoders as accuracy does? ``python docs/scripts/rank_correlations.py``.

Spearman's correlation over the trainings of each experiment, and over all of them, ranked within their
experiment first, since accuracies of different data sets do not compare. Trainings of one experiment share
images and seeds: a bootstrap over them gives too narrow an interval rather than too wide a one.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

RESULTS = Path(__file__).parents[1] / "results"
# folder → accuracy
EXPERIMENTS = {
    "concentration-augmentations-trifeature": "top1[shape]",
    "richer-augmentations-trifeature": "top1[shape]",
    "color-strength-control-trifeature": "top1[color]",
    "linear-loss-digits": "top1",
    "bounds-encoders-digits": "top1",
}
MEASURES = ("alignment", "divergence_largest", "alignment[features]", "divergence_largest[features]")
NUM_RESAMPLES = 2000


def trainings(folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return (row, seed) → measure → value."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    with (folder / "results.csv").open() as file:
        for line in csv.DictReader(file):
            if line["kind"] == "training" and line["status"] == "finished" and line["value"]:
                name = f"{line['measure']}[{line['group']}]" if line["group"] else line["measure"]
                found.setdefault((line["row"], line["seed"]), {})[name] = float(line["value"])
    return found


def told(ranks: np.ndarray, random: np.random.Generator) -> str:
    """Return the correlation of two columns of ranks, with an interval over the trainings."""
    value = correlation(ranks)
    resampled = [
        np.corrcoef(ranks[random.integers(len(ranks), size=len(ranks))].T)[0, 1] for _ in range(NUM_RESAMPLES)
    ]
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f}; {len(ranks)})"


def correlation(ranks: np.ndarray) -> float:
    """Return the correlation of two columns of ranks `(N, 2)`."""
    return float(np.corrcoef(ranks.T)[0, 1])


def main() -> None:
    """Print a table."""
    random = np.random.default_rng(0)
    print("| experiment |", " | ".join(MEASURES), "|")
    print("|---|" + "---|" * len(MEASURES))
    pooled: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
    # the same training may stand in two experiments, or in two rows
    seen: dict[str, set[tuple[float, float]]] = {name: set() for name in MEASURES}
    for folder, accuracy in EXPERIMENTS.items():
        if not (RESULTS / folder / "results.csv").is_file():
            continue
        cells = []
        for name in MEASURES:
            pairs = [
                (one[name], one[accuracy])
                for one in trainings(RESULTS / folder).values()
                if {name, accuracy} <= one.keys()
            ]
            pairs = [*dict.fromkeys(pairs)]
            if len(pairs) < 3:
                cells.append("")
                continue
            ranks = rankdata(np.array(pairs), axis=0) / len(pairs)
            new = [pair not in seen[name] for pair in pairs]
            seen[name] |= set(pairs)
            pooled[name].append(ranks[new])
            cells.append(f"{correlation(ranks):+.2f} ({len(ranks)})")
        print(f"| {folder} |", " | ".join(cells), "|")
    cells = [told(np.concatenate(parts), random) if parts else "" for parts in pooled.values()]
    print("| all, ranked within their experiment |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
