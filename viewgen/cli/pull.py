"""``viewgen pull``."""

from dataclasses import asdict
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.storage_option import storage_option

__all__ = ["pull"]


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--overwrite", is_flag=True, help="Replace weights in TARGET that differ.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@storage_option
def pull(source: str, target: str, as_json: bool, **options: Any) -> None:
    """Copy SOURCE, a cache or a folder of weights, to TARGET, and check it on the way.

    SOURCE is what `viewgen push` takes as its TARGET. The same command goes on where an interrupted one
    ended.

    \b
    Examples:
      viewgen pull s3://bucket/views.zarr views.zarr
      viewgen pull hf://datasets/someone/cifar10-wsearch@main views.zarr
      viewgen pull hf://someone/cifar10-encoder weights
    """
    from viewgen.sharing import pull as run

    result = run(source, target, **options)
    if as_json:
        print_json(asdict(result))
        return
    what = "shards" if result.kind == "cache" else "files"
    click.echo(f"{result.target}  {result.there:,} {what}, {result.copied:,} of them copied now")
