"""``webdataset:URL``: tar files of pictures and labels, in the layout of the WebDataset library.

A sample is what has one name up to the first dot: ``000012.jpg`` beside ``000012.cls``. The URL may hold
``{000..012}``, ``*``, and ``{split}``, which stands for train or test; without it there is one split, train.
The tars are read once, in order, and decoded. The classes of the train split are those of both.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import decoded_folder, load_decoded
from viewgen.datasets.files import absolute, expanded, open_file, stamp
from viewgen.datasets.labelled import (
    Labelled,
    check_size,
    labelled_blocks,
    labelled_sizes,
    settings_text,
)
from viewgen.datasets.pictures import PICTURE_SUFFIXES
from viewgen.documents import parse_json
from viewgen.errors import CorruptDataError, DataError, UsageError, ViewgenError
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "WebDatasetSettings"]

MAX_SAMPLE_BYTES = 256 << 20
MAX_FIELDS = 1000
LABELS = ("cls", "label", "json", "txt")
JSON_LABELS = ("label", "class", "cls", "target")


class WebDatasetSettings(Settings):
    """Tar files, and the fields of a sample."""

    title: ClassVar[str] = "webdataset"
    url: str = setting("", "path or URL of the tar files, with {000..012}, * and {split}")
    size: int | None = setting(None, "side in pixels to which pictures are scaled and cropped")
    image: str = setting("", "extension of the pictures; by default the first that is a picture's")
    label: str = setting("", "extension of the labels, cls, txt or json, or json.KEY; by default as found")


def load(settings: WebDatasetSettings, split: str, root: Path, download: bool) -> ImageDataset:
    """Load one split, decoding it on first use and again when a tar was added, removed or changed.

    Raises:
        UsageError: no URL, an impossible size, or no such split.
        MissingFileError, DataError: there are no tars, or samples without a picture.
        CorruptDataError: a tar or a picture is damaged.
    """
    name, split, tars = _listed(settings, split)
    source: dict[str, Any] = {"size": settings.size, "tars": [stamp(tar) for tar in tars]}
    if split != "train":
        source["classes"] = list(load(settings, "train", root, download).class_names)
    return load_decoded(
        name,
        split,
        decoded_folder(root, "webdataset", name, split),
        source,
        lambda: labelled_blocks(
            _labelled(tars, settings), name, settings.size, train_classes=source.get("classes", ())
        ),
        num_images=0,
    )


def _listed(settings: WebDatasetSettings, split: str) -> tuple[str, str, list[str]]:
    """Return the canonical names of data set and split, and the split's tars."""
    check_size(settings.size)
    if not settings.url:
        raise UsageError("webdataset: needs a URL, for example webdataset:/data/flowers-{000..012}.tar")
    url = absolute(settings.url)
    name = f"webdataset:{url}{settings_text(settings)}"
    splits = ("train", "test") if "{split}" in url else ("train",)
    split = canonical_split(name, split, splits, {"val": "test"})
    return name, split, expanded(url.replace("{split}", split))


def raw_sizes(settings: WebDatasetSettings, split: str, most: int, root: Path) -> list[tuple[int, int]]:
    """Return width and height of the first pictures of a split, at most `most`."""
    _, _, tars = _listed(settings, split)
    return labelled_sizes(_labelled(tars, settings), most)


def resized_name(settings: WebDatasetSettings, image_size: int) -> str:
    """Return the name of the same pictures at another size."""
    return f"webdataset:{absolute(settings.url)}{settings_text(settings.replace(size=image_size))}"


def _labelled(tars: list[str], settings: WebDatasetSettings) -> Iterator[Labelled]:
    for tar in tars:
        for key, fields in _samples(tar):
            picture = _picture(fields, settings.image)
            if picture is None:
                raise DataError(
                    f"{tar}: sample {key!r} has no picture; it has {', '.join(sorted(fields))}. Name the "
                    "extension with image="
                )
            yield f"{tar}: {key}.{picture}", fields[picture], _label(tar, key, fields, settings.label)


def _samples(tar: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a tar: name, and extension → contents."""
    key, fields = "", dict[str, bytes]()
    try:
        with open_file(tar) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if not member.isfile() or not stem or not extension:
                    continue
                if f"{folder}/{stem}" != key:
                    if fields:
                        yield key.removeprefix("/"), fields
                    key, fields = f"{folder}/{stem}", {}
                if (size := member.size + sum(map(len, fields.values()))) > MAX_SAMPLE_BYTES:
                    raise CorruptDataError(
                        f"{tar}: {member.name} and what belongs to it have {size:,} bytes; that is no picture"
                    )
                if len(fields) >= MAX_FIELDS:
                    raise CorruptDataError(f"{tar}: sample {stem!r} has more than {MAX_FIELDS} fields")
                opened = archive.extractfile(member)
                assert opened is not None
                fields[extension.lower()] = opened.read()
    except (tarfile.TarError, EOFError) as error:
        raise CorruptDataError(f"{tar} is no tar file, or damaged: {error}") from error
    if fields:
        yield key.removeprefix("/"), fields


def _picture(fields: dict[str, bytes], chosen: str) -> str | None:
    if chosen:
        return chosen if chosen in fields else None
    return next((name for name in fields if f".{name.rpartition('.')[2]}" in PICTURE_SUFFIXES), None)


def _label(tar: str, key: str, fields: dict[str, bytes], chosen: str) -> Any:
    extension, _, field = chosen.partition(".")
    found = extension or next((name for name in LABELS if name in fields), "")
    if not found:
        return None
    if found not in fields:
        raise DataError(f"{tar}: sample {key!r} has no {found!r}; it has {', '.join(sorted(fields))}")
    try:
        text = fields[found].decode("utf-8").strip()
        if found != "json":
            return int(text) if text.lstrip("-").isdecimal() else text
        document = parse_json(text, f"{tar}: {key}.{found}", most_bytes=MAX_SAMPLE_BYTES, check_numbers=False)
        if isinstance(document, dict):
            # several attributes in a list are no class; the export of a cache names it in words beside them
            named = [name for name in JSON_LABELS if name in document]
            one = [name for name in named if not isinstance(document[name], list)]
            names = [field] if field else one or named
            return document[names[0]] if names else None
        return document
    except ViewgenError:
        raise
    except (UnicodeDecodeError, ValueError, KeyError) as error:
        raise DataError(f"{tar}: the label of sample {key!r} cannot be read ({error!r})") from error


def _refuse_download(root: Path) -> list[Path]:
    raise UsageError("webdataset:URL is read when it is used; there is nothing to download before")


ENTRY = DatasetEntry(
    name="webdataset",
    summary="tar files of pictures and labels, on disk or at a URL",
    settings=WebDatasetSettings,
    build=load,
    info=DatasetInfo(
        name="webdataset:URL",
        image_size=None,
        num_classes=None,
        num_images={},
        source="tar files, NAME-{000..012}.tar",
        licence="yours",
    ),
    is_present=lambda root: None,
    download=_refuse_download,
    raw_sizes=raw_sizes,
    resized_name=resized_name,
)
