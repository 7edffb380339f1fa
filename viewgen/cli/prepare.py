"""``viewgen prepare``."""

import signal
import sys
from pathlib import Path
from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.cache import say_what_comes_next
from viewgen.cli.options import GroupedCommand, add_options
from viewgen.cli.setting_options import config_option, set_option

__all__ = ["prepare"]

_option = click.option
_OPTIONS = (
    _option("--dataset", required=True, metavar="D",
            help="Data set; `viewgen datasets` lists them. folder:PATH is a folder of pictures."),
    _option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
            help="Folder of networks, plan and cache.  [default: runs/NAME]"),
    _option("--networks", type=click.Choice(["small", "medium", "large"]),
            help="Sizes of networks and lengths of trainings.  [default: by the number of images]"),
    set_option("A choice of the plan, for example encoder.num_steps=2000, cache.views=4, gates.noise=0.3; "
               "repeatable."),
    config_option(),
    _option("--yes", is_flag=True, help="Begin without asking."),
    _option("--dry-run", is_flag=True,
            help="Look at the data, print plan and cost; writes no more than decoded pictures."),
    _option("--estimate/--no-estimate", default=True, envvar="VIEWGEN_ESTIMATE",
            help="Estimate the time, from a few steps.  [default: estimate]"),
    _option("--overwrite", is_flag=True, help="Train again what differs from the plan."),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    "Images",
    _option("--split", metavar="S", help="Images to train on.  [default: train]"),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    _option("--seed", type=int, metavar="N", help="Root of all random numbers.  [default: 0]"),
    "Execution",
    _option("--device", default="auto", show_default=True, help="Of the trainings: auto, cpu, cuda …"),
    _option("--executor", type=click.Choice(["ray", "local"]), default=None,
            help="Of the cache.  [default: ray where it is installed]"),
    _option("--workers", type=int, metavar="N", help="Of the cache: shards made at once."),
    _option("--quality/--no-quality", default=True, envvar="VIEWGEN_QUALITY",
            help="Measure a sample of the views at the end.  [default: quality]"),
    _option("--strict", is_flag=True, help="Exit with 1 if the views cannot be trusted."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@add_options(_OPTIONS)
def prepare(
    as_json: bool,
    yes: bool,
    executor: str | None,
    config: dict[str, Any],
    settings: dict[str, Any],
    **options: Any,
) -> None:
    """Train all networks that a data set's views need by one plan, then make the views.

    Looks at the data, plans, says what it costs and asks. Then: encoder, ε₁, generator, inverter, cache, with
    a gate behind each training. The same command goes on where an interrupted run ended. Every choice is in
    DIR/prepare.toml, which can be edited, or given to another run with --config.
    Exit code 0: complete; 1: a gate was not passed, or with --strict the views cannot be trusted; 3: the
    folder holds networks of another plan; 4: some images could not be made.

    \b
    Examples:
      viewgen prepare --dataset folder:photos --dry-run
      viewgen prepare --dataset "folder:photos?size=32&test=0.2" --yes
      viewgen prepare --dataset cifar100 --out runs/cifar100 --set cache.views=4
    """
    from viewgen.errors import IncompleteError, ViewgenError
    from viewgen.extras import installed
    from viewgen_pretrained.prepare import prepare as run

    if executor is None:
        executor = "ray" if installed("ray") else "local"
    try:
        result = run(
            **options,
            config=config,
            settings=settings,
            executor=executor,  # type: ignore[arg-type]
            confirm=(lambda: True) if yes or options["dry_run"] else _asked,
            command=["viewgen", *sys.argv[1:]],
        )
    except (KeyboardInterrupt, SystemExit) as ending:
        click.echo("stopped; run the same command again to go on from here", err=True)
        raise SystemExit(ending.code if isinstance(ending, SystemExit) else 128 + signal.SIGINT) from None
    if as_json:
        print_json(result.to_json())
    elif result.cache is not None:
        click.echo(result.cache)
        if result.complete and result.plan["cache.method"] != "invert":
            say_what_comes_next(result.cache, split=result.plan["split"], data_root=options["data_root"])
    code = ViewgenError.exit_code if options["strict"] and result.verdict else 0
    click.get_current_context().exit(code if result.complete else IncompleteError.exit_code)


def _asked() -> bool:
    """Ask whether to begin; without a terminal that is an error."""
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on; give --yes to begin, or --dry-run to look")
    return click.confirm("begin?", default=True, err=True)
