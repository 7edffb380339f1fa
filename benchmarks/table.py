"""One page of all results: docs/benchmarks.md and benchmarks/results/all.json, from the files beside it.

python benchmarks/table.py
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
HEAD = """# Measured speed

Every number is a ratio of two contenders that ran in turn, so that a busy machine slows both; median, 10th
and 90th percentile of the rounds. `make bench` measures them anew and writes this page; the scripts and their
full results lie in `benchmarks/`.
"""


def collect() -> dict[str, dict[str, Any]]:
    """Return script name → its result, for every result that holds ratios."""
    found = {}
    for path in sorted((HERE / "results").glob("*.json")):
        document = json.loads(path.read_text())
        if path.stem != "all" and document.get("ratios"):
            found[path.stem] = document
    return found


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page."""
    parts = [HEAD]
    for name, document in results.items():
        parts.append(f"\n## `benchmarks/{name}.py`\n")
        parts.append(f"{document['machine']}; {document['date']}.\n")
        parts.append("| ratio | median | 10 % | 90 % |\n|---|---:|---:|---:|")
        for title, value in document["ratios"].items():
            numbers = " | ".join(f"{value[key]:.3g}" for key in ("median", "low", "high"))
            parts.append(f"| {title} | {numbers} |")
        if document.get("searches"):
            parts.append("\n| search of digits | s | updates per image | views within 0.05 of ε₁ | spread |")
            parts.append("|---|---:|---:|---:|---:|")
            for title, value in document["searches"].items():
                near, spread = value["views_in_tolerance"], value["spread_share_of_bound"]
                cost = f"{value['seconds']:.3g} | {value['updates_per_image']:.3g}"
                parts.append(f"| {title} | {cost} | {near:.1%} | {spread:.1%} of the bound |")
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write the page and the collected ratios."""
    results = collect()
    PAGE.write_text(page(results))
    ratios = {
        f"{name}: {title}": value
        for name, document in results.items()
        for title, value in document["ratios"].items()
    }
    newest = max(results.values(), key=lambda document: str(document["date"]))
    document = {"machine": newest["machine"], "date": newest["date"], "ratios": ratios}
    (HERE / "results" / "all.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(PAGE)


if __name__ == "__main__":
    main()
