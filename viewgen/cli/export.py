"""``viewgen export``: the views of a cache as other files, or the encoder of a training, with a card."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import GroupedCommand, add_options
from viewgen.cli.storage_option import storage_option

__all__ = ["export"]

_CACHES, _RUNS = ("webdataset", "hf", "folder", "parquet"), ("viewgen", "torchvision", "timm", "hf")
_option = click.option
_OPTIONS = (
    _option("--to", type=click.Choice([*dict.fromkeys((*_RUNS, *_CACHES))]), metavar="FORMAT",
            help=f"Of a cache: {', '.join(_CACHES)}.  Of a training: {', '.join(_RUNS)}.  "
            "[default: viewgen, of a training]"),
    _option("--out", required=True, metavar="DIR|URL", help="Folder to fill."),
    _option("--overwrite", is_flag=True, help="Replace an earlier export in --out."),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "Of a cache",
    _option("--picture", type=click.Choice(["png", "jpg", "webp"]), default="png", show_default=True,
            help="Files of the views; jpg alone loses something."),
    _option("--originals", is_flag=True, help="Write the images too."),
    _option("--use-unconverged", is_flag=True, help="Images whose search did not converge too."),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    "Of a training",
    _option("--weights", "which", type=click.Choice(["last", "best"]), default="last", show_default=True,
            help="Of the run."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@click.argument("source", metavar="SOURCE")
@add_options(_OPTIONS)
@storage_option
def export(source: str, to: str | None, out: str, as_json: bool, **options: Any) -> None:
    """Write SOURCE in the form of another tool, with a card.

    SOURCE is the URL of a complete cache, or the folder of a `viewgen train`. The export of a cache goes on
    where an interrupted one ended.

    \b
    Examples:
      viewgen export views.zarr --to webdataset --out tars
      viewgen export views.zarr --to hf --out s3://bucket/views --originals
      viewgen export runs/digits-A2 --out exported
      viewgen export runs/cifar10-A2 --to timm --out exported
      viewgen cache --dataset digits --method wsearch --encoder exported/encoder.safetensors
    """
    if _is_cache(source, options["storage_options"]):
        _cache(source, to, out, as_json, options)
    elif "://" not in source and not Path(source).is_dir():
        raise click.BadParameter(f"Directory {source!r} does not exist.", param_hint="'SOURCE'")
    else:
        _run(source, to or "viewgen", out, as_json, options)


def _is_cache(source: str, storage_options: dict[str, Any]) -> bool:
    from viewgen.store import open_storage

    return open_storage(source, storage_options).exists("zarr.json")


def _given(*names: str) -> list[str]:
    """Return the options of these names that are on the command line."""
    context = click.get_current_context()
    return [
        name for name in names if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    ]


def _cache(source: str, to: str | None, out: str, as_json: bool, options: dict[str, Any]) -> None:
    if to not in _CACHES:
        raise click.UsageError(f"{source} is a cache; give --to {', '.join(_CACHES[:-1])} or {_CACHES[-1]}")
    if _given("which"):
        raise click.UsageError("--weights is of a training, and SOURCE is a cache; leave it out")
    from viewgen.export import export_cache

    del options["which"]
    result = export_cache(source, out, to, **options)
    if as_json:
        print_json(asdict(result))
        return
    there = result.images - result.written
    click.echo(f"{result.out}  {result.images:,} images × {result.views} views as {result.format}")
    if there:
        click.echo(f"  {there:,} of them were there already")


def _run(source: str, to: str, out: str, as_json: bool, options: dict[str, Any]) -> None:
    if to not in _RUNS:
        raise click.UsageError(
            f"{source} is no cache, and --to {to} is for caches; a training has {', '.join(_RUNS)}"
        )
    if given := _given("picture", "originals", "use_unconverged", "data_root"):
        flag = "--" + given[0].replace("_", "-")
        raise click.UsageError(f"{flag} is for caches, and {source} is none; leave it out")
    if "://" in out:
        raise click.UsageError(
            f"--out {out} is no folder; export the training to a folder, then `viewgen push` it there"
        )
    from viewgen_train.backbone_export import export_backbone
    from viewgen_train.export import CARD, PAGE, export_encoder

    chosen = {name: options[name] for name in ("which", "overwrite")}
    folder = Path(out)
    if to == "viewgen":
        card = export_encoder(source, folder, **chosen)
    else:
        card = export_backbone(source, folder, to, **chosen)  # type: ignore[arg-type]
    if as_json:
        print_json(card)
        return
    click.echo(f"{folder / card['file']}  {card['parameters']:,} parameters, {card['steps']:,} steps")
    for name, value in card["measured"].items():
        click.echo(f"  {name}: {value}")
    if not card["measured"]:
        click.echo(f"  accuracy: not measured; `viewgen eval {source}` measures it, then export again")
    cards = f"{folder / CARD}, {folder / PAGE}" if to == "viewgen" else str(folder / PAGE)
    click.echo(f"{cards}  the model card, and how to load the weights")
