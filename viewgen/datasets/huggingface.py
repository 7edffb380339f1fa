"""``hf:NAME_OR_PATH``: a data set of Hugging Face's library, from the hub or from local files.

A local path wins: a folder that `save_to_disk` wrote, a folder of Parquet or Arrow files, or one file. Other
names are those of the hub, whose files the library keeps in its own folder (``HF_HOME``). Each split is
decoded once; a decoded copy is used without asking the hub again. Labels without a list of classes have those
of the train split.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import decoded_folder, load_decoded, read_decoded
from viewgen.datasets.files import absolute, expanded, is_url, open_file, stamp
from viewgen.datasets.labelled import (
    Labelled,
    check_size,
    labelled_blocks,
    labelled_sizes,
    settings_text,
)
from viewgen.errors import CorruptDataError, DataError, MissingFileError, UsageError, ViewgenError
from viewgen.extras import installed, need
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "HuggingFaceSettings"]

IMAGES = ("image", "img", "picture", "jpg", "png", "pixels")
LABELS = ("label", "labels", "class", "cls", "target", "fine_label")
HELD_OUT = ("test", "validation", "valid", "val")
FORMATS = {".parquet": "parquet", ".arrow": "arrow"}


class HuggingFaceSettings(Settings):
    """Data set, and its columns."""

    title: ClassVar[str] = "hf"
    path: str = setting("", "name on the hub, or path or URL of Arrow or Parquet files")
    size: int | None = setting(None, "side in pixels to which pictures are scaled and cropped")
    image: str = setting("", "column of the pictures; by default the one that holds any")
    label: str = setting("", "column of the labels; by default the one of classes")
    config: str = setting("", "configuration of a data set that has several")
    revision: str = setting("", "branch, tag or commit on the hub")


def load(settings: HuggingFaceSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split, decoding it on first use.

    Raises:
        UsageError: no name, an impossible size, no such split or column.
        MissingExtraError: the library is not installed.
        MissingFileError: the data set cannot be found or fetched.
        DataError: no pictures, or of sizes that differ.
        CorruptDataError: a picture or a file is damaged.
    """
    files = _files(settings)
    name = _name(settings, files)
    source, folder = _source(name, split, files), decoded_folder(root, "hf", name, split)
    found = read_decoded(name, split, folder, source)
    if found is not None:
        return found
    need("hf")
    if files is None and not download:
        raise MissingFileError(f"{name}, {split}, has not been fetched from the hub yet")
    splits, chosen = _opened_split(settings, split, name, files)
    columns = _columns(splits[chosen], name, settings)
    own = (
        chosen == "train" or "train" not in splits or columns.label is None or columns.class_names is not None
    )
    train_classes = () if own else load(settings, "train", root, download).class_names
    return load_decoded(
        name,
        split,
        folder,
        source,
        lambda: labelled_blocks(
            _rows(columns, name), name, settings.size, columns.class_names, train_classes
        ),
        num_images=0,
    )


def raw_sizes(settings: HuggingFaceSettings, split: str, most: int, root: Path) -> list[tuple[int, int]]:
    """Return width and height of the first pictures of a split, at most `most`.

    A decoded copy at their own size tells without asking the hub. None are known without the library, or of a
    data set on the hub that cannot be had now.
    """
    files = _files(settings)
    name = _name(settings, files)
    if settings.size is None:
        found = read_decoded(
            name, split, decoded_folder(root, "hf", name, split), _source(name, split, files)
        )
        if found is not None:
            return [(found.image_size, found.image_size)] * min(len(found), most)
    if not installed("hf"):
        return []
    try:
        splits, chosen = _opened_split(settings, split, name, files)
    except MissingFileError:
        if files is None:
            return []
        raise
    return labelled_sizes(_rows(_columns(splits[chosen], name, settings), name), most)


def resized_name(settings: HuggingFaceSettings, image_size: int) -> str:
    """Return the name of the same pictures at another size."""
    return _name(settings.replace(size=image_size), _files(settings))


def _source(name: str, split: str, files: list[str] | None) -> dict[str, Any]:
    """Return the values on which a decoded copy depends."""
    found: dict[str, Any] = {"name": name, "files": None if files is None else [stamp(f) for f in files]}
    return found if split == "train" else found | {"classes": "train"}


def _name(settings: HuggingFaceSettings, files: list[str] | None) -> str:
    """Return the canonical name of the data set."""
    path = settings.path if files is None else absolute(settings.path)
    return f"hf:{path}{settings_text(settings)}"


def _files(settings: HuggingFaceSettings) -> list[str] | None:
    """Return the files of a local path or a URL; None for a name on the hub."""
    check_size(settings.size)
    path = settings.path
    if not path:
        raise UsageError("hf: needs a name or a path, for example hf:cifar10 or hf:/data/flowers")
    if is_url(path):
        if _suffix(path) in FORMATS or "*" in path or "{" in path:
            return expanded(path)
        return [file for suffix in FORMATS for file in _listed(f"{path.rstrip('/')}/*{suffix}")]
    local = Path(path.removeprefix("file://")).expanduser()
    if local.is_file():
        return [str(local)]
    if local.is_dir():
        found = sorted(str(file) for file in local.rglob("*") if file.suffix in (*FORMATS, ".json"))
        if not any(Path(file).suffix in FORMATS for file in found):
            raise DataError(f"{local} holds no Arrow or Parquet files; folder:{local} reads pictures")
        return found
    if path.startswith(("/", ".", "~")):
        raise MissingFileError(f"there is no {local}; expected Arrow or Parquet files, or a name on the hub")
    return None


def _listed(pattern: str) -> list[str]:
    try:
        return expanded(pattern)
    except DataError:
        return []


def _opened(settings: HuggingFaceSettings, files: list[str] | None) -> Mapping[str, Any]:
    """Return split → data set of the library."""
    import datasets

    path = settings.path.removeprefix("file://")
    local = Path(path).expanduser()
    try:
        if files is None:
            chosen = {"name": settings.config or None, "revision": settings.revision or None}
            found: Any = datasets.load_dataset(path, **chosen)
        elif not is_url(path) and (local / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(str(local))
        elif not is_url(path) and (local / "state.json").is_file():
            found = {"train": datasets.load_from_disk(str(local))}
        else:
            tables = [file for file in files if _suffix(file) in FORMATS]
            if not tables:
                raise DataError(f"hf:{path} names no Arrow or Parquet files")
            kind = FORMATS[_suffix(tables[0])]
            # read once, in order: nothing is copied into the library's folder
            found = datasets.load_dataset(kind, data_files=_by_split(tables), streaming=True)
    except ViewgenError:
        raise
    except Exception as error:  # the library's errors are of many kinds
        what = "cannot be read" if files else "is no local path, and cannot be had from the hub"
        raise MissingFileError(
            f"hf:{path} {what} ({type(error).__name__}: {error}); check the name, and the network or a token "
            "if it is on the hub"
        ) from error
    return found if isinstance(found, Mapping) else {"train": found}


def _opened_split(
    settings: HuggingFaceSettings, split: str, name: str, files: list[str] | None
) -> tuple[Mapping[str, Any], str]:
    """Return split → data set of the library, and the canonical name of a split."""
    splits = _opened(settings, files)
    return splits, canonical_split(name, split, _known(splits), _aliases(splits))


def _by_split(files: list[str]) -> dict[str, list[str]]:
    """Return split → files, by a word in the name of a file, ``train-0.parquet``, or else of its folder."""
    found: dict[str, list[str]] = {}
    for file in files:
        parts = reversed(Path(_path(file)).parts[-2:])
        words = [set(re.split(r"[^a-z]+", part.lower())) for part in parts]
        splits = [split for part in words for split in ("train", *HELD_OUT) if split in part]
        found.setdefault(splits[0] if splits else "train", []).append(file)
    if "train" not in found:  # files of one split, however it is called
        return {"train": files}
    return found


def _path(file: str) -> str:
    """Return a file without the query of a URL."""
    return file.partition("?")[0] if is_url(file) else file


def _suffix(file: str) -> str:
    return Path(_path(file)).suffix


def _known(splits: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(splits)


def _aliases(splits: Mapping[str, Any]) -> dict[str, str]:
    """Return the names that stand for a split: test for whatever is held out, train for the only one."""
    aliases: dict[str, str] = {}
    held_out = next((name for name in HELD_OUT if name in splits), None)
    if held_out is not None:
        aliases |= {name: held_out for name in ("test", "val") if name not in splits}
    if "train" not in splits and len(splits) == 1:
        aliases["train"] = next(iter(splits))
    return aliases


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """A table, the names of its columns of pictures and labels, and of the classes that labels count."""

    table: Any
    image: str
    label: str | None
    class_names: list[str] | None


def _columns(table: Any, name: str, settings: HuggingFaceSettings) -> _Columns:
    features = dict(table.features or {})
    first = None if features else next(_read(table, name), None)
    columns = list(features or first or ())
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    image = _column(name, "image", settings.image, columns, kinds, "Image", IMAGES)
    label = _column(name, "label", settings.label, columns, kinds, "ClassLabel", LABELS)
    if image is None:
        raise UsageError(
            f"{name} has the columns {', '.join(columns)}; name that of the pictures with image="
        )
    if kinds.get(image) == "Image":
        import datasets

        table = table.cast_column(image, datasets.Image(decode=False))
    names = features[label].names if label is not None and kinds.get(label) == "ClassLabel" else None
    return _Columns(table=table, image=image, label=label, class_names=names)


def _column(
    name: str,
    what: str,
    chosen: str,
    columns: list[str],
    kinds: Mapping[str, str],
    kind: str,
    usual: Iterable[str],
) -> str | None:
    """Return the column of pictures or labels."""
    if chosen:
        if chosen not in columns:
            raise UsageError(f"{name} has no column {chosen!r}; it has {', '.join(columns)}")
        return chosen
    of_kind = [column for column in columns if kinds.get(column) == kind]
    if len(of_kind) > 1:
        named = [column for column in usual if column in of_kind]
        if not named:
            raise UsageError(
                f"{name} has several columns of this kind, {', '.join(of_kind)}; choose with {what}="
            )
        return named[0]
    return of_kind[0] if of_kind else next((column for column in usual if column in columns), None)


def _read(table: Any, name: str) -> Iterator[Any]:
    """Yield the rows of a table; whatever fails while they are read is told as damage."""
    rows = iter(table)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except ViewgenError:
            raise
        except Exception as error:  # those of the library and of Arrow are of many kinds
            raise CorruptDataError(
                f"{name} cannot be read ({type(error).__name__}: {error}); a file is damaged, or out of reach"
            ) from error
        yield row


def _rows(columns: _Columns, name: str) -> Iterator[Labelled]:
    for number, row in enumerate(_read(columns.table, name)):
        value, what = row[columns.image], f"{name}: {columns.image} {number}"
        if isinstance(value, Mapping):
            data = value.get("bytes")
            if data is None:
                if not value.get("path"):
                    raise CorruptDataError(f"{what} has neither bytes nor a path")
                with open_file(str(value["path"])) as file:
                    data = file.read()
            value = data
        elif not isinstance(value, bytes):
            value = np.asarray(value)
        yield what, value, None if columns.label is None else row[columns.label]


def _refuse_download(root: Path) -> list[Path]:
    raise UsageError("hf:NAME is fetched when it is used; there is nothing to download before")


ENTRY = DatasetEntry(
    name="hf",
    summary="a data set of Hugging Face's library: from the hub, or local Arrow and Parquet files",
    settings=HuggingFaceSettings,
    build=load,
    info=DatasetInfo(
        name="hf:NAME_OR_PATH",
        image_size=None,
        num_classes=None,
        num_images={},
        source="the hub, Arrow or Parquet files",
        licence="that of its card",
    ),
    is_present=lambda root: None,
    download=_refuse_download,
    raw_sizes=raw_sizes,
    resized_name=resized_name,
)
