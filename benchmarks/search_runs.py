"""One search, by viewgen's engine or as in Han et al., 2023: what several benchmarks run and judge."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from passes import Passes
from reference.generator import PlainSynthesis
from reference.search import paper_search
from torch import Tensor

from viewgen.datasets import load_dataset
from viewgen.diagnostics.classifier import image_classifier
from viewgen.images import to_model, to_storage
from viewgen.inversion.refine import InversionProblem, invert_images, refinement_rule
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import load_models, save_model
from viewgen.networks.stylegan2 import Generator
from viewgen.networks.weights import find_models
from viewgen.recipes import recipe
from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.draws import ImageDraws
from viewgen.views.wsearch.loss import feasible_spread
from viewgen.views.wsearch.problem import WSearchProblem, initial_codes, search_views
from viewgen.views.wsearch.settings import WSearchConfig

__all__ = [
    "NEAR",
    "NUM_VIEWS",
    "fold",
    "invert",
    "measure",
    "paper_settings",
    "run_reference",
    "run_search",
    "search_problem",
]

NUM_VIEWS = 8
NEAR = 0.05


def fold(encoder: Encoder) -> Encoder:
    """Return a copy as viewgen loads encoders: evaluation mode, batch normalisation folded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.safetensors"
        save_model(encoder, path)
        loaded = load_models({"encoder": path}, "cpu").encoder
    assert loaded is not None
    return loaded


def search_problem(
    generator: Generator,
    encoder: Encoder,
    anchors: Tensor,
    features: Tensor,
    config: WSearchConfig,
    num_views: int = NUM_VIEWS,
) -> WSearchProblem:
    """Return the search of views of anchor codes `(N, L, 512)` with projections `(N, K)`."""
    return WSearchProblem(
        generator,
        encoder,
        anchor_features=features,
        anchor_codes=anchors,
        draws=ImageDraws(0, torch.arange(len(anchors))),
        num_views=num_views,
        config=config,
        batch_size=32,
    )


def paper_settings(config: WSearchConfig) -> dict[str, Any]:
    """Return a configuration as `reference.search.paper_search` takes it.

    The batch stops at half the tolerance, root mean square: about as many views then lie within it.
    """
    return {
        "epsilon_boundary": config.epsilon_boundary,
        "epsilon_uniformity": config.epsilon_uniformity,
        "weight": config.uniformity_weight,
        "learning_rate": config.learning_rate,
        "max_steps": config.max_steps,
        "stop_at": (config.tolerance / 2) ** 2,
    }


def invert(num_images: int) -> tuple[Any, Tensor, Tensor]:
    """Return the digits' networks, refined codes `(N, L, 512)` and source indices of the first images."""
    models = load_models(find_models("digits", {"generator", "inverter", "encoder"}), "cpu")
    dataset = load_dataset("digits", "train")
    rows = torch.arange(num_images)
    images = to_model(torch.from_numpy(dataset.images(rows.numpy())))
    config = InvertConfig(**recipe("digits", "invert"))
    generator = models.inverting()
    problem = InversionProblem(generator, None, images, config, 32)
    return models, invert_images(problem, refinement_rule(generator, config), 32, 32).codes[:, 0], rows


def quality(distance: Tensor, spread: Tensor, config: WSearchConfig) -> dict[str, float]:
    """Return the share of views within ±0.05 of ε₁, and the mean spread as a share of the feasible one."""
    bound = feasible_spread(config.epsilon_boundary, NUM_VIEWS)
    return {
        "views_in_tolerance": float(((distance - config.epsilon_boundary).abs() <= NEAR).float().mean()),
        "spread_share_of_bound": float(spread.mean()) / bound,
    }


def measure(models: Any, codes: Tensor, views: Tensor, config: WSearchConfig) -> dict[str, float]:
    """Measure float views' codes `(N, n, L, 512)` against their reconstructions."""
    with torch.no_grad():
        anchors = models.encoder(models.generator.synthesis(codes).clamp(-1, 1))
        z = models.encoder(models.generator.synthesis(views.flatten(0, 1)).clamp(-1, 1))
        z = z.unflatten(0, (-1, NUM_VIEWS))
        pictures = to_storage(models.generator.synthesis(views.flatten(0, 1)).clamp(-1, 1))
        rebuilt = to_storage(models.generator.synthesis(codes).clamp(-1, 1))
    distance = (z - anchors[:, None]).norm(dim=2)
    moved = (views - codes[:, None]).flatten(2).square().mean(dim=2).sqrt()
    return {
        **quality(distance, mean_pairwise_distance(z).mean(dim=1), config),
        "label_kept": label_kept(rebuilt, pictures.unflatten(0, (-1, NUM_VIEWS))),
        "rms_of_codes": float(moved.mean()),
    }


def label_kept(reconstructions: Tensor, views: Tensor) -> float:
    """Return the share of views `(N, n, C, H, W)` that a classifier of pixels reads as their digit.

    Digits whose reconstruction it misreads do not count.
    """
    dataset = load_dataset("digits", "train")
    reader = image_classifier(dataset)
    rows = np.arange(len(views))
    labels = torch.from_numpy(dataset.labels(rows))
    known = reader.scores(reconstructions.numpy(), rows).argmax(dim=1) == labels
    read = reader.scores(views.flatten(0, 1).numpy(), rows.repeat(NUM_VIEWS)).argmax(dim=1)
    kept = read.unflatten(0, (-1, NUM_VIEWS)) == labels[:, None]
    return float(kept[known].float().mean())


def run_search(
    models: Any, codes: Tensor, rows: Tensor, config: WSearchConfig, num_slots: int
) -> dict[str, float]:
    """Run viewgen's engine; seconds, evaluations of an image, quality."""
    started = time.perf_counter()
    with Passes(models.encoder) as passes:
        with torch.no_grad():
            anchors = torch.cat(
                [models.encoder(models.generator.synthesis(c).clamp(-1, 1)) for c in codes.split(32)]
            )
        problem = search_problem(models.generator, models.encoder, codes, anchors, config)
        result = search_views(problem, num_slots, 4)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "updates_per_image": float(result.steps.float().mean()),
        "converged_share": float((result.status == 1).float().mean()),
        **passes.per_view(len(codes) * NUM_VIEWS),
        **measure(models, codes, result.codes, config),
    }


def run_reference(
    models: Any, plain: PlainSynthesis, codes: Tensor, rows: Tensor, config: WSearchConfig, batch_size: int
) -> dict[str, float]:
    """Run the paper's procedure batch by batch."""
    started = time.perf_counter()
    found, steps = [], []
    for part, ids in zip(codes.split(batch_size), rows.split(batch_size), strict=True):
        start = initial_codes(part, ImageDraws(0, ids), NUM_VIEWS, noise=config.init_noise, stage="wsearch")
        outcome = paper_search(
            plain,
            models.encoder,
            part,
            start,
            **paper_settings(config),
        )
        found.append(outcome.w)
        steps += [outcome.steps] * len(part)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "updates_per_image": sum(steps) / len(steps),
        **measure(models, codes, torch.cat(found), config),
    }
