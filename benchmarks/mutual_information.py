"""Estimates of mutual information against the truth, with the default settings and several seeds.

Each seed draws its own pairs, parts, weights and batches. `gaussian`: every coordinate of y is correlated
with that of x by the same ρ, so that they share −dimension/2 · ln(1 − ρ²) nats. The others are not Gaussian:

- `cube`, `exp`, `tanh`: such pairs after a map of the coordinates, which shares as much;
- `student`: Student's t distribution with 3 degrees of freedom;
- `uniform`: x uniform in [0, 1], y is x plus noise uniform in [−0.1, 0.1];
- `sign`: y is ρ·x or −ρ·x by chance, plus noise: x and y are uncorrelated.

NWJ, InfoNCE and SMILE are read off MINE's network, as `viewgen mi` does. What the result's file already has
is not measured again.

    python benchmarks/mutual_information.py --page docs/mutual-information.md

References:
    Beyond Normal: On the Evaluation of Mutual Information Estimators, Czyż et al., 2023,
    https://arxiv.org/abs/2306.11078
"""

import json
import math
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from viewgen.diagnostics.mutual_information import ArrayPairs, MIConfig, estimate_mutual_information
from viewgen.files import write_atomically
from viewgen.memory import keep_freed_memory

RESULT = Path(__file__).parent / "results" / "mutual_information.json"
READINGS = ("mine", "nwj", "infonce", "smile")
# around the table on the page
MARKS = ("<!-- table -->", "<!-- end of the table -->")
# (kind, dimension, nats if they can be chosen, number of seeds), the most important first
ROWS = [
    *(("gaussian", dimension, 4.0, 10) for dimension in (1, 5, 20)),
    *((kind, 3, 2.5, 5) for kind in ("tanh", "exp", "cube")),
    *((kind, dimension, 0.0, 5) for kind, dimension in (("uniform", 1), ("student", 2), ("sign", 4))),
    *(("gaussian", dimension, nats, 5) for nats in (0.0, 1.0, 2.0, 6.0) for dimension in (1, 5, 20)),
]
MAPS = {"cube": lambda x: x**3, "exp": torch.exp, "tanh": torch.tanh}
FREEDOM, NOISE, RHO = 3.0, 0.1, 0.95


def gaussians(num_pairs: int, dimension: int, rho: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return standard normal x and y, `(N, D)`, with correlation ρ between coordinates of the same number."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, num_pairs, dimension, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def sample(kind: str, dimension: int, nats: float, num_pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return x and y, `(N, D)`."""
    generator = torch.Generator().manual_seed(seed + 1000)
    if kind == "uniform":
        x, noise = torch.rand(2, num_pairs, dimension, generator=generator, dtype=torch.float64)
        return x, x + NOISE * (2 * noise - 1)
    if kind == "student":
        torch.manual_seed(seed)
        x, y = gaussians(num_pairs, dimension, RHO, seed)
        scale = (torch.distributions.Chi2(FREEDOM).sample((num_pairs, 1)).double() / FREEDOM).sqrt()
        return x / scale, y / scale
    if kind == "sign":
        x, y = gaussians(num_pairs, dimension, RHO, seed)
        return x * (2 * torch.randint(0, 2, (num_pairs, 1), generator=generator) - 1), y
    x, y = gaussians(num_pairs, dimension, math.sqrt(1 - math.exp(-2 * nats / dimension)), seed)
    changed = MAPS.get(kind, lambda side: side)
    return changed(x), changed(y)


def truth(kind: str, dimension: int, nats: float) -> float:
    """Return the mutual information of the pairs, in nats; for `sign` the mean of a million log ratios."""
    gaussian = -dimension / 2 * math.log(1 - RHO**2)
    if kind == "uniform":
        return dimension * (NOISE - math.log(2 * NOISE))
    if kind == "student":

        def entropy(freedom: float) -> float:
            half = torch.tensor(freedom / 2, dtype=torch.float64)
            return float(torch.lgamma(half) - half * torch.digamma(half))

        return (
            gaussian + entropy(FREEDOM) + entropy(FREEDOM + 2 * dimension) - 2 * entropy(FREEDOM + dimension)
        )
    if kind == "sign":
        x, y = gaussians(1_000_000, dimension, RHO, seed=0)
        ratios = [
            y.square().sum(1) / 2 - (y - sign * RHO * x).square().sum(1) / (2 - 2 * RHO**2)
            for sign in (1, -1)
        ]
        return gaussian - math.log(2) + float(torch.logaddexp(*ratios).mean())
    return nats


def measure(kind: str, dimension: int, nats: float, num_pairs: int, seed: int) -> dict[str, Any]:
    """Return the estimates of one seed."""
    start = time.process_time()
    pairs = ArrayPairs(*sample(kind, dimension, nats, num_pairs, seed))
    found = estimate_mutual_information(pairs, MIConfig(), seed=seed)
    bounds = {name: found.bounds[name] for name in READINGS}
    return {
        **{name: [round(value, 4) for value in (b.nats, b.low, b.high)] for name, b in bounds.items()},
        "warned_of_heavy_tails": any("heavy tails" in text for text in found.warnings),
        "seconds": round(time.process_time() - start, 1),
    }


def close(row: Mapping[str, Any]) -> int:
    """Return the number of seeds whose estimate by MINE is within 10 % or 0.1 nats of the truth."""
    bound = max(0.1, 0.1 * row["truth"])
    return sum(abs(found["mine"][0] - row["truth"]) <= bound for found in row["seeds"])


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of all rows with a seed, in Markdown."""
    heads = ("pairs", "dimension", "truth", "MINE, least … most", "within 10 % or 0.1", "NWJ")
    heads = (*heads, "InfoNCE (ends at 4.85)", "SMILE")
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for title, row in rows.items():
        kind, dimension, _ = title.split()
        seeds = row["seeds"]
        if not seeds:
            continue
        own = [found["mine"][0] for found in seeds]
        means = [sum(found[name][0] for found in seeds) / len(seeds) for name in READINGS[1:]]
        cells = [
            kind, dimension, f"{row['truth']:.3g}", f"{min(own):.2f} … {max(own):.2f}",
            f"{close(row)} of {len(seeds)}", *(f"{mean:.2f}" for mean in means),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--pairs", "num_pairs", default=4_000, show_default=True, help="Pairs of vectors.")
@click.option("--out", default=RESULT, type=click.Path(path_type=Path), help="JSON file of the result.")
@click.option("--only", default=None, type=click.IntRange(0), help="Rows measured now, from the first on.")
@click.option("--page", type=click.Path(path_type=Path), help="Replace the table of this page.")
def main(num_pairs: int, out: Path, only: int | None, page: Path | None) -> None:
    """Measure what is missing, print the table, write the result after every seed."""
    keep_freed_memory()
    torch.set_num_threads(1)
    document = {
        "machine": f"{platform.machine()}, one core",
        "torch": version("torch"),
        "num_pairs": num_pairs,
        "settings": "defaults",
        "columns": "nats, then the ends of the 95 % interval; one row per seed",
        "rows": {},
    }
    if out.exists() and json.loads(out.read_text()).get("num_pairs") == num_pairs:
        document["rows"] = json.loads(out.read_text())["rows"]
    for kind, dimension, nats, num_seeds in ROWS[:only]:
        exact = truth(kind, dimension, nats)
        row = document["rows"].setdefault(
            f"{kind} {dimension} {exact:.2f}", {"truth": round(exact, 4), "seeds": []}
        )
        for seed in range(len(row["seeds"]), num_seeds):
            row["seeds"].append(measure(kind, dimension, nats, num_pairs, seed))
            write_atomically(out, (json.dumps(document, indent=1) + "\n").encode())
    found = table(document["rows"])
    click.echo(found)
    if page is not None:
        text = page.read_text(encoding="utf-8")
        head, _, rest = text.partition(MARKS[0])
        _, there, tail = rest.partition(MARKS[1])
        if not there:
            raise click.ClickException(f"{page} has not the lines {MARKS[0]} and {MARKS[1]}")
        page.write_text(f"{head}{MARKS[0]}\n\n{found}\n{MARKS[1]}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
