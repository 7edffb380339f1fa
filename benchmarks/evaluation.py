"""Evaluation: nearest neighbours against a loop and scikit-learn, and a probe on cached features.

"5-NN" classifies among as many features as CIFAR-10 has training images, of ResNet18's width. The loop asks
for the distances of one test image at a time. "probe" compares an epoch of one linear probe on features that
are computed once with an epoch that computes them again, per image.

    python benchmarks/evaluation.py
"""

import click
import torch
import torch.nn.functional as F
from measure import interleave, ratio, write_result
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from viewgen.encoder import Encoder, EncoderConfig
from viewgen_train.features import Features
from viewgen_train.neighbours import nearest_neighbours
from viewgen_train.probe import ProbeConfig, linear_probe

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


def compare_neighbours(num_train: int, num_test: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time neighbours of unit vectors; all contenders must find the same."""
    torch.manual_seed(0)
    train, test = (F.normalize(torch.randn(count, WIDTH), dim=1) for count in (num_train, num_test))
    reference = NearestNeighbors(n_neighbors=NUM_NEIGHBOURS, algorithm="brute").fit(train.numpy())

    def ours(samples: Tensor) -> Tensor:
        return nearest_neighbours(train, samples, num_neighbours=NUM_NEIGHBOURS, metric="euclidean")

    expected = one_by_one(train, test[:LOOPED])
    assert torch.equal(ours(test[:LOOPED]), expected)
    assert reference.kneighbors(test[:LOOPED], return_distance=False).tolist() == expected.tolist()
    seconds = interleave(
        {
            "loop": lambda: one_by_one(train, test[:LOOPED]),
            "scikit-learn": lambda: reference.kneighbors(test.numpy(), return_distance=False),
            "viewgen": lambda: ours(test),
        },
        rounds,
    )
    fast = per_item(seconds["viewgen"], num_test)
    return {
        "5-NN of 50,000 × 512: loop / viewgen": ratio(per_item(seconds["loop"], LOOPED), fast),
        "5-NN of 50,000 × 512: scikit-learn / viewgen": ratio(
            per_item(seconds["scikit-learn"], num_test), fast
        ),
    }


def compare_probes(num_images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time an epoch of a probe with and without computing features, per image."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(image_size=32)).eval()
    images = torch.rand(ENCODED, 3, 32, 32) * 2 - 1
    features = Features(embeddings=torch.randn(num_images, WIDTH), labels=torch.arange(num_images) % 10)
    config = ProbeConfig(epochs=1, num_seeds=1)

    @torch.no_grad()
    def encode() -> None:
        encoder.embed(images)

    seconds = interleave(
        {"encode": encode, "probe": lambda: linear_probe(features, features, config)}, rounds
    )
    probe = per_item(seconds["probe"], num_images)
    encoding = per_item(seconds["encode"], ENCODED)
    again = [a + b for a, b in zip(encoding, probe, strict=True)]
    return {"probe's epoch: ResNet18 features anew / cached": ratio(again, probe)}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--num-test", default=512, show_default=True, help="Test samples of a round.")
@click.option("--threads", default=None, type=int, help="[default: torch's]")
def main(rounds: int, num_test: int, threads: int | None) -> None:
    """Measure, print and write results/evaluation.json."""
    if threads is not None:
        torch.set_num_threads(threads)
    ratios = compare_neighbours(50_000, num_test, rounds) | compare_probes(10_000, rounds)
    for name, value in ratios.items():
        click.echo(f"{name}: {value['median']:.1f} ({value['low']:.1f} to {value['high']:.1f})")
    document = {"threads": torch.get_num_threads(), "ratios": ratios}
    click.echo(write_result("evaluation", document, ("torch", "scikit-learn")))


if __name__ == "__main__":
    main()
