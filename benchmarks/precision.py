"""bfloat16 against float32: one step of W-search, and searches and inversions of digits to their end.

"step" is a forward and backward pass through generator and encoder with the paper's networks (512 channels,
ResNet-18, random weights) and with those of the digits. "search" and "inversion" are the methods themselves
with what they store: in bfloat16 that includes the images that go on in float32.

    python benchmarks/precision.py
"""

from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from measure import interleave, ratio, write_result
from torch import Tensor

from viewgen.datasets import load_dataset
from viewgen.memory import keep_freed_memory
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import Models, load_models
from viewgen.networks.layout import channels_last, fold_batch_norms
from viewgen.networks.precision import PRECISIONS, at_precision, native_bfloat16
from viewgen.networks.stylegan2 import Generator, GeneratorConfig, public_channels
from viewgen.networks.weights import find_models
from viewgen.status import Status
from viewgen.views import VIEWS
from viewgen.views.draws import ImageDraws
from viewgen.views.entry import Resources
from viewgen.views.offline import Batch, Step, offline_step
from viewgen.views.wsearch.problem import clamp_to_range, initial_codes

NUM_VIEWS = 8


def paper_models() -> Models:
    """Return networks of the paper's size at 32 px, with random weights."""
    torch.manual_seed(0)
    config = GeneratorConfig(image_size=32, channels=public_channels(32, 2), num_mapping_layers=2)
    encoder = Encoder(EncoderConfig(image_size=32)).eval()
    fold_batch_norms(encoder)
    return Models(
        device=torch.device("cpu"),
        generator=Generator(config).eval().requires_grad_(False),
        encoder=channels_last(encoder).requires_grad_(False),
    )


def step_of(models: Models, precision: Any, w: Tensor) -> Callable[[], object]:
    """Return one forward and backward pass of codes `(B, L, D)`."""
    assert models.generator is not None
    assert models.encoder is not None
    generator, encoder = (at_precision(net, precision) for net in (models.generator, models.encoder))
    target = torch.nn.functional.normalize(torch.ones(1, encoder.config.projection_dim), dim=1)

    def step() -> None:
        leaf = w.clone().requires_grad_()
        distance = (encoder(clamp_to_range(generator.synthesis(leaf))) - target).norm(dim=1)
        torch.autograd.grad(distance.sum(), leaf)

    return step


def time_steps(models: Models, num_codes: int, rounds: int) -> dict[str, float]:
    assert models.generator is not None
    w = models.generator.broadcast(models.generator.mapping(torch.randn(num_codes, 512))).contiguous()
    seconds = interleave({name: step_of(models, name, w) for name in PRECISIONS}, rounds)
    return ratio(seconds["float32"], seconds["bfloat16"])


def make_step(name: str, models: Models, **settings: Any) -> Step:
    """Return a method as a cache of digits runs it."""
    choice, resources = VIEWS.resolve(name, "digits", settings), Resources(models=models)
    num_views = choice.entry.num_views or NUM_VIEWS
    return offline_step(choice.build(resources), resources, seed=0, num_views=num_views)


def compare(name: str, models: Models, batch: Batch, rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the ratio of seconds of a method on the digits, and the quality at either precision."""
    outputs: dict[str, Batch] = {}

    def run(precision: str, step: Step) -> None:
        outputs[precision] = step(batch)

    contenders = {}
    for precision in PRECISIONS:
        step = make_step(name, models, precision=precision)
        contenders[precision] = lambda precision=precision, step=step: run(precision, step)
    seconds = interleave(contenders, rounds, warm_up=0)
    quality = {precision: quality_of(name, found) for precision, found in outputs.items()}
    return ratio(seconds["float32"], seconds["bfloat16"]), quality


@torch.no_grad()
def rounding(models: Models, batch: Batch) -> dict[str, float]:
    """Return by how much bfloat16 misses the distance of views from their anchor, 0.2 σ of noise away."""
    assert models.generator is not None
    assert models.encoder is not None
    anchors = torch.from_numpy(batch["anchor_w_plus"])
    draws = ImageDraws(0, torch.from_numpy(batch["source_index"]))
    w = initial_codes(anchors, draws, 1, noise=0.2, stage="rounding")[:, 0]
    target = models.encoder(models.generator.synthesis(anchors).clamp(-1, 1))
    exact, rounded = (
        (
            at_precision(models.encoder, p)(at_precision(models.generator, p).synthesis(w).clamp(-1, 1))
            - target
        )
        for p in PRECISIONS
    )
    off = (rounded.norm(dim=1) - exact.norm(dim=1)).abs()
    return {
        "mean_distance": float(exact.norm(dim=1).mean()),
        "mean_error": float(off.mean()),
        "largest_error": float(off.max()),
    }


def quality_of(name: str, found: Batch) -> dict[str, float]:
    steps = float(found["steps"].mean())
    if name == "invert":
        return {"steps": steps, "mean_squared_error": float(found["inversion_error"].mean())}
    epsilon = VIEWS.resolve(name, "digits", {}).settings.epsilon_boundary
    off = np.abs(found["distance"] - epsilon)
    return {
        "steps": steps,
        "converged": float((found["status"] == Status.OK).mean()),
        "views_within_0.03": float((off <= 0.03).mean()),
        "views_within_0.05": float((off <= 0.05).mean()),
        "mean_pairwise": float(found["mean_pairwise"].mean()),
        "went_on_in_float32": float(found["continued"].mean()) if "continued" in found else 0.0,
    }


@click.command()
@click.option("--codes", default=8, show_default=True, help="Codes of the step with the paper's networks.")
@click.option("--images", default=48, show_default=True, help="Digits to invert and search.")
@click.option("--rounds", default=3, show_default=True)
def main(codes: int, images: int, rounds: int) -> None:
    """Measure, print and write the result file."""
    keep_freed_memory()
    models = load_models(find_models("digits", {"generator", "inverter", "encoder"}), "cpu")
    dataset = load_dataset("digits", "train")
    rows = np.arange(images)
    batch: Batch = {"image": dataset.images(rows), "label": dataset.labels(rows), "source_index": rows}
    ratios = {
        "step, 512 channels and ResNet-18": time_steps(paper_models(), codes, rounds),
        "step, networks of the digits": time_steps(models, 32, 3 * rounds),
    }
    qualities = {}
    ratios["inversion of digits"], qualities["inversion"] = compare("invert", models, batch, rounds)
    start = make_step("invert", models)(batch)
    batch |= {"anchor_w_plus": start["anchor_w_plus"], "anchor_error": start["inversion_error"]}
    ratios["search of digits"], qualities["search"] = compare("wsearch", models, batch, rounds)
    document = {
        "native_bfloat16": native_bfloat16(),
        "threads": torch.get_num_threads(),
        "images": images,
        "rounding": rounding(models, batch),
        "ratios": ratios,
        "quality": qualities,
    }
    path = write_result("precision", document, ("torch", "torchvision"))
    for name, value in ratios.items():
        click.echo(
            f"{value['median']:6.2f} × ({value['low']:.2f} … {value['high']:.2f})  float32 / bfloat16: {name}"
        )
    for name, found in qualities.items():
        for precision, values in found.items():
            text = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            click.echo(f"{name} in {precision}: {text}")
    click.echo(f"written: {path}")


if __name__ == "__main__":
    main()
