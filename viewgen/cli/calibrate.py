"""``viewgen calibrate``: measure ε₁."""

from pathlib import Path

import click

from viewgen.cli import print_json
from viewgen.cli.options import augment_option, options_file

__all__ = ["calibrate"]


@click.command()
@click.option("--dataset", required=True, help="Data set; `viewgen datasets` lists them.")
@click.option("--split", default="train", show_default=True, help="Images to measure.")
@click.option("--data-root", default=None, envvar="VIEWGEN_DATA", help="Where data sets are.")
@click.option("--encoder", default=None, type=click.Path(dir_okay=False), help="Weights of the encoder f.")
@click.option(
    "--models",
    default=None,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of a `viewgen pretrain` run.  [default: the weights that ship for the data set]",
)
@click.option(
    "--num-images", default=1000, show_default=True, type=click.IntRange(min=2), help="Sample size."
)
@click.option(
    "--num-views",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    help="Expert views of every image.",
)
@augment_option("Operations of the expert views")
@click.option("--seed", default=0, show_default=True, help="Of the sample and the views.")
@options_file()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(
    dataset: str,
    split: str,
    data_root: str | None,
    encoder: str | None,
    models: Path | None,
    num_images: int,
    num_views: int,
    augment: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure ε₁, the mean distance ‖f(x) − f(t(x))‖ between an image and its expert views.

    `viewgen cache --epsilon-boundary auto` uses the same number.

    \b
    Examples:
      viewgen calibrate --dataset digits
      viewgen calibrate --dataset cifar10 --models runs/cifar10 --num-images 5000 --json
    """
    from viewgen.device import resolve_device
    from viewgen.diagnostics.calibration import CalibrationConfig, CalibrationOfEpsilon
    from viewgen.diagnostics.subjects import SubjectArguments
    from viewgen.networks.files import file_digest
    from viewgen.views.compositions import refuse_colorless

    arguments = SubjectArguments(
        kind="dataset",
        subject=dataset,
        split=split,
        data_root=data_root,
        models=None if models is None else str(models),
        networks={"encoder": encoder} if encoder else {},
        augment=augment,
    )
    path = arguments.find("encoder")
    subject = arguments.open(device=resolve_device())
    images = subject.train
    refuse_colorless(augment, images)
    config = CalibrationConfig(num_images=num_images, num_views=num_views)
    measured = CalibrationOfEpsilon(config).found(subject, seed)
    if as_json:
        print_json(
            {
                "dataset": images.name,
                "split": images.split,
                "epsilon_boundary": measured.epsilon_boundary,
                "standard_deviation": measured.standard_deviation,
                "quantiles": dict(
                    zip(("0.05", "0.25", "0.5", "0.75", "0.95"), measured.quantiles, strict=True)
                ),
                "different_images": measured.different_images,
                "num_images": measured.num_images,
                "num_views": measured.num_views,
                "seed": seed,
                "encoder": str(path),
                "encoder_digest": file_digest(path),
                **({} if augment is None else {"augment": augment}),
            }
        )
        return
    spread = " · ".join(f"{value:.3f}" for value in measured.quantiles)
    rows = (
        ("ε₁", f"{measured.epsilon_boundary:.3f} ± {measured.standard_deviation:.3f}"),
        ("5 · 25 · 50 · 75 · 95 %", spread),
        ("two different images", f"{measured.different_images:.3f}"),
        ("measured", f"{measured.num_images:,} images × {measured.num_views} views of {images.name} {split}"),
        ("encoder", str(path)),
        *(() if augment is None else (("augment", augment),)),
    )
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
