"""Subjects by user input: a cache, a training, an encoder file, a data set, or feature vectors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.datasets.registry import DATASETS
from viewgen.diagnostics.features import extract_features
from viewgen.diagnostics.measure import Subject, ViewPair
from viewgen.diagnostics.mutual_information.views import (
    cached_kind,
    check_cache,
    expert_kind,
    made_together,
    original_kind,
    source_pair,
    view_pair,
)
from viewgen.diagnostics.vectors import Vectors, read_vectors
from viewgen.documents import read_object
from viewgen.errors import CorruptDataError, DataError, MissingFileError, UsageError
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import load_encoder, load_model, load_models, networks_beside, read_header
from viewgen.networks.weights import find_models
from viewgen.registry import Choice
from viewgen.store import CacheReader, inversions_url
from viewgen.views import VIEWS
from viewgen.views.branched import load_image_encoder
from viewgen.views.compositions import dataset_expert
from viewgen.views.entry import ViewEntry
from viewgen.views.expert import ExpertConfig

__all__ = ["SubjectArguments", "subject_kind", "takes_expert"]

Kind = Literal["cache", "training", "encoder", "dataset", "vectors"]
NETWORKS: tuple[Any, ...] = ("encoder", "generator", "inverter", "discriminator")


def subject_kind(subject: str) -> Kind:
    """Return the kind of subject that `subject` names.

    Raises:
        UsageError: it cannot be measured.
    """
    path = Path(subject).expanduser()
    if "://" in subject or (path / "zarr.json").is_file():
        return "cache"
    if path.is_file():
        return "vectors" if path.suffix == ".npz" else "encoder"
    if (path / "config.json").is_file():
        return "training"
    if subject.partition(":")[0] in DATASETS:
        return "dataset"
    known = ", ".join(DATASETS.names)
    raise UsageError(
        f"nothing to measure at {subject!r}: expected the URL of a cache, the folder of a training, an "
        f"encoder file, a file of feature vectors (.npz), or a data set ({known})"
    )


def takes_expert(choice: Choice[Any], kind: Kind) -> bool:
    """Return whether a diagnostic reads the expert transform of a kind of subject.

    Settings that choose the views tell it themselves, by a method `takes_expert(has_cache=…)`.
    """
    own = getattr(choice.settings, "takes_expert", None)
    if own is not None:
        return bool(own(has_cache=kind == "cache"))
    augmentation = getattr(choice.settings, "augmentation", "expert")
    return bool(choice.entry.needs & {"expert", "pairs"}) and augmentation != "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectArguments:
    """Specification of a subject; small, and pickled into Ray's tasks.

    Attributes:
        kind: kind of the subject.
        subject: URL of a cache, folder of a training, encoder file, name of a data set, or file of vectors.
        dataset: data set that replaces the subject's own.
        split: training split of probes and nearest neighbours; a cache and a training use their own.
        data_root: folder of the data sets, None for the default.
        models: folder of a `viewgen pretrain` run, or name of an import.
        networks: kind → weights file that replaces the data set's own.
        which: weights of a training.
        limit: number of leading images whose views are compared.
        inversions: URL of the inversions that a cache's views start from; None for the default beside it.
        storage_options: options of the cache's file system.
        augment: combination of expert operations (see `viewgen.views.compositions`) in the place of the
            training's or the data set's.
    """

    kind: Kind
    subject: str = field(repr=False)
    dataset: str | None = None
    split: str = "train"
    data_root: str | None = None
    models: str | None = None
    networks: dict[str, str] = field(default_factory=dict)
    which: Literal["last", "best"] = "last"
    limit: int | None = None
    inversions: str | None = field(default=None, repr=False)
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    augment: str | None = None

    def refuse_ignored(self) -> None:
        """Refuse options that this kind of subject would ignore.

        Raises:
            UsageError: one of them is given.
        """
        kind = self.kind
        ignored = {
            "--weights": self.which != "last" and kind != "training",
            "--dataset": self.dataset is not None and kind == "vectors",
            "--split": self.split != "train" and kind in ("cache", "training", "vectors"),
            "--augment": self.augment is not None and kind == "vectors",
            "--storage-option": bool(self.storage_options) and kind not in ("cache", "training"),
        }
        for option, would in ignored.items():
            if would:
                what = "file of vectors" if kind == "vectors" else kind
                raise UsageError(f"{option} is given, which a {what} would ignore; leave it out")
        if self.augment is not None and kind == "training" and self.dataset is None:
            raise UsageError(
                f"--augment {self.augment} is given, and a training is measured with the expert views that "
                "it was trained with; for others measure its encoder file (last.safetensors) or its data set"
            )

    def described(self) -> dict[str, Any]:
        """Return the data set's name and split, and for a training its record.

        Raises:
            MissingFileError: there is no such cache or training.
            UsageError: the data set of a file is not known.
        """
        name, found = self.dataset, {"split": self.split}
        if self.kind == "vectors":
            return {"name": self.subject, **found}
        if self.kind == "cache":
            made_of = CacheReader(self.subject, self.storage_options).spec.dataset
            name, found["split"] = name or str(made_of["name"]), str(made_of["split"])
        elif self.kind == "training":
            record = self._training()
            name, found["split"] = name or record["dataset"]["name"], record["dataset"]["split"]
        elif self.kind == "encoder":
            name = name or read_header(Path(self.subject).expanduser()).get("dataset")
            if not isinstance(name, str):
                raise UsageError(
                    f"{self.subject} does not say which data set it was trained on; name one with --dataset"
                )
        return {"name": name or self.subject, **found}

    def find(self, kind: str) -> Path:
        """Return the weights file of a network.

        Raises:
            MissingFileError: there is none.
        """
        if kind == "encoder" and not self.networks.get(kind):
            path = Path(self.subject).expanduser()
            if self.kind == "encoder":
                return path
            if self.kind == "training":
                weights = path / f"{self.which}.safetensors"
                if not weights.is_file():
                    raise MissingFileError(f"{path} holds a training without {weights.name} yet")
                return weights
        name = self.described()["name"]
        return find_models(name, {kind}, models_dir=self.models, overrides=self.networks)[kind]

    def open(
        self,
        *,
        device: str = "cpu",
        batch_size: int = 512,
        tell: Callable[[str, int, int], object] = lambda *_: None,
    ) -> Subject:
        """Return the subject; its parts are built on request."""
        if self.kind == "vectors":
            vectors = {"vectors": partial(read_vectors, Path(self.subject).expanduser())}
            return Subject(vectors, name=self.subject, device=device, batch_size=batch_size, tell=tell)
        parts: dict[str, Callable[[], Any]] = {
            "train": self._train,
            "test": partial(self._load, "test"),
            "expert": self._expert,
            "pairs": self._pairs,
        }
        parts |= {kind: partial(self._network, kind, device) for kind in NETWORKS}
        parts["inverting"] = partial(self._inverting, device)
        parts["trainable"] = partial(self._trainable, device)
        parts["vectors"] = partial(self._vectors, device, batch_size)
        if self.kind == "cache":
            parts["cache"] = partial(CacheReader, self.subject, self.storage_options)
            parts["inversions"] = self._inversions
        if self.kind == "training":
            parts["run"] = lambda: Path(self.subject).expanduser()
        return Subject(parts, name=self.subject, device=device, batch_size=batch_size, tell=tell)

    def _network(self, kind: Any, device: str) -> Any:
        if kind == "encoder":
            return load_image_encoder(self.find(kind), device)
        return load_model(self.find(kind), kind, device)

    def _trainable(self, device: str) -> Encoder:
        network = load_encoder(self.find("encoder"), device, trainable=True)
        if not isinstance(network, Encoder):
            raise UsageError(f"{self.subject} has an encoder for each role, and no single one to train on")
        return network

    def _vectors(self, device: str, batch_size: int) -> Vectors:
        dataset, encoder = self._train(), self._network("encoder", device)

        def read() -> Tensor:
            return extract_features(encoder, dataset, batch_size=batch_size, device=device).embeddings.cpu()

        return Vectors(names=tuple(map(str, range(len(dataset)))), read=read)

    def _inverting(self, device: str) -> Any:
        path = self.find("generator")
        kinds = networks_beside(path) & {"inverter"}
        paths = {"generator": path} | {kind: self.find(kind) for kind in kinds}
        return load_models(paths, device).inverting()

    def _load(self, split: str) -> ImageDataset:
        return load_dataset(self.described()["name"], split, data_root=self.data_root)

    def _train(self) -> ImageDataset:
        dataset = self._load(self.described()["split"])
        if self.kind == "training" and self.dataset is None:
            digest = self._training()["dataset"]["digest"]
            if dataset.digest != digest:
                raise DataError(
                    f"{self.subject} was trained on {dataset.name} {dataset.split} with digest {digest}, "
                    f"here it is {dataset.digest}: images or labels have changed; give that training's "
                    "--data-root"
                )
        return dataset

    def _expert(self) -> ExpertConfig:
        if self.kind == "training" and self.dataset is None and self.augment is None:
            record = self._training()["config"].get("expert")
            if not isinstance(record, dict):
                raise CorruptDataError(
                    f"{self.subject}/config.json has expert settings {record!r}; expected a table, of the "
                    "training's expert views"
                )
            return ExpertConfig.from_record(record)
        return dataset_expert(self.described()["name"], self.augment)

    def _pairs(self) -> list[ViewPair]:
        dataset = self._train()
        original, expert = original_kind(), expert_kind(self._expert())
        rows = np.arange(len(dataset), dtype=np.int64)
        reader = self._cache()
        kinds = [(original, expert)]
        if reader is not None:
            check_cache(reader, dataset)
            rows = np.intersect1d(rows, reader.source_index)
            if len(reader.spec.roles) > 2:
                sides = [cached_kind(reader, role.name, view) for view, role in enumerate(reader.spec.roles)]
                kinds += list(combinations(sides, 2))
            elif (names := made_together(reader)) is not None:
                kinds.append((cached_kind(reader, names[0], 0), cached_kind(reader, names[1], 1)))
            else:
                method = cached_kind(reader, reader.spec.method)
                kinds += [(original, method), (method, expert)]
        pairs = [view_pair(x, y, dataset, rows[: self.limit]) for x, y in kinds]
        choice = self._trained_pair()
        return pairs if choice is None else [*pairs, source_pair(choice, dataset, rows[: self.limit])]

    def _trained_pair(self) -> Choice[ViewEntry] | None:
        """Return the view source of a training, if it makes two views that belong together."""
        record = self._training()["config"].get("views") if self.kind == "training" else None
        if not isinstance(record, dict) or self.dataset is not None:
            return None
        choice = VIEWS.read(record)
        return choice if choice.entry.num_views == 2 and not choice.entry.needs else None

    def _cache(self) -> CacheReader | None:
        if self.kind == "cache":
            return CacheReader(self.subject, self.storage_options)
        record = self._training()["cache"] if self.kind == "training" else None
        return None if record is None else CacheReader(record["url"], self.storage_options)

    def _inversions(self) -> CacheReader:
        spec = CacheReader(self.subject, self.storage_options).spec
        identity = spec.models.get("inversions")
        if identity is None:
            raise UsageError(f"views of method {spec.method!r} start from no inversions")
        reader = CacheReader(self.inversions or inversions_url(self.subject, spec), self.storage_options)
        if reader.spec.identity != identity:
            raise DataError(
                f"the inversions at {reader.url} are {reader.spec.identity}, the views were made from "
                f"{identity}; name theirs with --inversions URL"
            )
        return reader

    def _training(self) -> dict[str, Any]:
        path = Path(self.subject).expanduser() / "config.json"
        try:
            document = read_object(path)
            missing = {"dataset", "config", "cache"} - document.keys()
        except OSError as error:
            raise CorruptDataError(f"{path} cannot be read: {error}") from error
        if missing:
            raise CorruptDataError(f"{path} lacks {', '.join(sorted(missing))}")
        cache = document["cache"]
        if cache is not None and not (isinstance(cache, dict) and isinstance(cache.get("url"), str)):
            raise CorruptDataError(f"{path} is damaged: its cache has no url")
        return document
