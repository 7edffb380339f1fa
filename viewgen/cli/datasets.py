"""``viewgen datasets``."""

from dataclasses import asdict
from pathlib import Path

import click

from viewgen.cli import print_json

__all__ = ["datasets"]


@click.command()
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where data sets live.  [default: $VIEWGEN_DATA, then the platform's cache directory]",
)
@click.option("--download", metavar="NAME", help="First fetch this data set and verify its checksums.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def datasets(data_root: Path | None, download: str | None, as_json: bool) -> None:
    """List the data sets: size, classes, source, and whether they are present.

    \b
    Examples:
      viewgen datasets
      viewgen datasets --download cifar10 --data-root /data
    """
    from viewgen.datasets import download_dataset, list_datasets, resolve_data_root

    if download is not None:
        for path in download_dataset(download, data_root):
            click.echo(f"{download}: {path}", err=True)
    root = resolve_data_root(data_root)
    infos = list_datasets(root)
    if as_json:
        print_json({"data_root": str(root), "datasets": [asdict(info) for info in infos]})
        return

    from rich import box
    from rich.table import Table

    from viewgen.terminal import console

    table = Table(box=box.SIMPLE_HEAD, caption=f"data root: {root}", caption_justify="left", pad_edge=False)
    for heading in ("name", "size", "classes", "images", "present", "source"):
        right = heading in ("size", "classes", "images")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "source")
    for info in infos:
        size, classes, images = info.image_size, info.num_classes, sum(info.num_images.values())
        table.add_row(
            info.name,
            f"{size}×{size}" if size else "any",
            str(classes) if classes else "any",
            f"{images:,}" if images else "any",
            {True: "yes", False: "no", None: "–"}[info.present],
            info.source,
        )
    console().print(table)
