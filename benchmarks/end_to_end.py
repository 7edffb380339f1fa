"""From images to views on disk: `viewgen cache` against that of Han et al., 2023, and inversion alone.

"paper" inverts a batch with a fixed number of Adam steps (in-domain loss), searches its views until the
batch's mean boundary loss says that they lie on the boundary, and writes every view as a PNG file with an npz
file of numbers per image. Its networks compute with grouped, per-sample weights (`benchmarks/reference/`) and
leave gradients of the weights on; with `--frozen` they ask for none, the one change anybody would make.
viewgen does the same work by `viewgen cache`'s function in one process: from loading the networks to the last
commit record. Both get the same networks, ε₁, ε₂ and λ, and invert to about the same error, the paper's by 12
steps of Adam; seconds are per image, the paper's of one batch.

The stored 8-bit views are then judged by one ruler: share within 0.05 of ε₁ around the reconstruction, and
mean pairwise distance as a share of the feasible one.

    python benchmarks/end_to_end.py
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import fresh_run, interleave, row, write_result
from PIL import Image
from reference.generator import PlainSynthesis
from reference.search import paper_search
from search_runs import paper_settings
from torch import Tensor

from viewgen.datasets import load_dataset
from viewgen.images import to_model, to_storage
from viewgen.inversion.refine import InversionProblem, invert_images, refinement_rule
from viewgen.inversion.settings import InvertConfig
from viewgen.memory import keep_freed_memory
from viewgen.networks.files import Models, load_models
from viewgen.networks.weights import find_models
from viewgen.recipes import recipe
from viewgen.store import CacheReader
from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.draws import ImageDraws
from viewgen.views.wsearch.loss import feasible_spread
from viewgen.views.wsearch.problem import initial_codes
from viewgen.views.wsearch.settings import WSearchConfig
from viewgen_pipelines.cache import cache

DATASET, NUM_VIEWS, NEAR = "digits", 8, 0.05
ADAM_STEPS = 12
OURS, PAPER, FROZEN = "viewgen", "paper", "paper, frozen weights"
BY_ADAM = "viewgen, 12 steps of Adam (0.1.0)"


def load(frozen: bool = True) -> tuple[Models, PlainSynthesis]:
    """Return the networks, and the reference's generator with the same weights."""
    models = load_models(find_models(DATASET, {"generator", "inverter", "encoder"}), "cpu")
    assert models.generator is not None
    plain = PlainSynthesis(models.generator.state_dict(), models.generator.config.image_size)
    for network in (plain, models.encoder, models.inverter):
        assert network is not None
        network.requires_grad_(not frozen)
    return models, plain


def originals(num_images: int) -> Tensor:
    """Return the first model images of the data set."""
    return to_model(torch.from_numpy(load_dataset(DATASET, "train").images(np.arange(num_images))))


def paper_inversion(models: Models, plain: PlainSynthesis, images: Tensor, config: InvertConfig) -> Tensor:
    """Refine the codes of one batch with a fixed number of steps; returns `(B, L, 512)`."""
    inverter = models.inverter
    assert inverter is not None
    with torch.no_grad():
        first = inverter(images)
    w = first.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([w], lr=config.learning_rate)
    for _ in range(ADAM_STEPS):
        made = plain(w)
        loss = (made - images).square().mean(dim=(1, 2, 3)).sum()
        loss = loss + config.domain_weight * (inverter(made) - first).square().mean(dim=(1, 2)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return w.detach()


def paper_cache(num_images: int, folder: Path, *, frozen: bool, batch_size: int = 32) -> None:
    """Make the views of the first images, batch by batch, and write them as files."""
    models, plain = load(frozen)
    dataset = load_dataset(DATASET, "train")
    invert = InvertConfig(**recipe(DATASET, "invert"))
    search = WSearchConfig(**{**recipe(DATASET, "wsearch"), "start": "noise", "max_steps": 200})
    for rows in torch.arange(num_images).split(batch_size):
        images = to_model(torch.from_numpy(dataset.images(rows.numpy())))
        anchors = paper_inversion(models, plain, images, invert)
        draws = ImageDraws(0, rows)
        start = initial_codes(anchors, draws, NUM_VIEWS, noise=search.init_noise, stage="wsearch")
        assert models.encoder is not None
        found = paper_search(
            plain,
            models.encoder,
            anchors,
            start,
            **paper_settings(search),
        )
        with torch.no_grad():
            views = to_storage(plain(found.w.flatten(0, 1))).unflatten(0, (-1, NUM_VIEWS)).numpy()
        for row_number, own, code in zip(rows.tolist(), views, anchors.numpy(), strict=True):
            np.savez(folder / f"{row_number:05}.npz", anchor=code, steps=found.steps)
            for index, view in enumerate(own):
                Image.fromarray(view.transpose(1, 2, 0)).save(folder / f"{row_number:05}-{index}.png")


def viewgen_cache(num_images: int, folder: Path) -> None:
    """Make the same by viewgen, its inversions included."""
    cache(
        DATASET,
        out=str(folder / "views.zarr"),
        inversions=str(folder / "inversions.zarr"),
        limit=num_images,
        executor="local",
        views=NUM_VIEWS,
        quiet=True,
    )


def run(contender: str, num_images: int, folder: Path) -> None:
    """Run a contender to its last file."""
    if contender == OURS:
        viewgen_cache(num_images, folder)
    else:
        paper_cache(num_images, folder, frozen=contender == FROZEN)


def stored(contender: str, num_images: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Return what a contender stored: views `(N, V, 3, H, W)`, uint8, and anchors' codes `(N, L, 512)`."""
    if contender == OURS:
        reader = CacheReader(str(folder / "views.zarr"))
        codes = CacheReader(str(folder / "inversions.zarr")).array("anchor_w_plus")
        return torch.from_numpy(reader.views(reader.rows)), torch.from_numpy(codes)
    views = [
        np.stack([np.asarray(Image.open(folder / f"{row:05}-{index}.png")) for index in range(NUM_VIEWS)])
        for row in range(num_images)
    ]
    codes = np.stack([np.load(folder / f"{row:05}.npz")["anchor"] for row in range(num_images)])
    return torch.from_numpy(np.stack(views)).permute(0, 1, 4, 2, 3), torch.from_numpy(codes)


@torch.no_grad()
def judge(models: Models, views: Tensor, codes: Tensor, images: Tensor) -> dict[str, float]:
    """Return the qualities of stored views and of the codes that they were searched from."""
    assert models.generator is not None
    assert models.encoder is not None
    config = WSearchConfig(**recipe(DATASET, "wsearch"))
    made = models.generator.synthesis(codes).clamp(-1, 1)
    z = models.encoder(to_model(views.flatten(0, 1))).unflatten(0, (-1, NUM_VIEWS))
    distance = (z - models.encoder(made)[:, None]).norm(dim=2)
    spread = mean_pairwise_distance(z).mean()
    return {
        "views_in_tolerance": float(((distance - config.epsilon_boundary).abs() <= NEAR).float().mean()),
        "spread_share_of_bound": float(spread) / feasible_spread(config.epsilon_boundary, NUM_VIEWS),
        "inversion_mse": float((made - images).square().mean()),
    }


def one_call(contender: str, num_images: int, folder: str) -> Callable[[], object]:
    """Return one run of a contender."""
    return lambda: run(contender, num_images, Path(folder))


def one_inversion(contender: str, num_images: int) -> Callable[[], Tensor]:
    """Return the inversion of some images, 32 at once, which returns codes."""
    config = InvertConfig(**recipe(DATASET, "invert"))
    if contender == BY_ADAM:
        config = config.replace(solver="adam", max_steps=ADAM_STEPS)
    images = originals(num_images)
    models, plain = load(frozen=contender != PAPER)
    if contender not in (OURS, BY_ADAM):
        return lambda: torch.cat([paper_inversion(models, plain, part, config) for part in images.split(32)])
    keep_freed_memory()
    generator = models.inverting()
    rule = refinement_rule(generator, config)

    def run() -> Tensor:
        problem = InversionProblem(generator, None, images, config, 32)
        return invert_images(problem, rule, 32, 32).codes[:, 0]

    return run


@torch.no_grad()
def judge_inversion(codes: Tensor, images: Tensor) -> dict[str, float]:
    """Return the qualities of codes: error, PSNR in dB, feature distance, drift (docs/inversion.md)."""
    models = load()[0]
    generator, encoder, inverter = models.generator, models.encoder, models.inverter
    assert generator is not None
    assert encoder is not None
    assert inverter is not None
    made = generator.synthesis(codes).clamp(-1, 1)
    error = (made - images).square().mean(dim=(1, 2, 3))
    return {
        "mse": float(error.mean()),
        "psnr_db": float((10 * torch.log10(4 / error)).mean()),
        "feature_distance": float((encoder(made) - encoder(images)).norm(dim=1).mean()),
        "drift": float((codes - inverter(made)).square().mean().sqrt()),
    }


def compare_inversions(paper: str, num_images: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Time the inversion of the first training images alone; returns rows of the table."""
    calls = {name: one_inversion(name, num_images) for name in (paper, BY_ADAM, OURS)}
    generator, config = load()[0].inverting(), InvertConfig(**recipe(DATASET, "invert"))
    once = statistics.median(interleave({"once": lambda: refinement_rule(generator, config)}, rounds)["once"])
    seconds = interleave(calls, rounds)
    found = {name: judge_inversion(call(), originals(num_images)) for name, call in calls.items()}
    told = {
        name: "{}: error {mse:.5f}, PSNR {psnr_db:.2f} dB, feature distance {feature_distance:.3f}, drift "
        "{drift:.3f}".format(name, **one)
        for name, one in found.items()
    }
    return {
        f"inversion: {name} / {OURS}": row(
            seconds[name],
            seconds[OURS],
            quality=f"{told[OURS]}; {told[name]}; once per worker, not counted: {once:.2f} s",
        )
        for name in (paper, BY_ADAM)
    }


def describe(found: dict[str, float]) -> str:
    """Return qualities in a few words."""
    return (
        f"{found['views_in_tolerance']:.1%} of views within {NEAR} of ε₁, spread "
        f"{found['spread_share_of_bound']:.0%} of the bound"
    )


@click.command()
@click.option("--images", default=64, show_default=True, help="Digits of which viewgen makes views.")
@click.option("--paper-images", default=12, show_default=True, help="How many of them the paper's way gets.")
@click.option("--frozen", is_flag=True, help="The paper's way asks for no gradients of the weights.")
@click.option("--rounds", default=2, show_default=True)
def main(images: int, paper_images: int, frozen: bool, rounds: int) -> None:
    """Measure, print and write results/end_to_end.json."""
    paper = FROZEN if frozen else PAPER
    counts = {paper: paper_images, OURS: images}
    seconds: dict[str, list[float]] = {name: [] for name in counts}
    models, _ = load()
    found, peaks = {}, {}
    for _ in range(rounds):
        for name, count in counts.items():
            with tempfile.TemporaryDirectory() as folder:
                elapsed, peaks[name] = fresh_run(one_call, name, count, folder)
                seconds[name].append(elapsed / count)
                found[name] = judge(models, *stored(name, count, Path(folder)), originals(count))
            click.echo(f"{seconds[name][-1]:8.3f} s per image, {name}: {describe(found[name])}")
    ratios = {
        f"end to end: {paper} / {OURS}": row(
            seconds[paper],
            seconds[OURS],
            quality=f"{OURS}: {describe(found[OURS])}; {paper}: {describe(found[paper])}",
            memory=peaks,
        )
    }
    ratios |= compare_inversions(paper, 128, max(3, rounds))
    document = {
        "ratios": ratios,
        "images": counts,
        "seconds_per_image": {name: statistics.median(times) for name, times in seconds.items()},
        "qualities": found,
    }
    write_result("end_to_end", document, ("torch", "zarr"))
    for name, value in ratios.items():
        click.echo(f"{value['median']:8.2f} × ({value['low']:.2f} … {value['high']:.2f})  {name}")


if __name__ == "__main__":
    main()
