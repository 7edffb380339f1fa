"""``viewgen train``."""

import signal
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import GroupedCommand, add_options, augment_option
from viewgen.cli.setting_options import config_option, given_settings, set_option
from viewgen.cli.storage_option import storage_option

__all__ = ["train"]

_option = click.option


def _loggers(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Return the names in a list with commas."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


_OPTIONS = (
    _option("--dataset", metavar="D", help="Data set.  [default: that of the cache]"),
    _option("--assimilation", metavar="A",
            help="none, A1 or A2 over an objective; A2-simclr, A2-full and A2-simsiam are A2 over simclr, "
            "supcon and simsiam.  [default: A2]"),
    _option("--objective", metavar="O",
            help="One of `viewgen list objectives`: simclr, moco, byol ...  [default: the recipe's; infonce "
            "for A2]"),
    _option("--ifm-epsilon", type=float, metavar="F",
            help="IFM over an objective with negatives: ε, perturbation of positives and negatives; --set "
            "ifm_alpha=… and ifm_only=true weigh it.  [default: 0, off]"),
    _option("--hardness", type=float, metavar="F",
            help="Hard negatives over an objective with negatives: β, with --set class_prior=… and "
            "hardness_annealing=true.  [default: 0, off]"),
    _option("--reconstruction", metavar="TASK",
            help="RCL: inpainting, colorization or autoencoding beside the objective, with --set "
            "reconstruction_weight=… and reconstruction_epochs=… (a warm-up).  [default: none]"),
    _option("--recipe", metavar="R",
            help="Settings of a published training, one of `viewgen list recipes`, which other flags "
            "override."),
    _option("--generated", metavar="G",
            help="Where generated views come from: cache, wperturb, viewmaker, online, expert, or a "
            "plug-in's view source.  [default: cache; expert for none]"),
    _option("--cache", metavar="URL",
            help="Cache of views.  [default: the complete one that changed last in $VIEWGEN_CACHE, or, "
            "without that, in the user's cache folder, the working directory and the folders in it]"),
    _option("--out", metavar="RUN", help="Folder of the run.  [default: runs/...]"),
    _option("--epochs", type=int, metavar="N", help="Passes over the images.  [default: the recipe's, or by "
            "their number]"),
    _option("--batch-size", type=int, metavar="N", help="Images of a step, over all workers."),
    augment_option("Operations of the expert views"),
    set_option("A setting that differs from the data set's recipe; repeatable. --dry-run lists them all."),
    config_option(),
    _option("--seed", type=int, metavar="N", help="Root of all random numbers.  [default: 0]"),
    _option("--overwrite", is_flag=True, help="Start afresh instead of resuming."),
    _option("--previous-checkpoint", is_flag=True,
            help="Go on from the checkpoint before the last one, for a last one that is damaged."),
    _option("--dry-run", is_flag=True,
            help="Print the settings with an estimate of time and memory, from a few measured steps."),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "Images",
    _option("--split", default="train", show_default=True, help="Images to train on."),
    _option("--limit", type=int, metavar="N", help="Only the first N images."),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    _option("--use-unconverged", is_flag=True, help="Use the views of images that did not converge too; "
            "otherwise an expert view takes their place."),
    "Views made in the training step",
    _option("--inversions", metavar="URL",
            help="wperturb, online: cache of inversions.  [default: as --cache]"),
    _option("--generator", type=click.Path(dir_okay=False),
            help="wperturb, online: weights that replace the data set's own."),
    _option("--models", metavar="DIR", help="wperturb, online: folder of a `viewgen pretrain` run."),
    "Execution",
    _option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …"),
    _option("--gpus", type=int, metavar="N", help="Train on N GPUs, through Ray Train."),
    _option("--workers", type=int, metavar="N", help="Train with N processes on the CPU, likewise."),
    _option("--checkpoint-seconds", type=float, default=60.0, show_default=True, metavar="SECONDS",
            help="Pause between checkpoints."),
    _option("--logger", "loggers", metavar="LIST", callback=_loggers,
            help="Where metrics go, of csv (always), tensorboard, wandb, mlflow, with commas between.  "
            "[default: csv, and tensorboard where it is installed]"),
    _option("--evaluate/--no-evaluate", default=True, show_default=True,
            help="Linear probe and nearest neighbours at the end."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@add_options(_OPTIONS)
@storage_option
def train(
    as_json: bool,
    dry_run: bool,
    settings: dict[str, Any],
    config: dict[str, Any],
    assimilation: str | None,
    objective: str | None,
    ifm_epsilon: float | None,
    hardness: float | None,
    reconstruction: str | None,
    recipe: str | None,
    generated: str | None,
    epochs: int | None,
    batch_size: int | None,
    seed: int | None,
    augment: str | None,
    **options: Any,
) -> None:
    """Train an encoder on expert and generated views.

    The same command goes on where an interrupted training ended. The run's folder holds the weights
    (last.safetensors, best.safetensors), metrics.csv, curves.png and TensorBoard events.

    \b
    Examples:
      viewgen train --assimilation A2
      viewgen train --dataset cifar100 --assimilation A1 --cache views.zarr --out runs/a1
      viewgen train --assimilation A2 --objective supcon --set objective.temperature=0.2
      viewgen train --assimilation A2 --objective simclr --ifm-epsilon 0.1 --hardness 1
      viewgen train --dataset overlay --assimilation none --reconstruction inpainting
      viewgen train --dataset cifar10 --recipe solo-learn-moco --out runs/moco
      viewgen train --dataset cifar10 --assimilation none --augment abcde
      viewgen train --dataset cifar10 --assimilation A2 --set alpha=1.0 --dry-run
    """
    named = {
        "assimilation": assimilation,
        "objective": objective,
        "ifm_epsilon": ifm_epsilon,
        "hardness": hardness,
        "reconstruction": reconstruction,
        "recipe": recipe,
        "generated": generated,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "augment": augment,
    }
    config = {name.removeprefix("train."): value for name, value in config.items()}
    options["settings"] = given_settings(config, settings, named)
    if dry_run:
        _dry_run(as_json, options)
        return
    from viewgen_train.training import train as run

    try:
        result = run(**options)
    except (KeyboardInterrupt, SystemExit) as ending:
        click.echo("stopped; run the same command again to go on from the last checkpoint", err=True)
        raise SystemExit(ending.code if isinstance(ending, SystemExit) else 128 + signal.SIGINT) from None
    if as_json:
        print_json(result.to_json())
        return
    click.echo(result.run)
    for line in result.lines():
        click.echo(f"  {line}", err=True)


def _dry_run(as_json: bool, options: dict[str, Any]) -> None:
    from viewgen_train.dry_run import describe

    # of a run that does not begin, neither its folder nor its checkpoints nor its end matter
    gone = (
        "out",
        "overwrite",
        "previous_checkpoint",
        "checkpoint_seconds",
        "evaluate",
        "use_unconverged",
        "loggers",
    )
    for name in gone:
        options.pop(name)
    description = describe(**options)
    if as_json:
        print_json(description.to_json())
    else:
        click.echo("\n".join(description.lines()))
