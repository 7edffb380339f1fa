"""Ways to a code for an image: the inverter alone, in-domain refinement, optimisation from the mean latent.

All of them invert the same held-out images in turn. "in-domain refinement" is what `viewgen cache` does by
the data set's recipe; other lengths of it show what a step buys. "Adam" minimises the same loss with the
solver and the number of steps of 0.1.0, which the default's steps were chosen to equal on training images;
both invert images of both splits once more, beside controls. "without domain term" leaves out
λ_d·‖e(x) − e(g(w))‖². "plain optimisation" knows no inverter: it starts at the mean latent and minimises the
pixel error alone by Adam, as GAN projection does. Every image stops on its own by the same rule. Times leave
out what a worker does once, the estimate of the mean curvature; it has a line of its own.

Error and feature distance are those of the stored 8-bit reconstruction. A code's drift is the root mean
square of w − e(g(w)): small where the code lies in the domain that the inverter knows. What codes are for
shows in views: the last column is the kernel distance (encoder features) of their W-perturb views from
training images.

    python benchmarks/inversion.py
    python benchmarks/inversion.py --dataset digits --dataset fashion-mnist --page docs/inversion.md
"""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from measure import interleave, ratio, write_result
from torch import Tensor

from viewgen.datasets import load_dataset
from viewgen.diagnostics.distances import kernel_distance
from viewgen.diagnostics.knn import knn_accuracy
from viewgen.errors import MissingFileError
from viewgen.images import to_model
from viewgen.inversion.curvature import mean_curvature
from viewgen.inversion.perceptual import build_perceptual
from viewgen.inversion.refine import InversionProblem, invert_images, refinement_rule
from viewgen.inversion.settings import InvertConfig
from viewgen.memory import keep_freed_memory
from viewgen.networks.batched import project, render
from viewgen.networks.files import Models, file_digest, load_models
from viewgen.networks.generator import class_labels
from viewgen.networks.weights import find_models
from viewgen.optimise.slots import UpdateRule
from viewgen.recipes import recipe
from viewgen.views.draws import ImageDraws
from viewgen.views.wperturb import WPerturbConfig
from viewgen.views.wsearch.problem import initial_codes

AT_ONCE = 32
# updates of 0.1.0; elsewhere four times those of the default
ADAM_STEPS = {"digits": 12, "fashion-mnist": 100}
PLAIN_STEPS = (50, 200)
DEFAULT = "in-domain refinement (default)"
BY_ADAM = "the same by Adam, {} steps (0.1.0)"
NUM_VIEWS = 8
HEADS = (
    "way",
    "steps",
    "error (MSE)",
    "PSNR, dB",
    "feature distance",
    "5-NN",
    "ms per image",
    "drift",
    "views' distance",
)


class FromMeanLatent(InversionProblem):
    """Starts every image at the generator's mean latent."""

    def start(self, rows: Tensor) -> Tensor:
        """Return the mean latent for every layer of every image, `(A, 1, L, D)`."""
        first = super().start(rows)
        return self.generator.generator.latent_avg.expand_as(first).clone()


class Images:
    """Images of a data set and the networks for them."""

    def __init__(self, dataset: str, num_images: int, models_dir: str | None, split: str) -> None:
        kinds = {"generator", "discriminator", "inverter", "encoder"}
        paths = find_models(dataset, kinds, models_dir=models_dir)
        self.digests = {kind: file_digest(path) for kind, path in paths.items()}
        self.models: Models = load_models(paths, "cpu")
        self.train, self.data = load_dataset(dataset, "train"), load_dataset(dataset, split)
        rows = torch.arange(min(num_images, len(self.data))) * len(self.data) // num_images
        self.images = to_model(torch.from_numpy(self.data.images(rows.numpy())))
        self.targets = torch.from_numpy(self.data.labels(rows.numpy()))
        self.config = config = InvertConfig(**recipe(dataset, "invert"))
        self.perceptual = build_perceptual(config.perceptual, self.models.discriminator, self.models.device)

    def invert(
        self,
        config: InvertConfig,
        rule: UpdateRule,
        problem_class: type[InversionProblem] = InversionProblem,
    ) -> tuple[Tensor, float]:
        """Return codes `(N, L, D)` and the mean number of steps."""
        generator = self.models.inverting()
        perceptual = self.perceptual if config.perceptual_weight else None
        labels = class_labels(self.targets, generator.num_classes)
        problem = problem_class(generator, perceptual, self.images, config, AT_ONCE, labels)
        found = invert_images(problem, rule, AT_ONCE, AT_ONCE)
        return found.codes[:, 0], float(found.steps.double().mean())

    @torch.no_grad()
    def measure(self, codes: Tensor, steps: float) -> dict[str, float]:
        """Return the qualities of codes."""
        generator, encoder = self.models.generator, self.models.encoder
        assert generator is not None
        assert encoder is not None
        made = render(generator, codes, AT_ONCE)
        error = (to_model(made) - self.images).square().mean(dim=(1, 2, 3))
        features, originals = project(encoder, made, AT_ONCE), encoder(self.images)
        if not hasattr(self, "known"):
            every = (
                torch.arange(min(len(self.train), 10_000)) * len(self.train) // min(len(self.train), 10_000)
            )
            parts = [self.train.images(part.numpy()) for part in every.split(256)]
            self.known = torch.cat([encoder.embed(to_model(torch.from_numpy(part))) for part in parts])
            self.known_labels = torch.from_numpy(self.train.labels(every.numpy()))
        embedded = torch.cat([encoder.embed(to_model(part)) for part in made.split(256)])
        return {
            "steps": steps,
            "mse": float(error.mean()),
            "psnr_db": float((10 * torch.log10(4 / error.clamp_min(1e-12))).mean()),
            "feature_distance": float((features - originals).norm(dim=1).mean()),
            "knn5_top1": knn_accuracy(self.known, self.known_labels, embedded, self.targets),
            "drift": float((codes - self.inverted(made)).square().mean().sqrt()),
            "views_distance": self.views_distance(codes),
        }

    def inverted(self, made: Tensor) -> Tensor:
        """Return e(g(w)) of storage images."""
        inverter = self.models.inverter
        assert inverter is not None
        labels = class_labels(self.targets, inverter.config.num_classes)
        codes: Tensor = inverter(to_model(made), labels)
        return codes

    def views_distance(self, codes: Tensor) -> float:
        """Return the kernel distance between W-perturb views of the codes and training images."""
        generator, encoder = self.models.generator, self.models.encoder
        assert generator is not None
        assert encoder is not None
        sigma = WPerturbConfig(**recipe(self.data.name, "wperturb")).sigma
        draws = ImageDraws(0, torch.arange(len(codes)))
        moved = initial_codes(codes, draws, NUM_VIEWS, noise=sigma, stage="wperturb")
        views = render(generator, moved.flatten(0, 1), AT_ONCE)
        features = torch.cat([encoder.embed(to_model(part)) for part in views.split(256)])
        return kernel_distance(features, self.known)

    @torch.no_grad()
    def references(self) -> dict[str, float]:
        """Return the 5-NN accuracy of the images themselves, and their kernel distance."""
        encoder = self.models.encoder
        assert encoder is not None
        embedded = encoder.embed(self.images)
        return {
            "knn5_top1_of_originals": knn_accuracy(self.known, self.known_labels, embedded, self.targets),
            "distance_of_originals": kernel_distance(embedded, self.known),
        }

    def way(
        self, problem_class: type[InversionProblem] = InversionProblem, **changes: Any
    ) -> Callable[[], tuple[Tensor, float]]:
        """Return a contender: the recipe's settings with changes."""
        config = self.config.replace(**changes)
        rule = refinement_rule(self.models.inverting(), config, AT_ONCE)
        return lambda: self.invert(config, rule, problem_class)

    def solvers(self) -> dict[str, Callable[[], tuple[Tensor, float]]]:
        """Return the default and the same by Adam."""
        steps = self.adam_steps
        return {DEFAULT: self.way(), BY_ADAM.format(steps): self.way(solver="adam", max_steps=steps)}

    def controls(self) -> dict[str, Callable[[], tuple[Tensor, float]]]:
        """Return no refinement, and Adam at half its rate: with the default's steps, and with more."""
        slow = {"solver": "adam", "learning_rate": self.config.learning_rate / 2}
        found = {"none": self.way(max_steps=0)}
        for steps in (self.config.max_steps, round(0.75 * self.adam_steps)):
            found[f"Adam at half the rate, {steps} steps"] = self.way(max_steps=steps, **slow)
        return found

    @property
    def adam_steps(self) -> int:
        """Updates of 0.1.0."""
        return ADAM_STEPS.get(self.data.name, 4 * self.config.max_steps)

    def ways(self) -> dict[str, Callable[[], tuple[Tensor, float]]]:
        """Return the contenders."""
        most = self.config.max_steps
        found = {"inverter alone": self.way(max_steps=0), **self.solvers()}
        for steps in (round(most * 0.5), most * 2, most * 4):
            found[f"in-domain refinement, {steps} steps"] = self.way(max_steps=steps)
        found["refinement without domain term"] = self.way(domain_weight=0.0)
        plain = {"solver": "adam", "domain_weight": 0.0, "perceptual_weight": 0.0}
        for steps in (self.adam_steps, *(s for s in PLAIN_STEPS if s > self.adam_steps)):
            found[f"plain optimisation, {steps} steps"] = self.way(FromMeanLatent, max_steps=steps, **plain)
        return found


def measured(
    images: Images, ways: Mapping[str, Callable[[], tuple[Tensor, float]]], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """Run the contenders in turn; returns the qualities of each, and its seconds in each round."""
    outcomes: dict[str, tuple[Tensor, float]] = {}

    def keeping(name: str, run: Callable[[], tuple[Tensor, float]]) -> Callable[[], None]:
        def call() -> None:
            outcomes[name] = run()

        return call

    seconds = interleave({name: keeping(name, run) for name, run in ways.items()}, rounds, warm_up=0)
    count = len(images.images)
    rows = {
        name: {
            **images.measure(*outcomes[name]),
            "seconds_per_image": statistics.median(seconds[name]) / count,
        }
        for name in ways
    }
    return rows, seconds


def compare(
    dataset: str, num_images: int, num_solver_images: int, rounds: int, models_dir: str | None
) -> dict[str, Any]:
    """Invert the same images in every way, in turn."""
    solvers = {}
    for split in ("train", "test"):
        some = Images(dataset, num_solver_images, models_dir, split)
        rows, _ = measured(some, some.solvers() | some.controls(), rounds)
        solvers[split] = {"images": len(some.images), "rows": rows}
    images = Images(dataset, num_images, models_dir, "test")
    rows, seconds = measured(images, images.ways(), rounds)
    ratios = {
        f"{dataset}, time: {name} / default": ratio(seconds[name], seconds[DEFAULT])
        for name in rows
        if name != DEFAULT
    }
    generator, domain_weight = images.models.inverting(), images.config.domain_weight
    once = interleave({"curvature": lambda: mean_curvature(generator, domain_weight, AT_ONCE)}, rounds)
    return {
        "seconds_of_curvature": statistics.median(once["curvature"]),
        "images": len(images.images),
        "config": images.config.to_json(),
        "networks": images.digests,
        "rows": rows,
        "solvers": solvers,
        "ratios": ratios,
        **images.references(),
    }


def milliseconds_text(row: Mapping[str, float]) -> str:
    """Return the milliseconds per image with two digits or more."""
    milliseconds = 1000 * row["seconds_per_image"]
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def solvers_table(results: Mapping[str, dict[str, Any]]) -> str:
    """Return the table of both solvers in Markdown."""
    lines = [
        "| images | solver | ms per image | PSNR, dB | feature distance | drift | views' distance |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for dataset, found in results.items():
        for split, part in found["solvers"].items():
            for name, row in part["rows"].items():
                solver = f"L-BFGS, {row['steps']:.0f} steps" if name == DEFAULT else name
                lines.append(
                    f"| {dataset}, {part['images']} of {split} | {solver.replace('the same by ', '')} "
                    f"| {milliseconds_text(row)} | {row['psnr_db']:.1f} | {row['feature_distance']:.3f} "
                    f"| {row['drift']:.2f} | {row['views_distance']:.3f} |"
                )
    return "\n".join(lines) + "\n"


def table(dataset: str, found: dict[str, Any]) -> str:
    """Return a data set's table in Markdown."""
    lines = [
        f"| {' | '.join(HEADS)} |",
        "|---|" + "---:|" * (len(HEADS) - 1),
    ]
    for name, row in found["rows"].items():
        numbers = (
            f"{row['steps']:.1f}",
            f"{row['mse']:.4f}",
            f"{row['psnr_db']:.1f}",
            f"{row['feature_distance']:.3f}",
            f"{100 * row['knn5_top1']:.1f} %",
            milliseconds_text(row),
            f"{row['drift']:.2f}",
            f"{row['views_distance']:.3f}",
        )
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return (
        f"## {dataset}\n\n{found['images']} images of the test split; perceptual term: "
        f"{found['config']['perceptual']}; curvature found in {found['seconds_of_curvature']:.1f} s. 5-NN "
        f"on the originals: {100 * found['knn5_top1_of_originals']:.1f} %; their own kernel distance from "
        f"training images: {found['distance_of_originals']:.3f}.\n\n" + "\n".join(lines) + "\n"
    )


def write_page(page: Path, results: Mapping[str, dict[str, Any]]) -> None:
    """Replace the tables of a page."""
    head, marker, _ = page.read_text(encoding="utf-8").partition("<!-- tables -->")
    before, begin, rest = head.partition("<!-- solvers -->")
    _, end, after = rest.partition("<!-- end of solvers -->")
    head = f"{before}{begin}\n\n{solvers_table(results)}\n{end}{after}"
    tables = "\n".join(table(dataset, found) for dataset, found in results.items())
    page.write_text(f"{head}{marker}\n\n{tables}", encoding="utf-8")


@click.command()
@click.option("--dataset", "datasets", multiple=True, default=("digits",), show_default=True)
@click.option("--models", default=None, help="Folder of the networks, for a single data set.")
@click.option("--images", default=64, show_default=True, help="Held-out images of each data set.")
@click.option(
    "--solver-images", default=128, show_default=True, help="Images of each split for both solvers."
)
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--page", default=None, type=click.Path(path_type=Path), help="Replace the tables of this page."
)
def main(
    datasets: tuple[str, ...],
    models: str | None,
    images: int,
    solver_images: int,
    rounds: int,
    page: Path | None,
) -> None:
    """Measure, print and write the result file."""
    torch.manual_seed(0)
    keep_freed_memory()
    results = {}
    for dataset in datasets:
        try:
            results[dataset] = compare(dataset, images, solver_images, rounds, models)
        except MissingFileError as error:
            click.echo(f"{dataset} is left out: {str(error).splitlines()[0]}")
            continue
        click.echo(table(dataset, results[dataset]))
    if not results:
        raise SystemExit(1)
    ratios = {name: value for found in results.values() for name, value in found.pop("ratios").items()}
    click.echo(solvers_table(results))
    path = write_result("inversion", {"ratios": ratios, "datasets": results}, ("torch", "torchvision"))
    click.echo(f"written: {path}")
    if page is not None:
        write_page(page, results)


if __name__ == "__main__":
    main()
