"""Evaluation: nearest neighbours against a loop, faiss and scikit-learn, and a probe on cached features.

"5-NN" classifies among as many features as CIFAR-10 has training images, of ResNet18's width. The loop asks
for the distances of one test image at a time; faiss searches its exact index (`IndexFlatL2`) on as many
threads as PyTorch. "probe" compares an epoch of one linear probe on features that are computed once with an
epoch that computes them again, per image.

    python benchmarks/evaluation.py
"""

from collections.abc import Callable
from typing import Any

import click
import faiss
import numpy as np
import torch
import torch.nn.functional as F
from measure import interleave, peak_bytes, row, write_result
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from viewgen.diagnostics import knn
from viewgen.diagnostics.features import Features
from viewgen.diagnostics.knn import nearest_neighbours
from viewgen.diagnostics.probe import ProbeConfig, linear_probe
from viewgen.networks.encoder import Encoder, EncoderConfig

NUM_TRAIN = 50_000
NUM_NEIGHBOURS = 5
WIDTH = 512
LOOPED = 8
ENCODED = 64


def one_by_one(train: Tensor, test: Tensor) -> Tensor:
    """Return neighbours, the distances of one test sample after another."""
    found = []
    for sample in test:
        distance = (train - sample).square().sum(dim=1).sqrt()
        found.append(distance.argsort()[:NUM_NEIGHBOURS])
    return torch.stack(found)


def per_item(seconds: list[float], count: int) -> list[float]:
    return [value / count for value in seconds]


def contenders(num_test: int) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Return functions that find the neighbours of unit vectors, and how many test samples each is given."""
    torch.manual_seed(0)
    train, test = (F.normalize(torch.randn(count, WIDTH), dim=1) for count in (NUM_TRAIN, num_test))
    by_sklearn = NearestNeighbors(n_neighbors=NUM_NEIGHBOURS, algorithm="brute").fit(train.numpy())
    faiss.omp_set_num_threads(torch.get_num_threads())
    by_faiss = faiss.IndexFlatL2(WIDTH)
    by_faiss.add(train.numpy())

    def ours(*, by_faiss: bool) -> Any:
        knn.FAISS_PAIRS = 0 if by_faiss else 10**18
        return nearest_neighbours(train, test, num_neighbours=NUM_NEIGHBOURS, metric="euclidean").numpy()

    found: dict[str, Callable[[], Any]] = {
        "viewgen": lambda: ours(by_faiss=False),
        "viewgen where faiss is installed": lambda: ours(by_faiss=True),
        "loop": lambda: one_by_one(train, test[:LOOPED]).numpy(),
        "faiss": lambda: by_faiss.search(test.numpy(), NUM_NEIGHBOURS)[1],
        "scikit-learn": lambda: by_sklearn.kneighbors(test.numpy(), return_distance=False),
    }
    return found, {name: LOOPED if name == "loop" else num_test for name in found}


def one_call(name: str, num_test: int, num_threads: int) -> Callable[[], object]:
    """Return one call of a contender, for the measurement of its memory."""
    torch.set_num_threads(num_threads)
    return contenders(num_test)[0][name]


def compare_neighbours(num_test: int, rounds: int, memory: bool) -> dict[str, dict[str, Any]]:
    """Time all contenders; say how many of their neighbours are ours."""
    calls, counts = contenders(num_test)
    ours = calls["viewgen"]()
    agreement = {
        name: float(np.mean(np.asarray(call()) == ours[: counts[name]])) for name, call in calls.items()
    }
    seconds = interleave(calls, rounds)
    peaks = {name: peak_bytes(one_call, name, num_test, torch.get_num_threads()) for name in calls if memory}
    return {
        f"5-NN of 50,000 × 512: {name} / viewgen": row(
            per_item(seconds[name], counts[name]),
            per_item(seconds["viewgen"], num_test),
            quality=f"{agreement[name]:.2%} of the neighbours are the same",
            memory={key: peaks.get(key) for key in (name, "viewgen")},
        )
        for name in calls
        if name != "viewgen"
    }


def probe_work(num_images: int) -> dict[str, Callable[[], Any]]:
    """Return functions that encode a few images, and that train a probe on known features for an epoch."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(image_size=32)).eval().requires_grad_(False)
    images = torch.rand(ENCODED, 3, 32, 32) * 2 - 1
    features = Features(embeddings=torch.randn(num_images, WIDTH), labels=torch.arange(num_images) % 10)
    config = ProbeConfig(epochs=1, num_seeds=1)
    return {
        "encode": lambda: encoder.embed(images),
        "probe": lambda: linear_probe(features, features, config),
    }


def one_probe_call(name: str, num_images: int) -> Callable[[], object]:
    """Return one of `probe_work`, for the measurement of its memory."""
    return probe_work(num_images)[name]


def compare_probes(num_images: int, rounds: int, memory: bool) -> dict[str, dict[str, Any]]:
    """Time an epoch of a probe with and without computing features, per image."""
    seconds = interleave(probe_work(num_images), rounds)
    probe = per_item(seconds["probe"], num_images)
    encoding = per_item(seconds["encode"], ENCODED)
    again = [a + b for a, b in zip(encoding, probe, strict=True)]
    names = {f"encoding {ENCODED} images": "encode", "the epoch": "probe"}
    peaks = {what: peak_bytes(one_probe_call, name, num_images) for what, name in names.items() if memory}
    quality = "the same features, so the same accuracy"
    return {
        "probe's epoch: ResNet18 features anew / cached": row(again, probe, quality=quality, memory=peaks)
    }


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--num-test", default=512, show_default=True, help="Test samples of a round.")
@click.option("--threads", default=None, type=int, help="[default: torch's]")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure memory too.")
def main(rounds: int, num_test: int, threads: int | None, memory: bool) -> None:
    """Measure, print and write results/evaluation.json."""
    if threads is not None:
        torch.set_num_threads(threads)
    ratios = compare_neighbours(num_test, rounds, memory) | compare_probes(10_000, rounds, memory)
    for name, value in ratios.items():
        click.echo(f"{name}: {value['median']:.1f} ({value['low']:.1f} to {value['high']:.1f})")
    document = {"threads": torch.get_num_threads(), "ratios": ratios}
    click.echo(write_result("evaluation", document, ("torch", "scikit-learn", "faiss-cpu")))


if __name__ == "__main__":
    main()
