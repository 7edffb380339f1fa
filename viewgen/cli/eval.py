"""``viewgen eval``: probe, nearest neighbours, class centres and collapse of a trained encoder."""

from pathlib import Path
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import options_file

__all__ = ["eval"]


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--weights", "which", type=click.Choice(["last", "best"]), default="last", show_default=True,
    help="Of the run.",
)  # fmt: skip
@click.option("--dataset", default=None, help="Another data set than the run's.")
@click.option("--data-root", default=None, envvar="VIEWGEN_DATA", help="Where data sets are.")
@click.option(
    "--limit", type=click.IntRange(min=2), metavar="N",
    help="Learn from the first N training images.  [default: all]",
)  # fmt: skip
@click.option(
    "-k", "--neighbours", multiple=True, type=click.IntRange(min=1), metavar="K",
    help="Nearest neighbours that vote, repeatable; 5 is always measured.",
)  # fmt: skip
@click.option(
    "--weighted-neighbours", type=click.IntRange(min=1), default=200, show_default=True, metavar="K",
    help="Neighbours of the weighted vote, in which a cosine s has the weight exp(s/τ).",
)  # fmt: skip
@click.option(
    "--knn-temperature", type=click.FloatRange(min=0, min_open=True), default=0.1, show_default=True,
    help="τ of the weighted vote.",
)  # fmt: skip
@click.option(
    "--augmentation", type=click.Choice(["none", "crop", "expert"]), default=None,
    help="Of the probe's training images: none (features are computed once), crops and flips, or the whole "
    "expert transform.  [default: none]",
)  # fmt: skip
@click.option(
    "--probe-seeds", "num_seeds", type=click.IntRange(min=1), default=None, help="[default: the recipe's, 5]"
)
@click.option(
    "--probe-epochs", "epochs", type=click.IntRange(min=1), default=None, help="[default: the recipe's, 100]"
)
@click.option(
    "--probe-learning-rate", "learning_rate", type=float, default=None, help="[default: the recipe's]"
)
@click.option("--seed", default=0, show_default=True, help="Of the probes.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=512, show_default=True,
    help="Images embedded at once.",
)  # fmt: skip
@options_file()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def eval(
    run: Path,
    as_json: bool,
    augmentation: str | None,
    num_seeds: int | None,
    epochs: int | None,
    learning_rate: float | None,
    **options: Any,
) -> None:
    """Evaluate RUN, the folder of a `viewgen train` or an encoder file.

    Linear probe (mean ± standard deviation over its seeds, after its last epoch) and nearest neighbours on
    the frozen backbone's features, learned from the train split and measured on the test split: a majority
    vote, a weighted vote, and the nearest class centre. Ranks and deviations tell whether the features have
    collapsed. The result is written to evaluation.json in RUN.

    \b
    Examples:
      viewgen eval runs/digits-A2
      viewgen eval runs/digits-A2 --weights best -k 20 --knn-temperature 0.07 --json
      viewgen eval runs/cifar10/encoder.safetensors --dataset cifar100
    """
    from viewgen.progress import Progress
    from viewgen_train.evaluate import evaluate

    given = {
        "augmentation": augmentation, "num_seeds": num_seeds, "epochs": epochs, "learning_rate": learning_rate
    }  # fmt: skip
    settings = {name: value for name, value in given.items() if value is not None}
    with Progress().steps() as report:
        document = evaluate(run, settings=settings, report=report, **options)
    if as_json:
        print_json(document)
    else:
        _print_table(document)


def _print_table(document: dict[str, Any]) -> None:
    dataset, probe = document["dataset"], document["probe"]
    click.echo(f"{document['weights']['file']}{_training(document)}")
    images = f"learned from {dataset['train']:,} images, measured on {dataset['test']:,} test images"
    click.echo(f"{dataset['name']}: {images}")
    if "top1" in document:
        _print_classes(document)
    if "reals" in document:
        _print_reals(document["reals"])
    if "top1" in document:
        seeds = f"{probe['num_seeds']} seeds" if probe["num_seeds"] > 1 else "1 seed"
        rate = f"learning rate {probe['learning_rate']:g} ({probe['schedule']})"
        augmentation = "" if probe["augmentation"] == "none" else f", augmentation {probe['augmentation']}"
        click.echo(
            f"probe: {probe['epochs']} epochs of SGD, {rate}, batch {probe['batch_size']}, "
            f"{seeds}{augmentation}"
        )
    collapse = document["collapse"]
    names = {
        "rankme": "RankMe", "effective_rank": "effective rank", "feature_sd": "deviation of features",
        "projection_sd": "of projections",
        "alignment": "alignment", "uniformity": "uniformity",
    }  # fmt: skip
    click.echo(", ".join(f"{text} {collapse[name]:.3g}" for name, text in names.items() if name in collapse))
    for note in document["notes"]:
        click.echo(f"note: {note}")
    if (i_nce := document.get("i_nce")) is not None:
        beside = "" if i_nce["training"] is None else f"; in training {i_nce['training']:.2f}"
        near = ", within 1 nat of which it says at least so much" if i_nce["saturated"] else ""
        click.echo(
            f"I_NCE of the views {i_nce['nats']:.2f} nats ({i_nce['low']:.2f} … {i_nce['high']:.2f}) on "
            f"{i_nce['images']:,} held-out images, at most ln {i_nce['candidates']} = "
            f"{i_nce['ceiling']:.2f}{near}{beside}"
        )
    elif (in_training := document.get("i_nce_training")) is not None:
        ceiling = document["i_nce_training_ceiling"]
        near = ", within 1 nat of which it says at least so much" if in_training > ceiling - 1 else ""
        click.echo(f"I_NCE of the views {in_training:.2f} nats in training, at most {ceiling:.2f}{near}")
    if collapse["warning"] is not None:
        click.echo(f"warning: {collapse['warning']}")
    click.echo(f"{document['images_per_second']:,.0f} images/s embedded, {document['seconds']:.1f} s in all")


def _print_classes(document: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from viewgen.terminal import console

    columns = {**document.get("attributes", {}), "mean" if "attributes" in document else "accuracy": document}
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row(
        "linear probe",
        *(f"{100 * part['top1']:.2f} ± {100 * part['top1_sd']:.2f} %" for part in columns.values()),
    )
    if any("top5" in part for part in columns.values()):
        row = (f"{100 * part['top5']:.2f} %" if "top5" in part else "" for part in columns.values())
        table.add_row("linear probe, top-5", *row)
    for metric, accuracies in document["knn"].items():
        for k in accuracies:
            row = (f"{100 * part['knn'][metric][k]:.2f} %" for part in columns.values())
            table.add_row(f"{k}-NN {metric}", *row)
    vote = document["weighted_knn"]
    rows = {
        "weighted_knn_top1": f"{vote['neighbours']}-NN weighted, τ {vote['temperature']:g}",
        "centre_top1": "nearest centre",
    }
    for key, title in rows.items():
        table.add_row(title, *(f"{100 * part[key]:.2f} %" for part in columns.values()))
    click.echo()
    console(width=max(80, 24 + 22 * len(columns))).print(table)
    click.echo()


def _print_reals(reals: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from viewgen.terminal import console

    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, header_style="bold")
    for title in ("", *reals):
        table.add_column(title, justify="right" if title else "left")
    table.add_row("linear regression R²", *(f"{values['r2']:.3f}" for values in reals.values()))
    table.add_row("root mean squared error", *(f"{values['rmse']:.4g}" for values in reals.values()))
    for metric, neighbours in next(iter(reals.values()))["knn_r2"].items():
        for k in neighbours:
            row = (f"{values['knn_r2'][metric][k]:.3f}" for values in reals.values())
            table.add_row(f"{k}-NN {metric} R²", *row)
    click.echo()
    console(width=max(80, 24 + 22 * len(reals))).print(table)
    click.echo()


def _training(document: dict[str, Any]) -> str:
    parts = []
    if document["epochs"] is not None:
        parts.append(f"{document['epochs']:g} epochs")
    if document["loss"] is not None:
        parts.append(f"loss {document['loss']:.4g}")
    return f"  ({', '.join(parts)})" if parts else ""
