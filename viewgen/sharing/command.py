"""`viewgen push` and `viewgen pull` as functions."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.documents import parse_json
from viewgen.errors import CorruptDataError, ModelError, UsageError
from viewgen.export.card import cache_card, weights_card
from viewgen.networks.files import read_header, read_state
from viewgen.progress import Progress
from viewgen.sharing.copying import committed_paths, copy_cache, copy_files, weight_files
from viewgen.sharing.hub import HubPlace, download, hub_place, upload
from viewgen.store import LocalStorage, Storage, open_storage, read_spec, summarise_cache, verify_cache

__all__ = ["Shared", "pull", "push"]

CARD = "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """Result of a copy.

    Attributes:
        kind: ``"cache"`` or ``"weights"``.
        source, target: URLs.
        copied: shards of a cache, or files of weights, that were copied now.
        there: shards or files in the target.
    """

    kind: str
    source: str
    target: str
    copied: int
    there: int


def push(
    source: str,
    target: str,
    *,
    overwrite: bool = False,
    private: bool = False,
    storage_options: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Shared:
    """Copy a cache or a folder of weights to another place, with a card.

    A cache arrives shard by shard, each compared with its digest and readable at once; the same call goes on
    where an earlier one ended. On the hub all files arrive in one commit.

    Args:
        source: URL of a cache, or folder of weights; for the hub on this machine.
        target: URL of any file system of fsspec, ``hf://datasets/OWNER/NAME`` for a cache, or
            ``hf://OWNER/NAME`` for weights.
        overwrite: True to replace weights in the target.
        private: True to make a new repository of the hub private.
        storage_options: options of fsspec, for both URLs.
        quiet: True to show no progress.

    Raises:
        MissingFileError: there is neither a cache nor weights at the source.
        CorruptDataError: an object of the cache differs from its record.
        CacheMismatchError: the target holds another cache.
        UsageError: the target holds other weights, or is of the wrong kind.
        StorageError: the target cannot be written.
        MissingExtraError: the hub's library is not installed.
    """
    place, from_ = hub_place(target), open_storage(source, storage_options)
    is_cache = from_.exists("zarr.json")
    kind = "cache" if is_cache else "weights"
    card = _cache_card(source, target, storage_options) if is_cache else _weights_card(from_)
    names = committed_paths(from_) if is_cache else weight_files(from_)
    if overwrite and is_cache:
        raise _overwrites_no_cache(from_)
    if place is not None:
        if overwrite:
            raise UsageError("overwrite is for folders and buckets; the hub's history keeps what was there")
        return _push_to_hub(place, from_, kind, names, card, private=private)
    if private:
        raise UsageError("private is for the hub, hf://; who can read another place is settled there")
    to = open_storage(target, storage_options)
    if not is_cache:
        copied = copy_files(from_, to, names, overwrite=overwrite, also=card)
        return Shared(kind=kind, source=from_.url, target=to.url, copied=copied, there=len({*names, *card}))
    copied, there = _copy(from_, to, quiet)
    for name, data in card.items():
        to.write(name, data)
    return Shared(kind=kind, source=from_.url, target=to.url, copied=copied, there=there)


def pull(
    source: str,
    target: str,
    *,
    overwrite: bool = False,
    storage_options: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Shared:
    """Copy a cache or a folder of weights from another place; arguments and errors as for `push`.

    A cache from the hub appears complete and verified, or not at all.
    """
    place = hub_place(source)
    if place is not None:
        return _pull_from_hub(place, target, overwrite=overwrite)
    from_, to = open_storage(source, storage_options), open_storage(target, storage_options)
    if not from_.exists("zarr.json"):
        names = weight_files(from_)
        copied = copy_files(from_, to, names, overwrite=overwrite)
        return Shared(kind="weights", source=from_.url, target=to.url, copied=copied, there=len(names))
    if overwrite:
        raise _overwrites_no_cache(from_)
    copied, there = _copy(from_, to, quiet)
    if from_.exists(CARD):
        to.write(CARD, from_.read(CARD))
    return Shared(kind="cache", source=from_.url, target=to.url, copied=copied, there=there)


def _overwrites_no_cache(source: Storage) -> UsageError:
    return UsageError(f"--overwrite is for weights, and {source.url} is a cache; give another target")


def _copy(source: Storage, target: Storage, quiet: bool) -> tuple[int, int]:
    """Copy a cache; return the number of shards that were copied, and that are there."""
    there = 0
    progress = Progress(quiet=quiet, logger=__name__)
    with progress.bar(f"copying {source.url}", read_spec(source).num_shards, unit="shards") as bar:

        def tell(done: int) -> None:
            nonlocal there
            there = done
            bar.update(done)

        copied = copy_cache(source, target, tell)
    return copied, there


def _push_to_hub(
    place: HubPlace, source: Storage, kind: str, names: list[str], card: dict[str, bytes], *, private: bool
) -> Shared:
    expected = "dataset" if kind == "cache" else "model"
    if place.kind != expected:
        other = f"hf://{'datasets/' if expected == 'dataset' else ''}{place.name}"
        raise UsageError(f"{place} is a repository of another kind; a source of this kind goes to {other}")
    if not isinstance(source, LocalStorage):
        raise UsageError(f"{source.url} is not on this machine; `viewgen pull` it first, then push the copy")
    count = upload(place, source, names, card, private=private)
    return Shared(kind=kind, source=source.url, target=str(place), copied=count, there=count)


def _pull_from_hub(place: HubPlace, target: str, *, overwrite: bool) -> Shared:
    folder = Path(target).expanduser().absolute()
    if "://" in target:
        raise UsageError(f"{target} is not on this machine; pull to a folder, then `viewgen push` it there")
    if overwrite and place.kind == "dataset":
        raise UsageError(f"--overwrite is for weights, and {place} is a data set; give another folder")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not overwrite)):
        advice = "" if place.kind == "dataset" else ", or --overwrite to replace weights in it"
        raise UsageError(f"{folder} exists already; give another folder{advice}")
    stage = download(place, folder)
    staged = LocalStorage(stage)
    if staged.exists("zarr.json"):
        if overwrite:
            raise UsageError(f"--overwrite is for weights, and {place} is a cache; give another folder")
        report = verify_cache(str(stage))
        if report.faults:
            first = report.faults[0]
            raise CorruptDataError(
                f"{place} is damaged: {len(report.faults)} objects differ from their records, for example "
                f"{first.path} ({first.detail}); what was downloaded is in {stage}"
            )
        kind, there = "cache", report.committed
    else:
        kind, names = "weights", weight_files(staged)
        for name in names:
            if name.endswith(".safetensors"):
                _check_weights(stage / name)
        there = len(names)
    _move(stage, folder)
    return Shared(kind=kind, source=str(place), target=str(folder), copied=there, there=there)


def _move(stage: Path, folder: Path) -> None:
    """Move what was downloaded to its folder, by one rename where the folder is not there.

    A folder that is there stays the same one: it may be the working folder. What its files are found by, a
    cache's zarr.json and networks, comes last.
    """
    if not folder.exists():
        os.rename(stage, folder)
        return
    files = [file for file in stage.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.suffix == ".safetensors" or file == stage / "zarr.json"):
        there = folder / file.relative_to(stage)
        there.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, there)
    shutil.rmtree(stage)


def _cache_card(source: str, target: str, storage_options: dict[str, Any] | None) -> dict[str, bytes]:
    """Return the card of a cache, as the only entry."""
    place = hub_place(target)
    where = str(place) if place is not None else open_storage(target, storage_options).url
    how_to_read = (
        "A cache of [Zarr v3](https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html) shards.\n\n"
        f"```console\nviewgen pull {where} views.zarr\nviewgen show views.zarr\n```\n\n"
        '```python\nimport viewgen\n\ndataset = viewgen.ViewDataset("views.zarr", views=2)\n```'
    )
    summary = summarise_cache(source, storage_options)
    return {CARD: cache_card(summary, how_to_read).encode()}


def _weights_card(source: Storage) -> dict[str, bytes]:
    """Return the card of a folder of weights as the only entry; nothing if it has one."""
    if source.exists(CARD):
        return {}
    cards = {}
    for name in source.paths():
        if "/" not in name and name.endswith(".card.json"):
            document = parse_json(source.read(name), f"{source.url}/{name}")
            if isinstance(document, dict):
                cards[name.removesuffix(".card.json")] = document
    if not cards and source.exists("config.json") and source.exists("last.safetensors"):
        raise UsageError(
            f"{source.url} is the folder of a training; write its encoder with a card first: viewgen "
            "export RUN --to hf --out DIR, and push that"
        )
    return {CARD: weights_card(cards).encode()}


def _check_weights(path: Path) -> None:
    """Raise CorruptDataError or ModelError if a file of ours is damaged; others are not looked at."""
    try:
        read_header(path)
    except ModelError as error:
        if "no viewgen header" in str(error):
            return
        raise
    read_state(path)
