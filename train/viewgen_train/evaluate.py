"""Evaluation of a trained encoder on frozen features: probe, neighbours, class centres and collapse."""

import csv
import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from viewgen.datasets import ImageDataset, load_dataset
from viewgen.device import resolve_device
from viewgen.diagnostics.collapse import Collapse, CollapseConfig, collapse_warning
from viewgen.diagnostics.knn import Knn, KnnConfig
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.nearest_centre import NearestCentre, NearestCentreConfig
from viewgen.diagnostics.probe import LinearProbe, Probe, ProbeConfig, probe_config
from viewgen.diagnostics.weighted_knn import WeightedKnn, WeightedKnnConfig
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.files import write_atomically
from viewgen.networks.files import file_digest, read_header
from viewgen.views.branched import ImageEncoder, load_image_encoder
from viewgen.views.compositions import dataset_expert
from viewgen.views.expert import ExpertConfig
from viewgen_train.held_out import held_out_i_nce, trained_objective, training_ceiling
from viewgen_train.run import open_run
from viewgen_train.settings import TrainSettings

__all__ = ["Evaluation", "evaluate", "measure"]

# (what is being done, how much of it is done, how much there is)
Report = Callable[[str, int, int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Accuracies of an encoder on a data set, and R² of its real-valued targets.

    Attributes:
        attributes: names of the A label attributes; their indices if they have no names.
        probe: trained linear probes; None if the images have no classes.
        neighbours: values of k, including 5.
        knn: metric → accuracies `(len(neighbours), A)`.
        weighted: settings of the weighted vote of nearest neighbours, of as many as there are.
        weighted_knn: accuracies of that vote, `(A,)`.
        centre: accuracies of the nearest class centre, `(A,)`.
        collapse: measures of `viewgen.diagnostics.collapse`, by name.
        reals: name of a real-valued target → ``r2`` and ``rmse`` of a linear regression.
        distance: mean length of that regression's error over all targets, for two targets or more.
        knn_reals: metric → R² of the neighbours' mean, `(len(neighbours), R)`.
        images_per_second: throughput of the feature extraction.
        seconds: duration of the whole evaluation.
        notes: quantities that could not be measured as asked, with the reason.
        about: JSON values that describe the encoder: run, weights, data set, epochs, loss, recipe and others.
    """

    attributes: tuple[str, ...]
    probe: LinearProbe | None
    neighbours: tuple[int, ...]
    knn: Mapping[str, NDArray[np.float64]]
    weighted: WeightedKnnConfig
    weighted_knn: NDArray[np.float64]
    centre: NDArray[np.float64]
    collapse: Mapping[str, float]
    reals: Mapping[str, Mapping[str, float]]
    distance: float | None
    knn_reals: Mapping[str, NDArray[np.float64]]
    images_per_second: float
    seconds: float
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of ``evaluation.json``.

        Accuracies are fractions in [0, 1], averaged over the label attributes.
        """

        def neighbours(tables: Mapping[str, NDArray[Any]], column: slice) -> dict[str, dict[str, float]]:
            return {
                metric: {
                    str(k): round(float(row[column].mean()), 6)
                    for k, row in zip(self.neighbours, table, strict=True)
                }
                for metric, table in tables.items()
            }

        def accuracies(probe: LinearProbe, column: slice) -> dict[str, Any]:
            part = dataclasses.replace(probe, top1=probe.top1[:, column])
            top5 = probe.top5[:, column].mean()
            knn = neighbours(self.knn, column)
            return {
                "top1": round(part.mean, 6),
                "top1_sd": round(part.deviation, 6),
                "top1_per_seed": [round(float(value), 6) for value in part.top1.mean(axis=1)],
                **({} if np.isnan(top5) else {"top5": round(float(top5), 6)}),
                "knn5_top1": knn["cosine"]["5"],
                "knn": knn,
                "weighted_knn_top1": round(float(self.weighted_knn[column].mean()), 6),
                "centre_top1": round(float(self.centre[column].mean()), 6),
            }

        document = dict(self.about)
        if self.probe is not None:
            document |= accuracies(self.probe, slice(None))
            document["weighted_knn"] = self.weighted.to_json()
        if self.probe is not None and self.attributes != ("0",):  # several, or one with a name
            document["attributes"] = {
                name: accuracies(self.probe, slice(index, index + 1))
                for index, name in enumerate(self.attributes)
            }
        if self.reals:
            document["reals"] = {
                name: {key: round(value, 6) for key, value in values.items()}
                | {"knn_r2": neighbours(self.knn_reals, slice(index, index + 1))}
                for index, (name, values) in enumerate(self.reals.items())
            }
        if self.distance is not None:
            document["distance"] = round(self.distance, 6)
        return {
            **document,
            "collapse": {name: round(value, 6) for name, value in self.collapse.items()}
            | {"warning": collapse_warning(self.collapse)},
            "notes": list(self.notes),
            "images_per_second": round(self.images_per_second, 1),
            "seconds": round(self.seconds, 2),
        }


def measure(
    encoder: ImageEncoder,
    train: ImageDataset,
    test: ImageDataset,
    probe: ProbeConfig,
    *,
    neighbours: Sequence[int] = (5,),
    weighted: WeightedKnnConfig | None = None,
    expert: ExpertConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    report: Report = lambda *_: None,
) -> Evaluation:
    """Evaluate an encoder by linear probe and nearest neighbours; features are computed once per split.

    Real-valued targets are evaluated by a linear regression and the mean of nearest neighbours.

    Args:
        encoder: encoder on `device`; not changed.
        train: training images of the probe and candidates for neighbours.
        test: images to classify.
        probe: settings of the linear probe.
        neighbours: values of k; 5 is always added.
        expert: expert transform that sets the strength of the probe's augmentation; by default the data
            set's.
        seed: root seed of the probes.
        device: torch device of all computations.
        batch_size: number of images per forward pass.
        report: callback for progress.

    Raises:
        DataError: a split is empty or has unlabelled images, or a real-valued target does not vary.
        ModelError: the image size differs from that of the encoder's training.
        UsageError: a value of k is not possible with the training images.
    """
    parts = {
        "encoder": encoder, "train": train, "test": test, "expert": expert or dataset_expert(train.name)
    }  # fmt: skip
    subject = Subject(
        {name: partial(_given, part) for name, part in parts.items()},
        device=device,
        batch_size=batch_size,
        tell=report,
    )
    started = time.perf_counter()
    neighbours = tuple(sorted({5, *neighbours}))
    weighted = weighted or WeightedKnnConfig()
    total = sum(map(len, subject.features))
    extracted = time.perf_counter()
    knn = Knn(KnnConfig(neighbours=neighbours))
    tables, real_tables = knn.accuracies(subject), knn.real_accuracies(subject)
    linear = Probe(probe)
    trained = linear.trained(subject, seed) if subject.features[0].has_classes else None
    count = 0 if trained is None else trained.top1.shape[1]
    voted = WeightedKnn(weighted).accuracies(subject)
    return Evaluation(
        attributes=train.attribute_names or tuple(map(str, range(count))),
        probe=trained,
        neighbours=neighbours,
        knn=tables,
        weighted=weighted.replace(neighbours=min(weighted.neighbours, len(train))),
        weighted_knn=voted,
        centre=NearestCentre(NearestCentreConfig()).accuracies(subject),
        collapse=Collapse(CollapseConfig()).values(subject, seed),
        reals=linear.regressed(subject, seed),
        distance=linear.mean_distance(subject, seed),
        knn_reals=real_tables,
        images_per_second=total / (extracted - started),
        seconds=time.perf_counter() - started,
        notes=tuple(subject.notes),
    )


def _given(part: Any) -> Any:
    return part


def evaluate(
    run: str | Path,
    *,
    which: Literal["last", "best"] = "last",
    dataset: str | None = None,
    data_root: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    limit: int | None = None,
    neighbours: Sequence[int] = (5,),
    weighted_neighbours: int = 200,
    knn_temperature: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 512,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Evaluate a training, as `viewgen eval` does, and write the result beside its weights.

    The probe is trained on the train split of the data set and evaluated on its test split.

    Args:
        run: folder of a `viewgen train` run, or an encoder file.
        which: ``"last"`` for the weights after the last epoch, or ``"best"``.
        dataset: name of the data set; by default that of the encoder's training.
        data_root: folder of data sets.
        settings: fields of `ProbeConfig` that differ from the data set's recipe.
        limit: number of leading training images to learn from; None for all.
        neighbours: values of k for the nearest neighbours; 5 is always added.
        weighted_neighbours: k of the weighted vote.
        knn_temperature: τ of the weighted vote.
        seed: root seed of the probes.
        device: torch device; ``"auto"`` selects a GPU if there is one.
        batch_size: number of images per forward pass.
        report: callback for progress.

    Returns:
        contents of the result file: ``evaluation.json`` in the run's folder (``evaluation-best.json`` for the
        best weights, with the data set's name for another data set), or ``<name>.evaluation.json`` for an
        encoder file.

    Raises:
        MissingFileError: the run, the file or the data set is missing.
        UsageError: the data set of an encoder file is not known, or a setting is invalid.
        DataError: the data set differs from that of the training, or has no labels.
        ModelError: the weights are damaged or belong to another image size.
    """
    device = resolve_device(device)
    path = Path(run).expanduser()
    subject = _file(path, device) if path.is_file() else _run(path, which, device)
    name = dataset or subject.dataset
    if name is None:
        raise UsageError(f"{path} does not say which data set it was trained on; name one with --dataset")
    train, test = (load_dataset(name, split, data_root=data_root) for split in ("train", "test"))
    if subject.digest is not None and (train.name, train.split) == (subject.dataset, subject.split):
        _check_digest(train, subject.digest, path)
    other = dataset is not None and train.name != subject.dataset
    digest = train.digest
    if limit is not None:
        train = train.leading(limit)
    probe = probe_config(train.name, **(settings or {}))
    found = measure(
        subject.encoder,
        train,
        test,
        probe,
        neighbours=neighbours,
        weighted=WeightedKnnConfig(neighbours=weighted_neighbours, temperature=knn_temperature),
        expert=subject.expert if dataset is None else None,
        seed=seed,
        device=device,
        batch_size=batch_size,
        report=report,
    )
    i_nce = None
    if subject.settings is not None:
        own = _own_test(subject.dataset, data_root) if other else test
        if own is not None:
            # the checkpoint is that of the last epoch
            state = trained_objective(path, subject.settings) if which == "last" else None
            i_nce = held_out_i_nce(
                subject.settings, subject.encoder, own, seed=seed, device=device, objective_state=state
            )
    most = None if subject.settings is None else training_ceiling(subject.settings)
    about = {
        "run": str(run),
        "weights": {"file": str(subject.weights), "digest": file_digest(subject.weights)},
        "dataset": {"name": train.name, "digest": digest, "train": len(train), "test": len(test)},
        "epochs": subject.epochs,
        "loss": subject.loss,
        **({} if i_nce is None else {"i_nce": i_nce | {"training": subject.i_nce}}),
        **(
            {} if subject.i_nce is None else {"i_nce_training": subject.i_nce, "i_nce_training_ceiling": most}
        ),
        "probe": probe.to_json(),
        "seed": seed,
        "device": device,
    }
    document = dataclasses.replace(found, about=about).to_json()
    result = subject.result if not other else _named(subject.result, train.name)
    write_atomically(result, (json.dumps(document, indent=1) + "\n").encode())
    return document


def _own_test(name: str | None, data_root: str | Path | None) -> ImageDataset | None:
    """Return the test images of the training's own data set, if they are there."""
    if name is None:
        return None
    try:
        return load_dataset(name, "test", data_root=data_root, download=False)
    except (UsageError, DataError, MissingFileError):
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """An encoder with the known facts of its training."""

    encoder: ImageEncoder
    weights: Path
    result: Path
    dataset: str | None
    split: str | None = None
    digest: str | None = None
    epochs: float | None = None
    loss: float | None = None
    i_nce: float | None = None
    settings: TrainSettings | None = None

    @property
    def expert(self) -> ExpertConfig | None:
        """Strength of the training's expert views."""
        return None if self.settings is None else self.settings.expert


def _run(folder: Path, which: Literal["last", "best"], device: str) -> _Subject:
    run = open_run(folder, which, device)
    return _Subject(
        encoder=run.encoder,
        weights=run.weights,
        result=folder / ("evaluation.json" if which == "last" else f"evaluation-{which}.json"),
        dataset=run.dataset,
        split=run.split,
        digest=run.digest,
        epochs=run.epochs,
        loss=_last(folder / "metrics.csv", run.step, "loss"),
        i_nce=_last(folder / "metrics.csv", run.step, "i_nce"),
        settings=run.settings,
    )


def _file(path: Path, device: str) -> _Subject:
    encoder = load_image_encoder(path, device)
    dataset = read_header(path).get("dataset")
    return _Subject(
        encoder=encoder,
        weights=path,
        result=path.with_name(f"{path.stem}.evaluation.json"),
        dataset=dataset if isinstance(dataset, str) else None,
    )


def _last(path: Path, step: int, name: str) -> float | None:
    """Return the last value of a metric of a run up to a step, or None."""
    if not path.is_file():
        return None
    with open(path, newline="") as file:
        values = [row[name] for row in csv.DictReader(file) if row.get(name) and int(row["step"]) <= step]
    return float(values[-1]) if values else None


def _check_digest(dataset: ImageDataset, digest: str, path: Path) -> None:
    if dataset.digest != digest:
        raise DataError(
            f"{path} was trained on {dataset.name} {dataset.split} with digest {digest}, here it has "
            f"{dataset.digest}: its images or labels have changed; give the --data-root of that training, or "
            "train again"
        )


def _named(result: Path, dataset: str) -> Path:
    # the end of a long path tells more than its start, and file names have an end too
    slug = re.sub(r"[^A-Za-z0-9]+", "-", dataset).strip("-")[-80:]
    return result.with_name(f"{result.stem}-{slug}.json")
