"""``viewgen show``."""

import json
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.storage_option import storage_option
from viewgen.terminal import shortened

__all__ = ["show"]


@click.command()
@click.argument("url")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(url: str, storage_options: dict[str, Any], as_json: bool) -> None:
    """Show the cache at URL: contents, provenance, statistics.

    \b
    Examples:
      viewgen show views.zarr
      viewgen show s3://bucket/views.zarr --json
    """
    from viewgen.store import summarise_cache

    summary = summarise_cache(url, storage_options)
    if as_json:
        print_json(summary)
        return

    from rich.table import Table
    from rich.text import Text

    from viewgen.terminal import console

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(summary):
        table.add_row(name, Text(value))
    console().print(table)


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    dataset, images, shards = summary["dataset"], summary["images"], summary["shards"]
    lines = [
        ("cache", summary["url"]),
        ("data set", " ".join(str(dataset[key]) for key in ("name", "split") if key in dataset) or "–"),
        ("method", summary["method"]),
        (
            "views",
            f"{summary['num_images']:,} images × {summary['num_views']} views, "
            f"{summary['channels']}×{summary['height']}×{summary['width']}",
        ),
        (
            "shards",
            f"{shards['committed']} of {shards['expected']}, {shards['images_per_shard']} images each, "
            f"{summary['bytes'] / 1e6:,.1f} MB",
        ),
        (
            "images",
            ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in images.items() if count),
        ),
    ]
    for name in ("distance", "steps", "inversion_error"):
        if found := summary[name]:
            text = f"{found['mean']:.4g} ± {found['sd']:.2g}  ({found['min']:.4g} … {found['max']:.4g})"
            if name == "distance" and summary["distance_ratio"] is not None:
                text += f"; ε₁ {summary['epsilon_boundary']:g}, ratio {summary['distance_ratio']:.3f}"
            lines.append((name.replace("_", " "), text))
    if summary["mean_pairwise"] is not None:
        lines.append(("mean pairwise", f"{summary['mean_pairwise']:.4g}"))
    if summary["quality"] is not None:
        from viewgen_pipelines.quality import ViewQuality, quality_lines

        for number, line in enumerate(quality_lines(ViewQuality.from_json(summary["quality"]))):
            lines.append(("" if number else "view quality", line))
    if summary["views_per_second"] is not None:
        lines.append(
            (
                "time",
                f"{summary['seconds']:,.1f} s of work, {summary['views_per_second']:,.1f} views/s per worker",
            )
        )
    if summary["retried_shards"]:
        lines.append(("retried shards", ", ".join(map(str, summary["retried_shards"]))))
    lines += [
        ("seed", str(summary["seed"])),
        ("identity", summary["identity"]),
        ("runs", ", ".join(summary["runs"]) or "–"),
    ]
    for group in ("config", "models", "versions"):
        lines += [
            (
                group if number == 0 else "",
                f"{key} = {shortened(value) if isinstance(value, str) else json.dumps(value)}",
            )
            for number, (key, value) in enumerate(summary[group].items())
        ]
    return lines
