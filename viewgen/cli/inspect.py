"""``viewgen inspect``."""

from typing import Any

import click

from viewgen.cli import print_json
from viewgen.cli.options import add_options
from viewgen.cli.storage_option import storage_option

__all__ = ["inspect"]

_option = click.option
_OPTIONS = (
    _option("--compare", multiple=True, metavar="URL",
            help="A further cache of the same images, to set beside it; repeatable."),
    _option("--static", metavar="DIR", help="Write the pages as plain files there, and serve nothing."),
    _option("--images", type=int, metavar="N", help="With --static: so many images.  [default: 200]"),
    _option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Listen there."),
    _option("--expose", is_flag=True, help="Allow a --host that others can reach; a token is printed."),
    _option("--port", type=int, metavar="N", help="[default: 8000, or a free one if that is taken]"),
    _option("--allow-host", "allow_hosts", multiple=True, metavar="NAME",
            help="A further name under which browsers ask for the gallery; repeatable."),
    _option("--ray-address", metavar="HOST:PORT", help="Join a cluster; auto: the one of this machine."),
    _option("--data-root", envvar="VIEWGEN_DATA", metavar="DIR", help="Where data sets are."),
    _option("--inversions", metavar="URL", help="Cache of inversions.  [default: beside the cache]"),
    _option("--models", metavar="DIR", help="Folder of the `viewgen pretrain` run that made the networks."),
    _option("--json", "as_json", is_flag=True, help="Print one JSON object once the gallery answers."),
)  # fmt: skip


@click.command()
@click.argument("url")
@add_options(_OPTIONS)
@storage_option
def inspect(url: str, as_json: bool, **options: Any) -> None:
    """Look at the cache at URL in a browser; it may still be growing.

    Starts Ray (or joins it) and serves a gallery, listed on the Ray dashboard's Serve tab, until Ctrl-C.

    \b
    Examples:
      viewgen inspect views.zarr
      viewgen inspect wsearch.zarr --compare wperturb.zarr --compare wboundary.zarr
      viewgen inspect s3://bucket/views.zarr --static gallery
    """
    from viewgen_pipelines.inspecting import inspect as look_at

    def say(line: str) -> None:
        click.echo(line, err=True)

    def ready(served: Any) -> None:
        if as_json:
            print_json({"url": served.url, "application": served.application, "token": served.token})
        else:
            say("Ctrl-C ends it")

    try:
        page = look_at(url, say=say, ready=ready, **options)
    except KeyboardInterrupt:
        click.echo("the gallery has ended", err=True)
        raise SystemExit(130) from None
    if page is not None:
        if as_json:
            print_json({"url": page.absolute().as_uri(), "application": None, "token": None})
        else:
            click.echo(str(page))
