"""The option ``--storage-option`` that every command with a URL takes."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["storage_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _parse(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    from viewgen.store import parse_storage_options

    return parse_storage_options(pairs)


def storage_option(command: _Command) -> _Command:
    """Add ``--storage-option KEY=VALUE``, repeatable; the command receives the dict `storage_options`."""
    return click.option(
        "--storage-option",
        "storage_options",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_parse,
        help="Option of the fsspec file system, such as anon=true or client_kwargs.endpoint_url=http://host.",
    )(command)
