"""Writers of the formats, one part a shard, each written atomically."""

import io
import json
import math
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from viewgen.export.rows import ExportedRow, Rows
from viewgen.extras import need
from viewgen.store import Storage

__all__ = ["WRITERS", "Writer"]


class Writer(ABC):
    """Writer of one format.

    Args:
        rows: what is written.
        storage: where.
        picture: extension of the pictures.
    """

    def __init__(self, rows: Rows, storage: Storage, picture: str) -> None:
        self.rows, self.storage, self.picture = rows, storage, picture
        self.num_shards = rows.reader.spec.num_shards

    @abstractmethod
    def write(self, shard_id: int) -> int:
        """Write a shard, unless it is there; return the number of images that were written now."""

    @abstractmethod
    def how_to_read(self) -> str:
        """Return Markdown about the files."""

    def _part(self, path: str, shard_id: int) -> list[ExportedRow]:
        """Return the rows of a part that is not there yet."""
        return [] if self.storage.exists(path) else list(self.rows.shard(shard_id))


class FolderWriter(Writer):
    """Pictures in a folder per class: ``CLASS/00000012-view0.png``."""

    def write(self, shard_id: int) -> int:
        # a file, not a folder, which others would take for a class
        mark = f".viewgen-part-{shard_id:06d}"
        found = self._part(mark, shard_id)
        if not found and self.storage.exists(mark):
            return 0
        for row in found:
            stem = f"{_folder_name(row.class_name)}/{row.row:08d}"
            for number, view in enumerate(row.views):
                self.storage.write(f"{stem}-view{number}.{self.picture}", view)
            if row.image is not None:
                self.storage.write(f"{stem}-image.{self.picture}", row.image)
        self.storage.write(mark, b"")
        return len(found)

    def how_to_read(self) -> str:
        return (
            "A folder per class, as `torchvision.datasets.ImageFolder` and `viewgen … --dataset folder:PATH` "
            f"read it. `CLASS/00000012-view0.{self.picture}` is the first view of row 12 of the cache"
            + (f", `CLASS/00000012-image.{self.picture}` its image." if self.rows.originals else ".")
        )


class WebDatasetWriter(Writer):
    """A tar per shard, as the WebDataset library reads them."""

    def write(self, shard_id: int) -> int:
        path = f"views-{shard_id:06d}.tar"
        if self.storage.exists(path):
            return 0
        # a shard without usable rows is an empty tar: the pattern of all shards names it
        found = list(self.rows.shard(shard_id))
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for row in found:
                document = {"row": row.row, "index": row.index, "label": row.label, "class": row.class_name}
                scores = {name: _finite(values) for name, values in row.scores.items()}
                members = [(f"view{number}.{self.picture}", view) for number, view in enumerate(row.views)]
                if row.image is not None:
                    members.insert(0, (f"image.{self.picture}", row.image))
                if isinstance(row.label, int):
                    members.append(("cls", str(row.label).encode()))
                members.append(("json", json.dumps(document | scores, ensure_ascii=False).encode()))
                for extension, data in members:
                    member = tarfile.TarInfo(f"{row.row:08d}.{extension}")
                    member.size, member.mode = len(data), 0o644
                    archive.addfile(member, io.BytesIO(data))
        self.storage.write(path, out.getvalue())
        return len(found)

    def how_to_read(self) -> str:
        last = f"{self.num_shards - 1:06d}"
        several = bool(self.rows.reader.spec.label_shape)
        index = "" if several else ", `cls` (the class index, −1 without a class)"
        return (
            f"`views-{{000000..{last}}}.tar` are read by the WebDataset library, and by "
            f"`--dataset 'webdataset:PATH/views-{{000000..{last}}}.tar?image=view0.{self.picture}'`. "
            f"A sample has `view0.{self.picture}` …{index} and `json` (row, label, class in words, scores of "
            "each view)."
        )


class ParquetWriter(Writer):
    """A Parquet file per shard: encoded pictures as binary lists, labels, scores."""

    folder, extra = "data/", "parquet"

    def write(self, shard_id: int) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = f"{self.folder}train-{shard_id:05d}-of-{self.num_shards:05d}.parquet"
        found = self._part(path, shard_id)
        if not found:
            return 0
        table = pa.Table.from_pylist([self._record(row) for row in found], schema=self._schema())
        out = io.BytesIO()
        pq.write_table(table, out)
        self.storage.write(path, out.getvalue())
        return len(found)

    def _record(self, row: ExportedRow) -> dict[str, Any]:
        record: dict[str, Any] = {"row": row.row, "index": row.index, "label": row.label}
        record["class"] = row.class_name
        if row.image is not None:
            record["image"] = self._picture(row.image)
        return record | {"views": [self._picture(view) for view in row.views], **row.scores}

    def _picture(self, data: bytes) -> Any:
        return data

    def _schema(self) -> Any:
        import pyarrow as pa

        label = pa.list_(pa.int64()) if self.rows.reader.spec.label_shape else pa.int64()
        fields = [("row", pa.int64()), ("index", pa.int64()), ("label", label), ("class", pa.string())]
        if self.rows.originals:
            fields.append(("image", pa.binary()))
        fields.append(("views", pa.list_(pa.binary())))
        fields += [(name, pa.list_(pa.float64())) for name in self.rows.score_names]
        return pa.schema(fields)

    def how_to_read(self) -> str:
        return (
            "A Parquet file per shard of the cache, in `data`. Columns: `row`, `index` (of the image in its "
            f"data set), `label`, `class`, `views` (a list of {self.picture} files) and scores of the views, "
            f"{', '.join(f'`{name}`' for name in self.rows.score_names)}."
        )


class HuggingFaceWriter(ParquetWriter):
    """Parquet files in the layout and with the types of Hugging Face's library."""

    extra = "hf"

    def _picture(self, data: bytes) -> Any:
        return {"bytes": data, "path": None}

    def _schema(self) -> Any:
        import datasets

        def many(kind: Any) -> Any:
            return datasets.Sequence(kind)

        number, names = datasets.Value("int64"), list(self.rows.class_names)
        several = bool(self.rows.reader.spec.label_shape)
        label = many(number) if several else datasets.ClassLabel(names=names) if names else number
        features = {"row": number, "index": number, "label": label, "class": datasets.Value("string")}
        if self.rows.originals:
            features["image"] = datasets.Image()
        features["views"] = many(datasets.Image())
        features |= {name: many(datasets.Value("float64")) for name in self.rows.score_names}
        return datasets.Features(features).arrow_schema

    def how_to_read(self) -> str:
        return (
            "```python\n"
            "from datasets import load_dataset\n\n"
            'views = load_dataset("PATH_OR_NAME", split="train")\n'
            'views[0]["views"]  # pictures\n'
            "```\n\n"
            "Columns: `row`, `index` (of the image in its data set), `label`, `class`, `views` and the "
            f"scores of the views, {', '.join(f'`{name}`' for name in self.rows.score_names)}."
        )


WRITERS: dict[str, type[Writer]] = {
    "webdataset": WebDatasetWriter,
    "hf": HuggingFaceWriter,
    "folder": FolderWriter,
    "parquet": ParquetWriter,
}


def check_installed(name: str) -> None:
    """Raise MissingExtraError if the packages of a format are not installed."""
    if (extra := getattr(WRITERS[name], "extra", None)) is not None:
        need(extra)


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _folder_name(text: str) -> str:
    """Return a class as the name of a folder."""
    cleaned = re.sub(r"[^\w .+-]", "_", text).strip(" .")
    return cleaned[:100] or "_"
