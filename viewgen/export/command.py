"""`viewgen export` of a cache, as a function."""

import json
from dataclasses import dataclass
from typing import Any

from viewgen.documents import parse_json
from viewgen.errors import IncompleteError, MissingFileError, UsageError
from viewgen.export.card import cache_card
from viewgen.export.formats import WRITERS, check_installed
from viewgen.export.rows import PICTURES, Rows
from viewgen.progress import Progress
from viewgen.status import Status
from viewgen.store import CacheReader, open_storage, summarise_cache

__all__ = ["FORMATS", "Exported", "export_cache"]

FORMATS = tuple(WRITERS)
MARK = ".viewgen-export.json"
CARD = "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """Result of an export.

    Attributes:
        out: folder or URL of the files.
        format: their format.
        images: images in the export.
        written: images that were written now; the others were there.
        views: views of each image.
    """

    out: str
    format: str
    images: int
    written: int
    views: int


def export_cache(
    url: str,
    out: str,
    to: str,
    *,
    picture: str = "png",
    originals: bool = False,
    use_unconverged: bool = False,
    data_root: str | None = None,
    overwrite: bool = False,
    storage_options: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Exported:
    """Write the views of a cache as files of another format, with a card; go on where an earlier call ended.

    Args:
        url: URL of a complete cache.
        out: path or URL of the folder to fill.
        to: ``"webdataset"``, ``"hf"``, ``"folder"`` or ``"parquet"``.
        picture: ``"png"`` or ``"webp"`` (lossless), or ``"jpg"``.
        originals: True to add the images that the views were made of.
        use_unconverged: True for the images whose search did not converge too.
        data_root: folder of the data sets.
        overwrite: True to delete an earlier export in `out` first.
        storage_options: options of fsspec, for both URLs.
        quiet: True to show no progress.

    Raises:
        UsageError: `out` holds something else, or an export of another cache or with other options.
        IncompleteError: the cache lacks shards.
        MissingExtraError: the format's packages are not installed.
        MissingFileError, DataError: as `viewgen.export.rows.Rows`.
    """
    if to not in WRITERS:
        raise UsageError(f"to is {to!r}; expected one of {', '.join(WRITERS)}")
    if picture not in PICTURES:
        raise UsageError(f"picture is {picture!r}; expected one of {', '.join(PICTURES)}")
    check_installed(to)
    statuses = (Status.OK, Status.NOT_CONVERGED) if use_unconverged else (Status.OK,)
    reader = CacheReader(url, storage_options, statuses=statuses)
    spec = reader.spec
    if missing := spec.num_shards - len(reader.committed):
        raise IncompleteError(
            f"{reader.url} lacks {missing} of {spec.num_shards} shards; the same `viewgen cache` command "
            "makes them, then export it"
        )
    source, target = open_storage(url, storage_options), open_storage(out, storage_options)
    mark = {
        "format": 1,
        "identity": spec.identity,
        "to": to,
        "picture": picture,
        "originals": originals,
        "use_unconverged": use_unconverged,
        **({"roles": [role.name for role in spec.roles]} if spec.roles else {}),
    }
    rows = Rows(reader, source, picture=picture, originals=originals, data_root=data_root)
    _prepare(target, mark, overwrite=overwrite)
    writer = WRITERS[to](rows, target, picture)
    written = 0
    with Progress(quiet=quiet, logger=__name__).bar(
        f"exporting to {to}", spec.num_shards, unit="shards"
    ) as bar:
        for shard_id in reader.committed:
            written += writer.write(shard_id)
            bar.advance(1)
    how_to_read = "\n\n".join(filter(None, (writer.how_to_read(), rows.about_roles)))
    card = cache_card(summarise_cache(url, storage_options), how_to_read)
    target.write(CARD, card.encode())
    return Exported(out=target.url, format=to, images=len(reader), written=written, views=spec.num_views)


def _prepare(target: Any, mark: dict[str, Any], *, overwrite: bool) -> None:
    """Take the folder for an export, or find it to be the same one's."""
    try:
        found = parse_json(target.read(MARK), MARK)
    except MissingFileError:
        found = None
    if found is not None and overwrite:
        for name in target.paths():
            target.delete(name)
    elif found is not None and found != mark:
        keys = [key for key in mark if not isinstance(found, dict) or found.get(key) != mark[key]]
        lines = [f"  {key}: there {dict(found).get(key)!r}, asked {mark[key]!r}" for key in keys]
        raise UsageError(
            "\n".join([f"{target.url} holds another export:", *lines, "give another --out, or --overwrite"])
        )
    elif found is None and (names := target.entries()):
        raise UsageError(
            f"{target.url} is not empty and no export of viewgen (it holds {', '.join(names[:3])}); give "
            "another --out"
        )
    target.write(MARK, json.dumps(mark).encode())
