"""Print trainings like Table 1 of Constructive Assimilation: ``python docs/scripts/table.py RUN [RUN...]``.

Runs named alike up to ``-seed1``, ``-seed2`` … are one row. With one training its deviation is that over the
probe's seeds; with more it is that over the trainings, each the mean of its probes. The baseline comes first.
"""

import json
import re
import sys
from pathlib import Path
from statistics import fmean, stdev


def table(folders: list[str]) -> str:
    """Return a Markdown table of the runs' evaluations, accuracies in per cent."""
    rows: dict[str, list[dict[str, float]]] = {}
    for folder in sorted(folders, key=lambda folder: (not Path(folder).name.startswith("none"), folder)):
        name, result = re.sub(r"-seed\d+$", "", Path(folder).name), Path(folder) / "evaluation.json"
        if result.exists():
            rows.setdefault(name, []).append(json.loads(result.read_text()))
        else:
            print(f"{folder} has no evaluation.json yet and is left out", file=sys.stderr)
    lines = ["| run | trainings | linear probe, Acc@1 | 5-NN |", "|---|---:|---:|---:|"]
    for name, results in rows.items():
        top1, knn = ([100 * result[key] for result in results] for key in ("top1", "knn5_top1"))
        if len(results) == 1:
            cells = f"{top1[0]:.2f} ± {100 * results[0]['top1_sd']:.2f} | {knn[0]:.2f}"
        else:
            cells = " | ".join(f"{fmean(values):.2f} ± {stdev(values):.2f}" for values in (top1, knn))
        lines.append(f"| {name} | {len(results)} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1:]))
