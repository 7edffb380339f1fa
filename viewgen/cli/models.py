"""``viewgen models``: the networks that are at hand."""

import json

import click

from viewgen.cli import print_json

__all__ = ["models"]


@click.group()
def models() -> None:
    """List and show the networks that are at hand.

    \b
    Example:
      viewgen models list
      viewgen models show digits/generator
    """


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_models(as_json: bool) -> None:
    """List the known weights.

    \b
    Example:
      viewgen models list --json
    """
    from viewgen_pretrained.hub import cards

    known = cards()
    if as_json:
        fields = ("kind", "dataset", "image_size", "sha256", "licence")
        print_json(
            {
                "models": [
                    {
                        "name": name,
                        **{field: getattr(card, field) for field in fields},
                        "measured": card.measured,
                    }
                    for name, card in known.items()
                ]
            }
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "image", "parameters", "measured", box=None, header_style="bold")
    for name, card in known.items():
        numbers = {key: value for key, value in card.measured.items() if not isinstance(value, str)}
        measured = ", ".join(f"{key} {value}" for key, value in numbers.items())
        table.add_row(name, f"{card.image_size} px", f"{card.details.get('parameters', 0):,}", measured)
    Console().print(table)
    click.echo("\nOther data sets: `viewgen pretrain --help` shows the commands that train the networks.")


@models.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_model(name: str, as_json: bool) -> None:
    """Show a model card: file, licence, training command, measured quality.

    \b
    Example:
      viewgen models show digits/encoder
    """
    import dataclasses

    from viewgen_pretrained.hub import find_card, local_file

    card = find_card(name)
    document = {**dataclasses.asdict(card), "file": str(local_file(card))}
    document.update(document.pop("details"))
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if isinstance(value, dict):
            click.echo(f"{key}:")
            for inner, detail in value.items():
                click.echo(f"  {inner}: {detail if isinstance(detail, str) else json.dumps(detail)}")
        else:
            click.echo(f"{key}: {value}")
