"""``viewgen mi``."""

import signal
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import GroupedCommand, add_options, augment_option, options_file
from viewgen.cli.storage_option import storage_option
from viewgen.diagnostics import ESTIMATORS

__all__ = ["mi"]


_option = click.option
_OPTIONS = (
    _option("--dataset", required=True, metavar="D", help="Data set; `viewgen datasets` lists them."),
    _option("--cache", multiple=True, metavar="URL", help="Cache of its views; repeatable."),
    _option("--pair", multiple=True, metavar="SOURCE", help="Two views that one source makes of an image: "
            "color:YDbDr, flow:FILE, frequency:0.7, patches:16, jigsaw, expert; repeatable."),
    _option("--critic", type=click.Choice(["concatenated", "separable"]), help="Score of a pair: "
            "a network of both views, or the product of unit vectors of either.  [default: concatenated]"),
    _option("--estimator", type=click.Choice(ESTIMATORS.names), default="mine",
            show_default=True, help="What the network is trained for; the others are read off it."),
    _option("--out", metavar="URL", help="Folder of results, mi.csv and mi.png.  [default: in "
            "$VIEWGEN_CACHE or the user's cache folder]"),
    options_file(),
    _option("--overwrite", is_flag=True, help="Measure again what is there."),
    _option("--bits", is_flag=True, help="Table, CSV and plot in bits; JSON always holds nats."),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "Images",
    _option("--split", default="train", show_default=True, help="Split of the data set."),
    _option("--limit", type=int, metavar="N", help="Only the first N images."),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    "Estimate",
    augment_option("Operations of the expert views"),
    _option("--steps", type=int, metavar="N", help="Updates of the statistics network.  [default: 400]"),
    _option("--batch-size", type=int, metavar="N",
            help="Images per update; InfoNCE ends at its logarithm.  [default: 128]"),
    _option("--separate-trunks", is_flag=True, help="A trunk for each of the two views, "
            "as views of different roles always have."),
    _option("--encoder", type=click.Path(dir_okay=False), help="Weights for alignment and uniformity."),
    _option("--models", metavar="DIR", help="Folder of a `viewgen pretrain` run with the encoder."),
    _option("--seed", type=int, default=0, show_default=True, help="Root of all random numbers."),
    "Execution",
    _option("--executor", type=click.Choice(["ray", "local"]), default="ray", show_default=True,
            help="local: one pair after the other in this process, without Ray."),
    _option("--workers", type=int, metavar="N", help="Pairs at once.  [default: one per GPU, or core]"),
    _option("--gpus-per-worker", type=float, metavar="F",
            help="GPUs of each worker.  [default: 1 where there are GPUs]"),
    _option("--ray-address", metavar="HOST:PORT", help="Join a cluster; auto: the one of this machine."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@add_options(_OPTIONS)
@storage_option
def mi(as_json: bool, **options: Any) -> None:
    """Estimate how much information views share, in nats, on images held out from training.

    Measures (original, expert) and, for every cache, (original, method) and (method, expert); with --pair
    the two views of a source, and the others only if a cache is named. The same command goes on
    where an interrupted run ended, pair by pair. Exit code 4: a pair was refused.

    \b
    Examples:
      viewgen mi --dataset digits --cache wsearch.zarr
      viewgen mi --dataset cifar10 --pair color:Lab --pair color:YDbDr --estimator infonce --critic separable
      viewgen mi --dataset cifar10 --cache s3://bucket/a.zarr --cache s3://bucket/b.zarr --json
    """
    from viewgen.errors import IncompleteError
    from viewgen_pipelines.mutual_information import mi as measure

    try:
        result = measure(**options)
    except (KeyboardInterrupt, SystemExit) as ending:
        click.echo("stopped; run the same command again to go on from here", err=True)
        raise SystemExit(ending.code if isinstance(ending, SystemExit) else 128 + signal.SIGINT) from None
    if as_json:
        print_json(result.to_json())
    else:
        from viewgen.terminal import console
        from viewgen_pipelines.mi_report import alignment_table, table

        console().print(table(result.pairs, result.estimator, bits=options["bits"]))
        if any(
            bound.saturated
            for pair in result.pairs
            if pair.estimate
            for bound in pair.estimate.bounds.values()
        ):
            click.echo(
                "* within 1 nat of InfoNCE's ceiling, the logarithm of the batch size: at least so much"
            )
        if (beside := alignment_table(result.pairs)) is not None:
            console().print("\nunder the encoder", beside, "", sep="\n")
        click.echo(f"{result.num_images:,} images; table and plot: {result.url}/mi.csv, {result.url}/mi.png")
    click.get_current_context().exit(0 if result.complete else IncompleteError.exit_code)
