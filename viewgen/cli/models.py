"""``viewgen models``: the available networks, imports of public ones, and their quality."""

import json
import sys
from pathlib import Path

import click

from viewgen.cli import print_json
from viewgen.cli.evaluate import evaluate

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, show, import and evaluate networks.

    \b
    Example:
      viewgen models list
      viewgen models show digits/generator
      viewgen models import cifar10.pkl --as cifar10
      viewgen models evaluate g e f --dataset digits
    """


models.add_command(evaluate)


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_models(as_json: bool) -> None:
    """List the weights that ship, those you imported, and public ones that can be imported.

    \b
    Example:
      viewgen models list --json
    """
    from viewgen.networks.weights import cards, models_root, public_files, user_cards

    known, own, public = cards(), user_cards(), public_files()
    if as_json:
        fields = ("kind", "dataset", "image_size", "sha256", "licence")
        print_json(
            {
                "models": [
                    {
                        "name": name,
                        "origin": "viewgen" if name in known else "user",
                        **{field: getattr(card, field) for field in fields},
                        "measured": card.measured,
                    }
                    for name, card in (own | known).items()
                ],
                "public": [
                    {
                        "name": name,
                        "dataset": entry.dataset,
                        "url": entry.url,
                        "licence": entry.licence,
                        "sha256": entry.sha256 or None,
                        "expected": dict(entry.expected),
                    }
                    for name, entry in public.items()
                ],
                "models_root": str(models_root()),
            }
        )
        return
    from rich.table import Table

    from viewgen.terminal import console

    shown = console()
    for title, group in (("", known), (f"\nYours, in {models_root()}:", own)):
        if not group:
            continue
        if title:
            click.echo(title)
        table = Table("name", "image", "parameters", "measured", box=None, header_style="bold")
        for name, card in group.items():
            numbers = {key: value for key, value in card.measured.items() if not isinstance(value, str)}
            measured = ", ".join(f"{key} {value}" for key, value in numbers.items())
            table.add_row(name, f"{card.image_size} px", f"{card.details.get('parameters', 0):,}", measured)
        shown.print(table)
    click.echo("\nPublic, for `viewgen models import` (get the file yourself; mind its licence):")
    for entry in public.values():
        click.echo(f"  {entry.title}\n    {entry.url}\n    {entry.licence}")
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

    from viewgen.networks.weights import find_card, local_file, public_files

    public = public_files().get(name)
    if public is not None:
        document = {**dataclasses.asdict(public), "file": public.file}
    else:
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


@models.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--as",
    "name",
    required=True,
    metavar="NAME",
    help="What to call it. The name of a data set makes `viewgen cache` find it on its own.",
)
@click.option("--dataset", default=None, help="What it was trained on, for the card.")
@click.option("--licence", default=None, help="For the card.  [default: what the registry knows]")
@click.option(
    "--models-root",
    default=None,
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where imports are kept.  [default: $VIEWGEN_MODELS or your data folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace the networks of that name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")  # fmt: skip
def import_command(
    file: Path,
    name: str,
    dataset: str | None,
    licence: str | None,
    models_root: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Convert a public StyleGAN2 checkpoint; nothing that the file carries is run.

    FILE is a .pt of the public PyTorch StyleGAN2 (with g_ema), or a .pkl of the official
    stylegan2-ada-pytorch. The networks are written as safetensors with model cards.

    \b
    Examples:
      viewgen models import cifar10.pkl --as cifar10
      viewgen models import 550000.pt --as faces --dataset folder:/data/faces --licence "CC BY-NC 4.0"
      viewgen cache --dataset folder:/data/faces --models faces
    """
    from viewgen_pretrained.imports.checkpoint import import_model

    result = import_model(
        file,
        name,
        models_root=models_root,
        dataset=dataset,
        licence=licence,
        overwrite=overwrite,
        command=["viewgen", *sys.argv[1:]],
    )
    source = result.cards["generator"]["source"]
    registry = None if result.public is None else result.public.name
    if as_json:
        print_json({"name": name, "folder": str(result.folder), "registry": registry, "models": result.cards})
        return
    for kind, card in result.cards.items():
        network = card["network"]
        classes = f", {network['num_classes']} classes" if network["num_classes"] else ""
        click.echo(
            f"{result.folder / card['file']}  {kind}, {network['image_size']} px{classes}, "
            f"{card['parameters']:,} parameters"
        )
    known = f"the file {registry} of the registry" if registry else "a file that the registry does not know"
    click.echo(f"from {source['file']}, {known}, sha256 {source['sha256']}")
    click.echo(f"licence: {result.cards['generator']['licence']}")
    on = result.cards["generator"]["dataset"]["name"]
    on = "DATASET" if on == "unknown" else on
    click.echo("next, if they are not there yet: the encoder and the inverter")
    for network_name in ("encoder", "inverter"):
        click.echo(f"  viewgen pretrain {network_name} --dataset {on} --out {result.folder}")
    # the name is enough in the folder where imports are looked for
    models = str(result.folder) if models_root else name
    click.echo(f"  viewgen cache --dataset {on}" + ("" if models == on else f" --models {models}"))
