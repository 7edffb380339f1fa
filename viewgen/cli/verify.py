"""``viewgen verify``."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from viewgen.cli import print_json
from viewgen.cli.storage_option import storage_option

if TYPE_CHECKING:
    from viewgen.store import VerifyReport

__all__ = ["verify"]

_MOST_LINES = 20


@click.command()
@click.argument("url")
@click.option(
    "--repair", is_flag=True, help="Delete the commit records of faulty shards; rerun `viewgen cache` next."
)
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(
    ctx: click.Context, url: str, repair: bool, storage_options: dict[str, Any], as_json: bool
) -> None:
    """Check every shard of the cache at URL against its commit record.

    Exit code 0: sound and complete; 4: shards or images are missing; 5: stored bytes differ from what was
    committed.

    \b
    Examples:
      viewgen verify views.zarr
      viewgen verify s3://bucket/views.zarr --storage-option anon=true --json
      viewgen verify views.zarr --repair
    """
    from viewgen.store import repair_cache, verify_cache

    with _progress() as report_progress:
        report = verify_cache(url, storage_options, progress=report_progress)
    repaired = repair_cache(url, storage_options, report) if repair and report.num_shards else []
    if as_json:
        print_json(
            {
                "ok": report.ok,
                "shards": report.num_shards,
                "faults": [asdict(fault) for fault in report.faults],
                "committed": report.committed,
                "missing": report.missing,
                "quarantined": report.quarantined,
                "notes": report.notes,
                "repaired": repaired,
            }
        )
    else:
        _print(report, repaired, repair)
    ctx.exit(report.exit_code)


def _print(report: "VerifyReport", repaired: list[int], repair: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from viewgen.terminal import console

    shown = console()
    if report.faults:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("shard", justify="right")
        for heading in ("kind", "object", "what is wrong"):
            table.add_column(heading, overflow="fold")
        for fault in report.faults[:_MOST_LINES]:
            shard = "" if fault.shard is None else str(fault.shard)
            table.add_row(shard, fault.kind, Text(fault.path), Text(fault.detail))
        shown.print(table)
        if len(report.faults) > _MOST_LINES:
            shown.print(f"… and {len(report.faults) - _MOST_LINES} more; --json lists all")
    for note in report.notes:
        shown.print(f"note: {note}")
    lines = [f"{report.committed} of {report.num_shards} shards committed, {len(report.faults)} faults"]
    if report.missing:
        lines.append(f"missing shards: {_some(report.missing)}; run the same `viewgen cache` command again")
    if report.quarantined:
        lines.append(f"images without views (status 3), rows: {_some(report.quarantined)}")
    if repaired:
        lines.append(
            f"removed the records of shards {_some(repaired)}; run the same `viewgen cache` command again"
        )
    elif report.faults and not repair:
        lines.append(
            "to make faulty shards anew: `viewgen verify --repair`, then the same `viewgen cache` command"
        )
    if report.ok:
        lines.append("sound and complete")
    for line in lines:
        shown.print(line)


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown + (f" … ({len(numbers)} in all)" if len(numbers) > 10 else "")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that draws one bar on a terminal's standard error, or a line every ten seconds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from viewgen.terminal import console

    shown = console(stderr=True)
    if not shown.is_terminal:
        last = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > 10:
                last = time.monotonic()
                click.echo(f"verified {done} of {total} shards", err=True)

        yield line
        return
    columns = (
        TextColumn("verify"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True) as bar:
        task = bar.add_task("verify", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
