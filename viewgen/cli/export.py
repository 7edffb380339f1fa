"""``viewgen export``: the encoder of a training, with a model card."""

from pathlib import Path
from typing import Any

import click

from viewgen.cli import print_json

__all__ = ["export"]


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to fill."
)
@click.option(
    "--weights", "which", type=click.Choice(["last", "best"]), default="last", show_default=True,
    help="Of the run.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an encoder in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the model card as one JSON object.")
def export(run: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Write the encoder of RUN, the folder of a `viewgen train`, with a model card.

    \b
    Examples:
      viewgen export runs/digits-A2 --out exported
      viewgen cache --dataset digits --method wsearch --encoder exported/encoder.safetensors
    """
    from viewgen_train.export import CARD, PAGE, WEIGHTS, export_encoder

    card = export_encoder(run, out, **options)
    if as_json:
        print_json(card)
        return
    click.echo(f"{out / WEIGHTS}  {card['parameters']:,} parameters, {card['steps']:,} steps")
    for name, value in card["measured"].items():
        click.echo(f"  {name}: {value}")
    if not card["measured"]:
        click.echo(f"  accuracy: not measured; `viewgen eval {run}` measures it, then export again")
    click.echo(f"{out / CARD}, {out / PAGE}  the model card, and how to load the weights")
