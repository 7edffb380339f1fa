"""One pair of views as a piece of work: the worker's task, its result and the address of the result."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.diagnostics.mutual_information import MIConfig, MIEstimate, Pairs
from viewgen.diagnostics.mutual_information.views import (
    ViewKind,
    cached_kind,
    expert_kind,
    original_kind,
    source_pair,
    view_pair,
)
from viewgen.errors import DataError
from viewgen.store import CacheReader
from viewgen.views import VIEWS
from viewgen.views.expert import ExpertConfig
from viewgen_pipelines.executors.executor import Place, Tell
from viewgen_pipelines.executors.process import configure_process

__all__ = ["EXPERT", "ORIGINAL", "PairResult", "PairTask", "ViewRef", "run_pair"]

ORIGINAL, EXPERT = "original", "expert"
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewRef:
    """A kind of view.

    Attributes:
        label: name in tables: ``"original"``, ``"expert"``, a cache's method, or a role of a pair.
        url: URL of the cache; None for originals and expert views.
        identity: identity of the cache's specification; None for originals and expert views.
        view: index of the only view of the cache that counts; None for all.
    """

    label: str
    url: str | None = field(default=None, repr=False)
    identity: str | None = None
    view: int | None = None

    @property
    def content(self) -> list[Any]:
        """JSON values that determine the views, apart from the data set."""
        view = [] if self.view is None else [self.view]
        return [self.label if self.identity is None else "cache", self.identity, *view]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairTask:
    """Everything a worker needs to measure one pair; small, and pickled into Ray's tasks.

    Attributes:
        dataset, split: name of the images' data set, and its split.
        dataset_digest: digest of the data set's content.
        data_root: folder of the data sets, None for the default.
        x, y: the two kinds of view.
        pair: record of the view source that makes both, or None.
        source_index: source indices of the images, int64 `(N,)`.
        config: configuration of the estimate.
        expert: strength of the expert views.
        encoder: weights file for alignment and uniformity, or None.
        encoder_digest: digest of the file `encoder`.
        seed: root of all random numbers.
        storage_options: options of the fsspec file system of the caches.
    """

    dataset: str
    split: str
    dataset_digest: str
    data_root: str | None = None
    x: ViewRef
    y: ViewRef
    pair: dict[str, Any] | None = None
    source_index: NDArray[np.int64] = field(repr=False)
    config: MIConfig
    expert: ExpertConfig
    encoder: str | None = None
    encoder_digest: str | None = None
    seed: int = 0
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> str:
        """Hexadecimal digest of everything that determines the result."""
        content = {
            "format": FORMAT,
            "dataset": [self.dataset, self.split, self.dataset_digest],
            "views": [ref.content for ref in self.views],
            "images": hashlib.sha256(self.source_index.astype("<i8").tobytes()).hexdigest(),
            "config": self.config.record(),
            "expert": self.expert.record() if EXPERT in (self.x.label, self.y.label) else None,
            "encoder": self.encoder_digest,
            "seed": self.seed,
            **({} if self.pair is None else {"pair": self.pair}),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def views(self) -> tuple[ViewRef, ViewRef]:
        """x and y."""
        return self.x, self.y


@dataclass(frozen=True, kw_only=True, slots=True)
class PairResult:
    """The result of one pair.

    Attributes:
        x, y: labels of the two kinds of view.
        estimate: mutual information, or None if the pair was refused.
        refused: reason of the refusal, or an empty string.
        alignment, uniformity_x, uniformity_y: alignment and uniformity in the encoder's space, or None
            without an encoder.
    """

    x: str
    y: str
    estimate: MIEstimate | None
    refused: str = ""
    alignment: float | None = None
    uniformity_x: float | None = None
    uniformity_y: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `from_json` reads."""
        estimate = None if self.estimate is None else self.estimate.to_json()
        values = {name: getattr(self, name) for name in ("alignment", "uniformity_x", "uniformity_y")}
        return {"x": self.x, "y": self.y, "estimate": estimate, "refused": self.refused, **values}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "PairResult":
        """Read what `to_json` wrote."""
        estimate = document["estimate"]
        read = None if estimate is None else MIEstimate.from_json(estimate)
        return cls(**{**document, "estimate": read})


def run_pair(task: PairTask, place: Place, tell: Tell) -> PairResult:
    """Measure one pair. For views that cannot be measured, the result's `refused` gives the reason."""
    configure_process(place.num_threads)
    from viewgen.diagnostics.mutual_information import estimate_mutual_information

    dataset = load_dataset(task.dataset, task.split, data_root=task.data_root)
    pairs = _pairs(task, dataset)
    try:
        estimate = estimate_mutual_information(
            pairs,
            task.config,
            seed=task.seed,
            device=place.device,
            on_step=lambda step: tell(step / task.config.num_steps),
        )
    except DataError as error:
        return PairResult(x=task.x.label, y=task.y.label, estimate=None, refused=str(error))
    result = PairResult(x=task.x.label, y=task.y.label, estimate=estimate)
    if task.encoder is not None:
        from viewgen.diagnostics.alignment import measure_alignment
        from viewgen.networks.files import load_models

        encoder = load_models({"encoder": task.encoder}, place.device).encoder
        assert encoder is not None
        measured = measure_alignment(encoder, pairs, seed=task.seed)
        result = dataclasses.replace(
            result,
            alignment=measured.alignment,
            uniformity_x=measured.uniformity_x,
            uniformity_y=measured.uniformity_y,
        )
    return result


def _pairs(task: PairTask, dataset: ImageDataset) -> Pairs:
    if task.pair is not None:
        return source_pair(VIEWS.read(task.pair), dataset, task.source_index).views
    return view_pair(_kind(task.x, task), _kind(task.y, task), dataset, task.source_index).views


def _kind(ref: ViewRef, task: PairTask) -> ViewKind:
    if ref.url is not None:
        return cached_kind(CacheReader(ref.url, task.storage_options), ref.label, ref.view)
    return original_kind() if ref.label == ORIGINAL else expert_kind(task.expert)
