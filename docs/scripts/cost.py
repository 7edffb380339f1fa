"""What a cache and a training cost: ``python docs/scripts/cost.py --dataset cifar10 --images 50000``.

Storage is exact. GPU hours are computed from the networks' FLOPs and the speed that you name; they were not
measured. The work per view, in forward passes through g and f, is what ``--count 256`` counts on digits.
``--cache URL`` adds the seconds and updates of a finished cache, on the machine that made it.
"""

import argparse
import json
import tempfile
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from viewgen.networks.encoder import Encoder, EncoderConfig
from viewgen.networks.stylegan2 import Generator, GeneratorConfig, num_style_layers
from viewgen.recipes import recipe
from viewgen.settings import Settings
from viewgen.store import CacheReader
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards.plan import automatic_shard_images


def pass_flops(dataset: str, image_size: int) -> dict[str, int]:
    """Return FLOPs per view: a forward pass through g and f, and training f."""
    # recipes hold training settings too
    generator_settings = _settings_of(GeneratorConfig, recipe(dataset, "generator"))
    encoder_settings = _settings_of(EncoderConfig, recipe(dataset, "encoder"))
    num_blocks = (image_size // 4).bit_length()
    channels = tuple(generator_settings["channels"])[:num_blocks]
    with torch.device("meta"):
        generator = Generator(
            GeneratorConfig(**(generator_settings | {"image_size": image_size, "channels": channels}))
        )
        encoder = Encoder(EncoderConfig(**(encoder_settings | {"image_size": image_size})))
        generator.eval().requires_grad_(False)
        w = torch.randn(1, num_style_layers(image_size), generator.config.style_dim)
        images = torch.randn(1, 3, image_size, image_size)
        encoder.eval()
        with FlopCounterMode(display=False) as train:
            encoder(images).sum().backward()
        encoder.requires_grad_(False)
        with torch.no_grad(), FlopCounterMode(display=False) as forward:
            encoder(generator.synthesis(w))
    return {"forward": forward.get_total_flops(), "train": train.get_total_flops()}


def _settings_of(config: type[Settings], settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in config.model_fields}


def count_work(num_images: int) -> dict[str, float]:
    """Return the work of a W-search of digits per view, in forward passes through g and f."""
    forward = pass_flops("digits", 32)["forward"]
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"limit": num_images, "executor": "local", "quiet": True, "quality": False}
        cache("digits", method="invert", out=f"{folder}/inversions.zarr", **options)
        with FlopCounterMode(display=False) as search:
            result = cache(
                "digits", out=f"{folder}/views.zarr", inversions=f"{folder}/inversions.zarr", **options
            )
        reader = CacheReader(result.url)
        views = len(reader) * reader.spec.num_views
        updates = float(reader.array("steps", reader.rows).mean())
    return {"passes": search.get_total_flops() / forward / views, "updates_per_image": updates}


def cost(options: argparse.Namespace) -> dict[str, float]:
    """Return storage, work and hours of a cache and of a training on it."""
    size, views = options.image_size, options.images * options.views
    shard_images = automatic_shard_images(options.images, size, options.views)
    result = {
        "cache_gb": views * 3 * size**2 / 1e9,
        "latents_gb": views * num_style_layers(size) * 512 * 4 / 1e9,
        "shards": -(-options.images // shard_images),
    }
    if options.cache:
        reader = CacheReader(options.cache)
        seconds = sum(commit.seconds for commit in reader.commits.values())
        per_view = seconds / (len(reader) * reader.spec.num_views)
        result["measured_updates_per_image"] = float(reader.array("steps", reader.rows).mean())
        result["measured_worker_seconds_per_view"] = per_view
        result["measured_worker_hours"] = per_view * views / 3600
    flops = pass_flops(options.dataset, size)
    work = views * options.passes * flops["forward"]
    train = options.images * options.epochs * 3 * flops["train"]  # two expert views and a generated one
    result |= {
        "computed_gflop_per_pass": flops["forward"] / 1e9,
        "computed_gpu_hours": work / options.tflops / 1e12 / 3600,
        "computed_training_gpu_hours": train / options.tflops / 1e12 / 3600,
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10", help="whose recipe gives the networks")
    parser.add_argument("--image-size", type=int, default=32, help="pixels")
    parser.add_argument("--images", type=int, default=50_000, help="N")
    parser.add_argument("--views", type=int, default=8, help="V, per image")
    parser.add_argument(
        "--passes", type=float, default=13.2, help="work of a view, in forward passes; of W-perturb 1"
    )
    parser.add_argument("--epochs", type=int, default=800, help="of the training")
    parser.add_argument("--tflops", type=float, default=100, help="speed that the GPU reaches, in 10^12/s")
    parser.add_argument("--cache", help="a finished cache whose seconds are added")
    parser.add_argument("--count", type=int, help="count the work of a W-search of so many digits, and end")
    options = parser.parse_args()
    result = count_work(options.count) if options.count else cost(options)
    print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
