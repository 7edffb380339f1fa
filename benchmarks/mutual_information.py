"""Estimates of mutual information against the truth, on correlated Gaussians.

Every coordinate of y is correlated with that of x by the same ρ, so that the mutual information is
−dimension/2 · ln(1 − ρ²) nats. Estimators are trained on 55 % of the pairs, choose their weights on 5 %, and
are read on the rest. NWJ and InfoNCE are read off MINE's network, as `viewgen mi` does.

    python benchmarks/mutual_information.py
"""

import json
import math
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from viewgen.diagnostics.mutual_information import ArrayPairs, MIConfig, estimate_mutual_information
from viewgen.memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "mutual_information.json"


def gaussians(num_pairs: int, dimension: int, nats: float, seed: int) -> ArrayPairs:
    """Return pairs of Gaussian vectors that share `nats`."""
    rho = math.sqrt(1 - math.exp(-2 * nats / dimension))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_pairs, dimension, generator=generator)
    noise = torch.randn(num_pairs, dimension, generator=generator)
    return ArrayPairs(x, rho * x + math.sqrt(1 - rho**2) * noise)


def measure(dimension: int, nats: float, num_pairs: int, num_steps: int) -> dict[str, Any]:
    """Return one row of the table."""
    pairs = gaussians(num_pairs, dimension, nats, seed=1)
    row: dict[str, Any] = {"dimension": dimension, "truth": nats}
    for trained in ("mine", "smile"):
        config = MIConfig(
            estimator=trained,
            num_steps=num_steps,
            learning_rate=5e-3,
            warm_up_share=0.5,
            validation_share=0.05,
            held_out_share=0.4,
        )
        start = time.process_time()
        found = estimate_mutual_information(pairs, config)
        readings = ("mine", "nwj", "infonce") if trained == "mine" else ("smile",)
        for name in readings:
            bound = found.bounds[name]
            row[name] = [round(value, 4) for value in (bound.nats, bound.low, bound.high)]
        row[f"{trained}_seconds"] = round(time.process_time() - start, 1)
    return row


@click.command()
@click.option("--pairs", "num_pairs", default=10_000, show_default=True, help="Pairs of vectors.")
@click.option("--steps", "num_steps", default=400, show_default=True, help="Updates of each network.")
@click.option("--dimensions", default="1,2,5,20", show_default=True, help="Lengths of the vectors.")
@click.option("--truths", default="0,0.5,1,2,3,4,6,8", show_default=True, help="Nats.")
@click.option("--out", default=RESULT, type=click.Path(path_type=Path), help="JSON file of the result.")
def main(num_pairs: int, num_steps: int, dimensions: str, truths: str, out: Path) -> None:
    """Measure, print the table, write the result."""
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = []
    click.echo(f"{'dimension':>9} {'truth':>6} {'MINE':>22} {'NWJ':>8} {'InfoNCE':>8} {'SMILE':>8}")
    for dimension in map(int, dimensions.split(",")):
        for nats in map(float, truths.split(",")):
            row = measure(dimension, nats, num_pairs, num_steps)
            rows.append(row)
            mine, low, high = row["mine"]
            click.echo(
                f"{dimension:>9} {nats:>6g} {f'{mine:.2f} [{low:.2f}, {high:.2f}]':>22} "
                f"{row['nwj'][0]:>8.2f} {row['infonce'][0]:>8.2f} {row['smile'][0]:>8.2f}"
            )
    document = {
        "machine": f"{platform.machine()}, one core",
        "date": datetime.now(UTC).date().isoformat(),
        "torch": version("torch"),
        "num_pairs": num_pairs,
        "num_steps": num_steps,
        "columns": "nats, then the ends of the 95 % interval",
        "rows": rows,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
