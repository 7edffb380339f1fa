"""``viewgen pretrain``: train the networks that make views."""

import sys
from pathlib import Path
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import GroupedCommand, add_options, options_file, parse_settings
from viewgen.cli.setting_options import given_settings
from viewgen.device import resolve_device

__all__ = ["pretrain"]


def _network(flag: str, what: str) -> Any:
    return click.option(flag, default=None, type=click.Path(dir_okay=False), help=what)


def _options(*own: Any, heading: str = "Networks") -> tuple[Any, ...]:
    """Return the options of a command, in the order of its help, with its own under a heading."""
    return (
        click.option("--dataset", required=True, help="Data set; `viewgen datasets` lists them."),
        click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path),
                     help="Run folder."),
        click.option("--overwrite", is_flag=True, help="Start afresh instead of resuming."),
        click.option("--dry-run", is_flag=True,
                     help="Print the settings with an estimate of time and memory, from a few measured "
                     "steps; write nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print the model card as one JSON object."),
        "Images",
        click.option("--split", default="train", show_default=True, help="Images to train on."),
        click.option("--data-root", default=None, envvar="VIEWGEN_DATA", help="Where data sets are."),
        "Training",
        click.option("--seed", default=0, show_default=True),
        click.option("--set", "settings", multiple=True, callback=parse_settings, metavar="NAME=VALUE",
                     help="A training setting that differs from the data set's recipe; repeatable."),
        options_file(),
        *((heading, *own) if own else ()),
        "Execution",
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …"),
        click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32",
                     show_default=True, help="Storage type of the weights."),
    )  # fmt: skip


def _run(
    kind: str,
    *,
    device: str,
    seed: int,
    as_json: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    if kind in ("generator", "inverter"):
        # at once, before torch is imported
        from viewgen.sizes import check_known_side

        check_known_side(options["dataset"], options["split"], data_root=options["data_root"])
    device = resolve_device(device)
    options["settings"] = {"seed": seed, **options["settings"]}
    if dry_run:
        _describe(kind, as_json, device=device, **options)
        return
    from viewgen_pretrained import pretrain as trainings

    function = getattr(trainings, f"pretrain_{kind}")
    card = function(device=device, command=["viewgen", *sys.argv[1:]], **options)
    if as_json:
        print_json(card)
        return
    out = options["out"]
    counts = f"{card['parameters']:,} parameters, {card['steps']:,} steps, {card['seconds']} s"
    click.echo(f"{out / card['file']}  {counts}")
    for name, value in card["measured"].items():
        click.echo(f"  {name}: {value}")


def _describe(kind: str, as_json: bool, **options: Any) -> None:
    from viewgen_pretrained.dry_run import describe_pretraining

    # what names no part of a training that does not begin
    for name in ("dtype", "overwrite", "discriminator", "encoder"):
        options.pop(name, None)
    description = describe_pretraining(kind, **options)  # type: ignore[arg-type]
    if as_json:
        print_json(description.to_json())
    else:
        click.echo("\n".join(description.lines()))


@click.group()
def pretrain() -> None:
    """Train a network; run the same command again to go on from its last checkpoint.

    `viewgen prepare` trains all of them by one plan, and makes the cache.

    \b
    Example, in this order:
      viewgen pretrain encoder   --dataset digits --out runs/digits
      viewgen pretrain generator --dataset digits --out runs/digits --encoder runs/digits/encoder.safetensors
      viewgen pretrain inverter  --dataset digits --out runs/digits
      viewgen cache --dataset digits --method wsearch --models runs/digits
    """


@pretrain.command(cls=GroupedCommand)
@add_options(_options())
def encoder(**options: Any) -> None:
    """Train the contrastive encoder f on expert views.

    \b
    Example:
      viewgen pretrain encoder --dataset cifar10 --out runs/cifar10 --device cuda
      viewgen pretrain encoder --dataset cifar10 --out runs/cifar10 --dry-run
    """
    _run("encoder", **options)


@pretrain.command(cls=GroupedCommand)
@add_options(_options(_network("--encoder", "Features for the kernel distance.")))
def generator(**options: Any) -> None:
    """Train StyleGAN2's generator g and its discriminator.

    \b
    Example:
      viewgen pretrain generator --dataset cifar10 --out runs/cifar10 --set num_images=25000000
    """
    _run("generator", **options)


@pretrain.command(cls=GroupedCommand)
@add_options(_options(
    _network("--generator", "By default the one in --out."),
    _network("--discriminator", "By default the one in --out."),
    _network("--encoder", "Features for the measured distance."),
))  # fmt: skip
def inverter(**options: Any) -> None:
    """Train the inverter e: image to W⁺ codes of a frozen generator.

    \b
    Example:
      viewgen pretrain inverter --dataset cifar10 --out runs/cifar10
    """
    _run("inverter", **options)


@pretrain.command(cls=GroupedCommand)
@add_options(_options(
    click.option("--objective", type=click.Choice(["unsupervised", "semi", "supervised"]), default=None,
                 help="Little shared, that and the classes in either view (semi, the default), or the "
                 "classes."),
    click.option("--space", default=None, help="Colour space of the flow's input; YDbDr by default."),
    click.option("--coupling", type=click.Choice(["additive", "affine"]), default=None,
                 help="Blocks that preserve volume (additive, the default) or not (affine)."),
    click.option("--labels", type=int, default=None, help="Images whose classes are used; by default all."),
    heading="Views",
))  # fmt: skip
def views(
    objective: str | None, space: str | None, coupling: str | None, labels: int | None, **options: Any
) -> None:
    """Train a flow of colours whose channels are two views of an image.

    \b
    Example:
      viewgen pretrain views --dataset cifar10 --out runs/views --objective semi --labels 5000
      viewgen train --dataset cifar10 --assimilation none --generated flow --objective infonce \\
        --set views.file=runs/views/flow.safetensors
    """
    flags = {"objective": objective, "space": space, "coupling": coupling, "labels": labels}
    _run("views", **options | {"settings": given_settings({}, options["settings"], flags)})
