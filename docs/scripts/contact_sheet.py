"""Draws the contact sheet of a cache without making the cache: ``python docs/scripts/contact_sheet.py OUT``.

A view is a function of (seed, image, view), so the rows of the sheet are those of
``viewgen cache --dataset digits --method wsearch``, up to rounding.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from viewgen.contact_sheet import write_contact_sheet
from viewgen.datasets import load_dataset
from viewgen.networks.files import load_models
from viewgen.networks.weights import find_models
from viewgen.views import VIEWS
from viewgen.views.entry import Resources
from viewgen.views.offline import offline_step
from viewgen_pipelines.sheet import NUM_ROWS


def step_of(method: str, dataset: str, num_views: int, settings: dict[str, Any]) -> Any:
    """Return the step of a method with the data set's own networks."""
    choice = VIEWS.resolve(method, dataset, settings)
    kinds = choice.entry.uses(choice.settings) - {"inversions"}
    resources = Resources(models=load_models(find_models(dataset, kinds), "cpu"))
    return offline_step(choice.build(resources), resources, seed=0, num_views=num_views)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dataset", default="digits", show_default=True)
@click.option("--method", default="wsearch", show_default=True)
@click.option("--rows", default="", help="Images, separated by commas.  [default: the sheet of the cache]")
@click.option("--views", "num_views", default=8, show_default=True)
@click.option("--radius", type=float, help="Of wsearch.")
def main(out: Path, dataset: str, method: str, rows: str, num_views: int, radius: float | None) -> None:
    """Make the views of a few images and draw them."""
    torch.set_num_threads(1)
    images = load_dataset(dataset, "train")
    index = np.linspace(0, len(images) - 1, NUM_ROWS).astype(np.int64)
    if rows:
        index = np.array([int(row) for row in rows.split(",")])
    batch = images.batch(index)
    inverted = step_of("invert", dataset, 1, {})(batch)
    batch |= {"anchor_w_plus": inverted["anchor_w_plus"], "anchor_error": inverted["inversion_error"]}
    settings = {} if radius is None else {"radius": radius}
    made = step_of(method, dataset, num_views, settings)(batch)
    write_contact_sheet(
        out,
        dataset=images,
        rows=index,
        views=made["views"],
        distances=made["distance"],
        reconstructions=inverted["views"][:, 0],
        method=method,
        epsilon_boundary=VIEWS.resolve(method, dataset, settings).settings.epsilon_boundary,
    )
    moved = made["w_plus"] - batch["anchor_w_plus"][:, None]
    rms = np.sqrt(np.square(moved).reshape(*moved.shape[:2], -1).mean(axis=2))
    for row, status, lengths in zip(index, made["status"], rms, strict=True):
        click.echo(f"#{row}: status {status}, rms of codes {' '.join(f'{x:.3f}' for x in lengths)}")


if __name__ == "__main__":
    main()
