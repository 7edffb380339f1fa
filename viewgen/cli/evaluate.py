"""``viewgen models evaluate``: the quality of g, e and f."""

from pathlib import Path

import click

from viewgen.cli import print_json

__all__ = ["evaluate"]

_FILE = click.Path(dir_okay=False)


@click.command()
@click.argument("networks", nargs=-1, required=True, type=click.Choice(["g", "e", "f"]))
@click.option("--dataset", required=True, help="Data set; `viewgen datasets` lists them.")
@click.option("--data-root", default=None, envvar="VIEWGEN_DATA", help="Where data sets are.")
@click.option(
    "--models",
    default=None,
    metavar="DIR|NAME",
    help="Folder of a `viewgen pretrain` run, or name of an import.  [default: the data set's own]",
)
@click.option("--generator", default=None, type=_FILE, help="Weights that replace the data set's own.")
@click.option("--inverter", default=None, type=_FILE, help="The same for the inverter.")
@click.option("--encoder", default=None, type=_FILE, help="The same for the encoder.")
@click.option("--discriminator", default=None, type=_FILE, help="The same for the discriminator.")
@click.option(
    "--features",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "inception", "encoder"]),
    help="What g is measured on: inception gives FID and KID; auto takes all that is at hand.",
)
@click.option(
    "--num-images",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=4),
    help="Images of each split, and samples, at most.",
)
@click.option(
    "--num-refined",
    default=128,
    show_default=True,
    type=click.IntRange(min=0),
    help="e: held-out images whose codes are refined too.",
)
@click.option(
    "--grid",
    default=None,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PNG",
    help="Write a picture of originals, reconstructions and samples.",
)
@click.option("--seed", default=0, show_default=True, help="Of the samples.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")  # fmt: skip
def evaluate(
    networks: tuple[str, ...],
    dataset: str,
    data_root: str | None,
    models: str | None,
    generator: str | None,
    inverter: str | None,
    encoder: str | None,
    discriminator: str | None,
    features: str,
    num_images: int,
    num_refined: int,
    grid: Path | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure the generator g, the inverter e and the encoder f; any of them, in one table.

    g: FID and KID where Inception weights are at hand, the same statistics on the encoder's features
    under that encoder's name, precision and recall. e: error, PSNR, LPIPS where its weights are at hand,
    and feature distance on held-out images. f: 5-NN accuracy on held-out images and on their reconstructions.

    \b
    Examples:
      viewgen models evaluate g e f --dataset digits --grid digits.png
      viewgen models evaluate g --dataset cifar10 --models cifar10 --features inception --json
    """
    from viewgen.device import resolve_device
    from viewgen.picture import write_png
    from viewgen_pretrained.evaluation import evaluate as measure

    overrides = {
        kind: path
        for kind, path in (
            ("generator", generator),
            ("inverter", inverter),
            ("encoder", encoder),
            ("discriminator", discriminator),
        )
        if path is not None
    }
    found = measure(
        networks,
        dataset,
        models_dir=models,
        overrides=overrides,
        data_root=data_root,
        num_images=num_images,
        num_refined=num_refined,
        features=features,
        seed=seed,
        device=resolve_device(device),
    )
    written = None
    if grid is not None and found.grid is not None:
        write_png(found.grid, grid)
        written = str(grid)
    elif grid is not None:
        found.notes.append("no picture was written: there is no generator")
    if as_json:
        print_json(
            {
                "dataset": found.dataset,
                "measures": [
                    {"network": row.group, "name": row.name, "value": row.value, "on": row.on}
                    for row in found.measures
                ],
                "networks": found.files,
                "notes": found.notes,
                "grid": written,
            }
        )
        return
    from viewgen.diagnostics.report import Measured, measure_table
    from viewgen.terminal import console

    console().print(measure_table([Measured(diagnostic="", seed=0, measure=one) for one in found.measures]))
    for note in found.notes:
        click.echo(f"note: {note}")
    if written:
        click.echo(written)
