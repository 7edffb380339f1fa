"""``viewgen experiment``."""

import signal
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import add_options

__all__ = ["experiment"]


class _Seeds(click.ParamType[tuple[int, ...]]):
    """Whole numbers and ranges: ``0-4``, ``0,2,7``."""

    name = "0-4|0,1"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        found: list[int] = []
        for part in str(value).split(","):
            first, mark, last = part.strip().partition("-")
            if not first.isdigit() or (mark and not last.isdigit()):
                self.fail(f"{value!r} is no list of seeds; expected such as 0-4 or 0,2,7", param, ctx)
            if int(last or first) < int(first):
                self.fail(f"{value!r} counts backwards; expected such as 0-4 or 0,2,7", param, ctx)
            found += range(int(first), int(last or first) + 1)
        return tuple(found)


_option = click.option
_OPTIONS = (
    _option("--scale", metavar="S", help="small, for processors, or paper, for GPUs.  [default: small]"),
    _option("--dataset", metavar="D", help="Data set.  [default: the first of the scale]"),
    _option("--out", metavar="DIR", help="Folder of the results.  [default: experiments/NAME-D-S]"),
    _option("--only", multiple=True, metavar="ROW", help="Train this row, or this grid of rows; repeatable."),
    _option("--seeds", type=_Seeds(), help="Seeds of the trainings.  [default: those of the file]"),
    _option("--dry-run", is_flag=True,
            help="Print what is missing, in hours and GB, from a few measured steps and views."),
    _option("--report", is_flag=True, help="Write tables and plots of what is there; run nothing."),
    _option("--list", "as_list", is_flag=True, help="List the experiments that ship with viewgen."),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    # the execution
    _option("--executor", type=click.Choice(["ray", "local"]), default="ray", show_default=True,
            help="ray: trainings side by side; local: one after the other in this process."),
    _option("--workers", type=int, metavar="N",
            help="Trainings at once.  [default: one per GPU, or per core]"),
    _option("--gpus-per-worker", type=float, metavar="F",
            help="GPUs of each training.  [default: 1 where there are GPUs]"),
    _option("--ray-address", metavar="HOST:PORT", help="Join a cluster; auto: the one of this machine."),
    _option("--checkpoint-seconds", type=float, default=300.0, show_default=True, metavar="SECONDS",
            help="Pause between the checkpoints of a training."),
)  # fmt: skip


@click.command()
@click.argument("source", metavar="NAME|FILE.toml", required=False)
@add_options(_OPTIONS)
def experiment(source: str | None, as_json: bool, as_list: bool, **options: Any) -> None:
    """Run an experiment: caches, trainings with several seeds, measurements, tables.

    The same command goes on where it ended, and where the file has grown. The folder of the results has
    results.csv, table.md, table.html, plots, and the settings, versions and digests of every run.

    \b
    Examples:
      viewgen experiment --list
      viewgen experiment table1 --dry-run
      viewgen experiment table1 --seeds 0-2 --only simclr --only a2-wsearch
      viewgen experiment my-grid.toml --executor local
    """
    from viewgen.errors import IncompleteError

    if as_list:
        _list(as_json)
        return
    if source is None:
        raise click.UsageError("name an experiment or a TOML file; --list shows those that ship with viewgen")
    from viewgen_train.experiment import ExperimentResult
    from viewgen_train.experiment import experiment as run

    try:
        result = run(source, **options)
    except (KeyboardInterrupt, SystemExit) as ending:
        click.echo("stopped; run the same command again to go on from here", err=True)
        raise SystemExit(ending.code if isinstance(ending, SystemExit) else 128 + signal.SIGINT) from None
    if as_json:
        print_json(result.to_json())
    elif isinstance(result, ExperimentResult):
        click.echo(result.table)
        for line in result.words:
            click.echo(f"  {line}", err=True)
    else:
        click.echo("\n".join(result.lines()))
    if isinstance(result, ExperimentResult) and not (result.complete or options["report"]):
        click.get_current_context().exit(IncompleteError.exit_code)


def _list(as_json: bool) -> None:
    from viewgen_train.experiment import presets

    known = presets()
    if as_json:
        print_json({"experiments": [{"name": name, "description": text} for name, text in known.items()]})
        return
    for name, text in known.items():
        click.echo(f"{name}\n  {text}")
