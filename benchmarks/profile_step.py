"""Where the time of a search step goes, and how near it is to the processor's limit.

The step is viewgen's update of 8 views of an image, once with the paper's networks (StyleGAN2 with 512
channels and a ResNet18, random weights) and, for 4 images, with those of the digits. Arithmetic is what
PyTorch's flop counter counts; the processor's own speed is that of a large matrix product, the best that
this machine does. Memory is that of one such update with the paper's networks, as published and in viewgen.

    python benchmarks/profile_step.py
"""

import time
from collections.abc import Callable
from typing import Any

import click
import torch
from measure import peak_bytes, write_result
from reference.generator import PlainSynthesis
from reference.search import paper_step
from search_runs import NUM_VIEWS, search_problem
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from viewgen.memory import keep_freed_memory
from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.files import load_models
from viewgen.networks.stylegan2 import Generator, GeneratorConfig, public_channels
from viewgen.networks.weights import find_models
from viewgen.views.wsearch.problem import search_views
from viewgen.views.wsearch.settings import WSearchConfig

NUM_IMAGES = {"paper": 1, "digits": 4}
STEPS = ("as published", "frozen weights", "frozen weights, tuned malloc")
MATRIX = 2048
MOST_OPS = 6
KINDS = {
    "convolution": ("conv",),
    "matrix products": ("mm", "bmm", "baddbmm", "linear"),
    "memory: copies, fills": ("copy_", "fill_", "cat", "zero_", "clone", "index", "to_copy", "contiguous"),
}


def networks(name: str) -> tuple[Generator, Encoder]:
    """Return a generator and an encoder: ``"paper"`` or ``"digits"``."""
    if name == "digits":
        models = load_models(find_models("digits", {"generator", "encoder"}), "cpu")
        assert models.generator is not None
        assert models.encoder is not None
        return models.generator, models.encoder
    torch.manual_seed(0)
    config = GeneratorConfig(image_size=32, channels=public_channels(32, 2), num_mapping_layers=2)
    return (
        Generator(config).eval().requires_grad_(False),
        Encoder(EncoderConfig(image_size=32)).eval().requires_grad_(False),
    )


def build_step(name: str, updates: int) -> Callable[[], object]:
    """Return a search of `updates` updates that never stops early."""
    generator, encoder = networks(name)
    count = NUM_IMAGES[name]
    torch.manual_seed(1)
    anchors = generator.broadcast(generator.mapping(torch.randn(count, 512))).contiguous()
    with torch.no_grad():
        features = encoder(generator.synthesis(anchors).clamp(-1, 1))
    config = WSearchConfig(solver="adam", start="noise", tolerance=1e-9, max_steps=updates)

    def run() -> None:
        problem = search_problem(generator, encoder, anchors, features, config)
        search_views(problem, count, count)

    return run


def build_published_step(name: str) -> Callable[[], object]:
    """Return one update of the same codes as the paper's procedure does it, gradients of weights included."""
    generator, encoder = networks(name)
    plain = PlainSynthesis(generator.state_dict(), generator.config.image_size).requires_grad_(True)
    encoder.requires_grad_(True)
    count = NUM_IMAGES[name]
    torch.manual_seed(1)
    anchors = generator.broadcast(generator.mapping(torch.randn(count, 512))).detach()
    w = anchors[:, None] + 0.01 * torch.randn(count, NUM_VIEWS, *anchors.shape[1:])
    w.requires_grad_(True)
    optimiser = torch.optim.Adam([w])
    return lambda: paper_step(
        plain, encoder, anchors, w, optimiser, epsilon_boundary=0.3, epsilon_uniformity=0.5, weight=0.01
    )


@torch.no_grad()
def image_difference(name: str) -> float:
    """Return how far apart the images of the published form and of viewgen's are at most, of the range."""
    generator, _ = networks(name)
    plain = PlainSynthesis(generator.state_dict(), generator.config.image_size)
    codes = generator.broadcast(generator.mapping(torch.randn(2, 512)))
    return float((plain(codes) - generator.synthesis(codes)).abs().max()) / 2


def kind_of(operation: str) -> str:
    """Return the kind under which an operation is counted."""
    bare = operation.removeprefix("aten::")
    for kind, words in KINDS.items():
        if any(word in bare for word in words) if kind == "convolution" else bare in words:
            return kind
    if bare in ("addmm", "addbmm", "matmul"):
        return "matrix products"
    return "elementwise and the rest"


def matrix_speed(dtype: torch.dtype, rounds: int = 5) -> float:
    """Return the operations per second of a large matrix product."""
    a, b = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / min(times[1:])


def measure(name: str, updates: int, peak: float) -> dict[str, Any]:
    """Profile a search of `updates` updates."""
    run = build_step(name, updates)
    with FlopCounterMode(display=False) as counter:  # warms up, too
        run()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    events = [(event.key, event.self_cpu_time_total) for event in found.key_averages()]
    total = sum(spent for _, spent in events)
    kinds: dict[str, float] = {}
    for operation, spent in events:
        kinds[kind_of(operation)] = kinds.get(kind_of(operation), 0.0) + spent / total
    top = sorted(events, key=lambda event: -event[1])[:MOST_OPS]
    speed = counter.get_total_flops() / min(times)
    return {
        "seconds": min(times),
        "flops": counter.get_total_flops(),
        "flops_per_second": speed,
        "share_of_matrix_speed": speed / peak,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "operations": {operation: spent / total for operation, spent in top},
        "text": sentence(name, kinds, speed, peak),
    }


def sentence(name: str, kinds: dict[str, float], speed: float, peak: float) -> str:
    """Say in words what limits the step."""
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(kinds.items(), key=lambda x: -x[1]))
    left = (
        f"so at most {peak / speed:.1f} × is left in float32"
        if speed < 0.95 * peak
        else "so in float32 only less arithmetic would be faster"
    )
    return (
        f"With the networks of the {name}, a step spends its time on {shares}. It does {speed / 1e9:,.0f} "
        f"GFLOP/s, {speed / peak:.0%} of what a large matrix product reaches on this machine "
        f"({peak / 1e9:,.0f} GFLOP/s), {left}."
    )


@click.command()
@click.option("--updates", default=2, show_default=True, help="Updates of a search.")
def main(updates: int) -> None:
    """Measure, print and write results/profile_step.json."""
    keep_freed_memory()
    peak = matrix_speed(torch.float32)
    found = {name: measure(name, updates, peak) for name in NUM_IMAGES}
    half = matrix_speed(torch.bfloat16)
    texts = {name: value.pop("text") for name, value in found.items()}
    for name, value in found.items():
        click.echo(texts[name])
        for operation, share in value["operations"].items():
            click.echo(f"  {share:6.1%}  {operation}")
    texts["bfloat16"] = (
        f"A large matrix product does {half / 1e9:,.0f} GFLOP/s in bfloat16, {half / peak:.1f} × float32's."
    )
    click.echo(texts["bfloat16"])
    beside = {
        "quality": f"images at most {image_difference('paper'):.0e} of the range apart",
        "peak_bytes": {
            "as published": peak_bytes(build_published_step, "paper"),
            "viewgen": peak_bytes(build_step, "paper", 1),
        },
    }
    click.echo(beside)
    document = {
        "threads": torch.get_num_threads(),
        "matrix_flops_per_second": {"float32": peak, "bfloat16": half},
        "profile": found,
        "beside": {f"search/step: {title} / viewgen": beside for title in STEPS},
        "texts": texts,
    }
    write_result("profile_step", document)


if __name__ == "__main__":
    main()
