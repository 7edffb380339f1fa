"""`viewgen models evaluate` as a function: quality of g, e and f as a table and a picture.

Generator g: Fréchet distance, kernel distance, precision and recall of samples against training images, and
the same measures of test images as a reference. Inverter e: mean squared error (model units), PSNR, LPIPS and
feature distance of reconstructions of held-out images, unrefined and refined. Encoder f: nearest-neighbour
accuracy on test images and on their reconstructions. Images are measured in 8 bits, as stored. Samples are
drawn with ψ = 1 and fixed noise.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from viewgen.datasets import load_dataset
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.generated import compared_rows, reconstructions, refined, samples, spread
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.errors import MissingFileError, ModelError, UsageError, nearest_name
from viewgen.networks.files import Models, file_digest, load_models, networks_beside
from viewgen.networks.generator import Generator, SamplingGenerator
from viewgen.networks.weights import find_models
from viewgen_pretrained.quality_grid import quality_grid

__all__ = ["NETWORKS", "Evaluation", "evaluate"]

# what users call the networks → kind, and what else helps to measure them
NETWORKS = {"g": "generator", "e": "inverter", "f": "encoder"}
HELPFUL = {
    "generator": {"encoder"},
    "inverter": {"generator", "encoder", "discriminator"},
    "encoder": {"generator", "inverter"},
}
DIAGNOSTIC_OF = {"g": "fidelity", "e": "reconstruction", "f": "recognition"}
NUM_SHOWN = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        dataset: name of the data set.
        measures: rows of the table; the group of a measure is its network.
        files: kind → path and sha256 of the network file.
        notes: omitted measures and the reasons.
        grid: originals, reconstructions and samples, uint8 `(height, width, 3)`; None without a generator.
    """

    dataset: str
    measures: list[Measure]
    files: dict[str, dict[str, str]]
    notes: list[str] = field(default_factory=list)
    grid: np.ndarray[Any, Any] | None = None


def _grid(subject: Subject, num_images: int, num_refined: int, seed: int) -> np.ndarray[Any, Any] | None:
    """Return the grid of images; None without a generator."""
    if not subject.has("generator"):
        return None
    train_rows, test_rows = compared_rows(subject, num_images)
    test, size = subject.test, subject.train.image_size
    shown = spread(len(test_rows), NUM_SHOWN)
    sections = [(f"originals ({test.split})", test.images(test_rows[shown]))]
    if subject.has("inverting"):
        sections.append(("reconstructions g(e(x))", reconstructions(subject, test_rows)[shown]))
        if num_refined:
            sections.append(("refined reconstructions", refined(subject, test_rows[shown], seed)))
    if isinstance(subject.part("generator"), SamplingGenerator):
        sections.append(("samples g(z)", samples(subject, train_rows, 2 * NUM_SHOWN, seed)))
    return quality_grid(sections, title=f"{test.name}, {size} px")


def _find(
    dataset: str,
    kinds: Iterable[str],
    models_dir: str | Path | None,
    overrides: Mapping[str, str | Path],
) -> dict[str, Path]:
    """Return the files of the requested networks, and of available auxiliary networks."""
    kinds = needed = set(kinds)
    if "inverter" in kinds:
        needed = kinds | {"generator"}
        found = find_models(dataset, {"generator"}, models_dir=models_dir, overrides=overrides)
        if "inverter" not in networks_beside(found["generator"]):
            needed -= {"inverter"}  # codes start without one
            if overrides.get("inverter"):
                raise UsageError(
                    f"the generator at {found['generator']} starts its codes itself and would ignore "
                    "--inverter"
                )
    found = find_models(dataset, needed, models_dir=models_dir, overrides=overrides)
    for kind in set().union(*(HELPFUL[kind] for kind in kinds)) - needed:
        try:
            found |= find_models(dataset, {kind}, models_dir=models_dir, overrides=overrides)
        except MissingFileError:
            if overrides.get(kind):
                raise
    return found


def evaluate(
    networks: Iterable[str],
    dataset: str,
    *,
    models_dir: str | Path | None = None,
    overrides: Mapping[str, str | Path] | None = None,
    data_root: str | None = None,
    num_images: int = 10_000,
    num_refined: int = 128,
    features: str = "auto",
    seed: int = 0,
    device: str = "cpu",
) -> Evaluation:
    """Measure networks on a data set.

    Args:
        networks: networks to measure, out of ``"g"``, ``"e"`` and ``"f"``.
        dataset: name of the data set; its train split is the reference, its test split is held out.
        models_dir, overrides: folder and files of networks, see `find_models`.
        data_root: folder of data sets.
        num_images: maximum number of images per split, and of samples.
        num_refined: number of held-out images whose codes are also refined.
        features: ``"inception"`` (FID, KID), ``"encoder"``, or ``"auto"`` for those available.
        seed: seed of the samples.
        device: torch device.

    Raises:
        UsageError: a network or kind of features is unknown, or there are too few images.
        MissingFileError: networks, images or requested Inception weights are missing.
    """
    wanted = list(dict.fromkeys(networks))
    for name in wanted:
        if name not in NETWORKS:
            raise UsageError(
                f"no network {name!r}{nearest_name(name, NETWORKS)} (known: {', '.join(NETWORKS)})"
            )
    if features not in ("auto", "inception", "encoder"):
        raise UsageError(f"features is {features!r}; expected 'auto', 'inception' or 'encoder'")
    if num_images < 4 or num_refined < 0 or not wanted:
        raise UsageError("expected at least one network, at least 4 images, and at least 0 to be refined")
    paths = _find(dataset, [NETWORKS[name] for name in wanted], models_dir, overrides or {})
    train = load_dataset(dataset, "train", data_root=data_root)
    try:
        test = load_dataset(dataset, "test", data_root=data_root)
    except UsageError:  # an image folder without a test split
        test = train
    models = load_models(paths, device)
    for kind in paths:
        size = getattr(models, kind).config.image_size
        if size != train.image_size:
            raise UsageError(
                f"the {kind} at {paths[kind]} is for {size}-px images, those of {train.name} have "
                f"{train.image_size} px"
            )
    given = {kind: getattr(models, kind) for kind in paths} | {"train": train, "test": test}
    parts: dict[str, Callable[[], Any]] = {part: partial(_given, value) for part, value in given.items()}
    parts["inverting"] = partial(_inverting, models)
    subject = Subject(parts, device=device)
    if test is train:
        subject.note(f"{dataset} has no test split: nothing is held out, all is measured on train")
    settings: dict[str, dict[str, Any]] = {
        "g": {"num_images": num_images, "features": features},
        "e": {"num_images": num_images, "num_refined": num_refined},
        "f": {"num_images": num_images},
    }
    measures: list[Measure] = []
    for network, diagnostic in DIAGNOSTIC_OF.items():
        if network in wanted:
            choice = DIAGNOSTICS.resolve(diagnostic, dataset, settings[network])
            measures += choice.build().measure(subject, seed)
    return Evaluation(
        dataset=train.name,
        measures=measures,
        files={kind: {"file": str(path), "sha256": file_digest(path)} for kind, path in paths.items()},
        notes=subject.notes,
        grid=_grid(subject, num_images, num_refined if "e" in wanted else 0, seed),
    )


def _given(value: Any) -> Any:
    return value


def _inverting(models: Models) -> Generator:
    """Return the generator with the start of its codes, or say why there is none."""
    try:
        return models.inverting()
    except ModelError as error:
        raise MissingFileError(str(error)) from error
