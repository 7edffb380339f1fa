"""``viewgen push``."""

from dataclasses import asdict
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.storage_option import storage_option

__all__ = ["push"]


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--overwrite", is_flag=True, help="Replace weights in TARGET that differ.")
@click.option("--private", is_flag=True, help="Make a new repository of the hub private.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@storage_option
def push(source: str, target: str, as_json: bool, **options: Any) -> None:
    """Copy SOURCE, a cache or a folder of weights, to TARGET, with a card.

    TARGET is a path, a URL of fsspec, or a repository of Hugging Face's hub: hf://datasets/OWNER/NAME for a
    cache, hf://OWNER/NAME for weights. The same command goes on where an interrupted one ended.

    \b
    Examples:
      viewgen push views.zarr s3://bucket/views.zarr
      viewgen push views.zarr hf://datasets/someone/cifar10-wsearch --private
      viewgen push exported hf://someone/cifar10-encoder
    """
    from viewgen.sharing import push as run

    result = run(source, target, **options)
    if as_json:
        print_json(asdict(result))
        return
    what = "shards" if result.kind == "cache" else "files"
    click.echo(f"{result.target}  {result.there:,} {what}, {result.copied:,} of them copied now")
