"""``viewgen measure``."""

from pathlib import Path
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import GroupedCommand, add_options, augment_option, options_file, parse_settings
from viewgen.cli.storage_option import storage_option
from viewgen.diagnostics import DIAGNOSTICS

__all__ = ["measure"]

_FILE = click.Path(dir_okay=False)
_KINDS = ("encoder", "generator", "inverter", "discriminator")
_option = click.option
_OPTIONS: tuple[Any, ...] = (
    _option("-d", "--diagnostic", "diagnostics", multiple=True, metavar="NAME",
            help=f"{', '.join(DIAGNOSTICS.names)}; repeatable.  [default: all that the subject allows; some "
            "run only if named]"),
    _option("--set", "settings", multiple=True, metavar="[DIAGNOSTIC.]NAME=VALUE", callback=parse_settings,
            help="Setting of a diagnostic, repeatable."),
    _option("--seeds", multiple=True, type=int, default=(0,), show_default=True, metavar="N",
            help="Seed of the random numbers, repeatable: each diagnostic is run with each."),
    options_file(),
    "Output",
    _option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
            help="Write all numbers as CSV."),
    _option("--tensorboard", type=click.Path(file_okay=False), metavar="DIR",
            help="Write all numbers as TensorBoard scalars."),
    _option("--plots", type=click.Path(file_okay=False), metavar="DIR",
            help="Write the plots of diagnostics that draw any, and the numbers behind them as JSON."),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "Subject",
    _option("--dataset", metavar="D", help="Another data set than the subject's."),
    _option("--split", default="train", show_default=True,
            help="Of a data set or encoder file: what probes and neighbours learn from."),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    _option("--weights", type=click.Choice(["last", "best"]), default="last", show_default=True,
            help="Of a training."),
    _option("--models", metavar="DIR|NAME", help="Folder of a `viewgen pretrain` run, or name of an import."),
    *(_option(f"--{kind}", type=_FILE, help=f"Weights of the {kind} in place of the data set's own.")
      for kind in _KINDS),
    _option("--inversions", metavar="URL",
            help="Of a cache: the inversions that its views start from.  [default: beside it]"),
    augment_option("Operations of the expert views that are measured, not of a training's own views"),
    _option("--limit", type=int, metavar="N", help="Compare the views of only the first N images."),
    _option("--write-columns", is_flag=True,
            help="Compute scores of every view of a cache (label margin, density, nearest view) and keep "
            "them in it, for `viewgen train --set score=…` and the gallery; measures nothing else unless -d "
            "names it."),
    "Execution",
    _option("--batch-size", type=click.IntRange(min=1), default=512, show_default=True,
            help="Images embedded at once."),
    _option("--executor", type=click.Choice(["ray", "local"]), default="local", show_default=True,
            help="local: one diagnostic after the other in this process, without Ray."),
    _option("--workers", type=int, metavar="N",
            help="Diagnostics at once.  [default: one per GPU, or core]"),
    _option("--gpus-per-worker", type=float, metavar="F",
            help="GPUs of each worker.  [default: 1 where there are GPUs]"),
    _option("--ray-address", metavar="HOST:PORT", help="Join a cluster; auto: the one of this machine."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@click.argument("subject")
@add_options(_OPTIONS)
@storage_option
def measure(
    subject: str, csv_file: Path | None, tensorboard: str | None, as_json: bool, **options: Any
) -> None:
    """Measure SUBJECT: a cache, the folder of a `viewgen train`, an encoder file, a data set, or vectors.

    A data set stands for its own networks and for the pairs of its images and expert views. Vectors are an
    .npz file with features and id, whose outcomes are in a table.

    \b
    Examples:
      viewgen measure runs/digits-A2 --diagnostic knn --diagnostic probe --set probe.epochs=50
      viewgen measure wsearch.zarr -d alignment --json
      viewgen measure wsearch.zarr -d seen --set seen.encoders=other-seed.safetensors
      viewgen measure wsearch.zarr --write-columns
      viewgen measure digits -d concentration --plots plots
      viewgen measure trifeature:32 -d concentration --set attribute=shape --augment ad
      viewgen measure digits --csv digits.csv
      viewgen measure runs/digits-A2 -d tsne --plots plots
      viewgen measure subjects.npz -d outcomes --set outcomes.table=outcomes.csv
    """
    from viewgen.diagnostics.report import csv_text, measure_table, over_seeds, write_tensorboard
    from viewgen_pipelines.measure import measure as run

    networks = {kind: path for kind in _KINDS if (path := options.pop(kind)) is not None}
    result = run(subject, networks=networks, **options)
    if csv_file is not None:
        csv_file.write_text(csv_text(result.measured), encoding="utf-8")
    if tensorboard is not None:
        write_tensorboard(result.measured, tensorboard)
    if as_json:
        print_json(result.to_json())
        return
    from viewgen.terminal import console

    console().print(measure_table(over_seeds(result.measured)))
    for note in result.notes:
        click.echo(f"note: {note}")
    for path in result.files:
        click.echo(path)
