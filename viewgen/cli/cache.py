"""``viewgen cache``."""

import json
import os
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import GroupedCommand, add_options, augment_option
from viewgen.cli.setting_options import (
    config_option,
    given_settings,
    set_option,
    setting_flags,
    setting_names,
)
from viewgen.cli.storage_option import storage_option
from viewgen.config_file import dotted
from viewgen.terminal import program
from viewgen.views import VIEWS

__all__ = ["cache", "say_what_comes_next"]


class _BatchSize(click.ParamType[int | str]):
    """A whole number, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'auto'", param, ctx)


_METHODS = [name for name in VIEWS.built_in if not VIEWS.entry(name).needs & {"training", "cache"}]
_FILE = click.Path(dir_okay=False)
_option = click.option
_OPTIONS: tuple[Any, ...] = (
    _option("--dataset", required=True, metavar="D", help="Data set; `viewgen datasets` lists them."),
    _option("--method", default="wsearch", show_default=True, metavar="M",
            help=f"{', '.join(_METHODS)}, or one of a plug-in."),
    _option("--views", type=int, metavar="V", help="Views per image.  [default: 8]"),
    _option("--out", metavar="URL", help="Path, s3:// or other fsspec URL of the cache.  [default: in "
            "$VIEWGEN_CACHE or the user's cache folder]"),
    _option("--overwrite", is_flag=True, help="Replace a cache of another configuration."),
    _option("--dry-run", is_flag=True, help="Check everything, say what would be made, write nothing."),
    _option("--estimate/--no-estimate", default=True, envvar="VIEWGEN_ESTIMATE",
            help="In a dry run: estimate the time, from a few images.  [default: estimate]"),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "Images",
    _option("--split", default="train", show_default=True, help="Split of the data set."),
    _option("--limit", type=int, metavar="N", help="Only the first N images."),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    "Views",
    *setting_flags(VIEWS),
    augment_option("expert: operations"),
    set_option("A setting of the method, or invert.NAME of the inversion before it; repeatable.  "
               "`viewgen list settings METHOD` lists them."),
    config_option(),
    _option("--keep-latents", is_flag=True, help="wsearch, wboundary, wperturb: store the views' codes too."),
    _option("--seed", type=int, default=0, show_default=True, help="Root of all random numbers."),
    "Networks",
    _option("--models", metavar="DIR|NAME", help="Folder of a `viewgen pretrain` run, or name of a "
            "`viewgen models import`.  [default: the data set's own networks]"),
    _option("--generator", type=_FILE, help="Weights that replace the data set's own: a file, or a name."),
    _option("--inverter", type=_FILE, help="The same for the inverter."),
    _option("--encoder", type=_FILE, help="The same for the encoder."),
    _option("--discriminator", type=_FILE, help="The same for the discriminator."),
    _option("--inversions", metavar="URL",
            help="Cache of inversions, made there if missing.  [default: beside --out]"),
    "Execution",
    _option("--executor", type=click.Choice(["ray", "local"]), default="ray", show_default=True,
            help="local: one worker in this process, without Ray."),
    _option("--workers", type=int, metavar="N", help="Shards made at once.  [default: one per GPU, or core]"),
    _option("--gpus-per-worker", type=float, metavar="F",
            help="GPUs of each worker.  [default: 1 where there are GPUs]"),
    _option("--ray-address", metavar="HOST:PORT", help="Join a cluster; auto: the one of this machine."),
    _option("--gallery/--no-gallery", default=True, envvar="VIEWGEN_GALLERY",
            help="With Ray: serve a gallery of the cache while it grows.  [default: gallery]"),
    _option("--quality/--no-quality", default=True, envvar="VIEWGEN_QUALITY",
            help="Measure a sample of the views at the end, and say if they cannot be trusted.  "
            "[default: quality]"),
    _option("--strict", is_flag=True, help="Exit with 1 if the views cannot be trusted."),
    _option("--batch-size", type=_BatchSize(), metavar="N|auto", help="Images optimised at once, auto: as "
            "many as fit; changes memory, not the views.  [default: one group]"),
    _option("--shard-images", type=int, metavar="N",
            help="Images per shard.  [default: about 12 shards of 16 to 512]"),
    _option("--max-attempts", type=int, default=3, show_default=True,
            help="Failures after which a shard is quarantined."),
    _option("--hang-timeout", type=float, default=3600.0, show_default=True, metavar="SECONDS",
            help="Longest time for one shard."),
)  # fmt: skip


def say_what_comes_next(
    url: str,
    *,
    split: str = "train",
    data_root: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Print commands for the finished cache that work as printed in the same shell.

    Nothing is printed for a cache in the memory of this process. Secret values of options are hidden.

    Args:
        url: URL of the cache.
        split: split of its data set.
        data_root: folder of data sets.
        storage_options: options of the cache's storage.
    """
    if url.startswith("memory://"):
        return
    here = os.path.relpath(url) if "://" not in url and Path(url).is_relative_to(Path.cwd()) else url
    options = [(name, value if isinstance(value, str) else json.dumps(value))
               for name, value in dotted(storage_options or {})]  # fmt: skip
    places = [f"--storage-option={name}={value}" for name, value in options]
    if data_root is not None and data_root != os.environ.get("VIEWGEN_DATA"):
        places += ["--data-root", data_root]
    of_split = [] if split == "train" else ["--split", split]
    train = ["train", "--assimilation", "A2", *of_split, *places, "--cache", here]
    lines = [f"  {program()} {shlex.join(words)}" for words in (train, ["inspect", *places, here])]
    click.echo("\n".join(["next:", *lines]), err=True)


@click.command(cls=GroupedCommand)
@add_options(_OPTIONS)
@storage_option
def cache(as_json: bool, config: dict[str, Any], settings: dict[str, Any], **options: Any) -> None:
    """Generate views of a data set and store them in a Zarr cache.

    The same command goes on where an interrupted run ended; another configuration on the same URL is refused.
    Exit code 0: complete; 1: with --strict, the views cannot be trusted; 3: the cache there has another
    configuration; 4: some images could not be made.

    \b
    Examples:
      viewgen cache --dataset digits --method wsearch
      viewgen cache --dataset digits --method wperturb --sigma 0.1 --out views.zarr
      viewgen cache --dataset cifar10 --method expert --augment simclr:0.5
      viewgen cache --dataset cifar10 --out s3://bucket/views.zarr --gpus-per-worker 1 --json
    """
    from viewgen.errors import IncompleteError, ViewgenError
    from viewgen_pipelines.cache import cache as make_cache

    flags = {name: options.pop(name) for name in (*setting_names(VIEWS), "augment")}
    try:
        result = make_cache(**options, **given_settings(config, settings, flags))
    except (KeyboardInterrupt, SystemExit) as ending:
        click.echo("stopped; run the same command again to go on from here", err=True)
        raise SystemExit(ending.code if isinstance(ending, SystemExit) else 128 + signal.SIGINT) from None
    if as_json:
        print_json(result.to_json())
    elif result.complete and not options["dry_run"]:
        click.echo(result.url)
        if options["method"] != "invert":
            places = {name: options[name] for name in ("split", "data_root", "storage_options")}
            say_what_comes_next(result.url, **places)
    code = ViewgenError.exit_code if options["strict"] and result.verdict else 0
    click.get_current_context().exit(code if result.complete else IncompleteError.exit_code)
