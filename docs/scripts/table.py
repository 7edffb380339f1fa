"""Print runs as a table like the paper's Table 1: ``python docs/scripts/table.py RUN [RUN...]``."""

import json
import sys
from pathlib import Path


def table(folders: list[str]) -> str:
    """Return a Markdown table of the runs' evaluations, accuracies in per cent."""
    lines = ["| run | linear probe, Acc@1 | 5-NN |", "|---|---:|---:|"]
    for folder in folders:
        result = json.loads((Path(folder) / "evaluation.json").read_text())
        top1, deviation, knn = (100 * result[key] for key in ("top1", "top1_sd", "knn5_top1"))
        lines.append(f"| {Path(folder).name} | {top1:.2f} ± {deviation:.2f} | {knn:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1:]))
