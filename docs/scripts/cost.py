"""What a cache costs: ``python docs/scripts/cost.py --dataset cifar10 --images 50000 --views 8 --passes 60``.

Storage is exact. Times are computed from the networks' FLOPs and the speed that you name; no GPU was
measured. With ``--cache URL``, the passes and the seconds per view are those of a finished cache, on the
machine that made it.
"""

import argparse
import json
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from viewgen.encoder import Encoder, EncoderConfig
from viewgen.recipes import recipe
from viewgen.store import CacheReader, default_shard_images
from viewgen.stylegan2 import Generator, GeneratorConfig, num_style_layers


def pass_flops(dataset: str, image_size: int) -> tuple[int, int]:
    """Return FLOPs of one view's forward pass through g and f, and of that with the gradient to its code."""
    generator_settings = recipe(dataset, "generator")
    encoder_settings = recipe(dataset, "encoder")
    num_blocks = (image_size // 4).bit_length()
    channels = tuple(generator_settings["channels"])[:num_blocks]
    with torch.device("meta"):
        generator = Generator(
            GeneratorConfig(**(generator_settings | {"image_size": image_size, "channels": channels}))
        )
        encoder = Encoder(EncoderConfig(**(encoder_settings | {"image_size": image_size})))
        generator.eval().requires_grad_(False)
        encoder.eval().requires_grad_(False)
        style_dim = generator.config.style_dim
        w = torch.randn(1, num_style_layers(image_size), style_dim, requires_grad=True)
        with FlopCounterMode(display=False) as forward:
            z = encoder(generator.synthesis(w))
        with FlopCounterMode(display=False) as backward:
            z.sum().backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="cifar10", help="whose recipe gives the networks")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--passes", type=float, default=60, help="updates per image")
    parser.add_argument("--tflops", type=float, default=100, help="speed that the GPU reaches, in 10^12/s")
    parser.add_argument("--cache", help="a finished cache to take the passes from")
    options = parser.parse_args()

    result = {"images": options.images, "views": options.views, "passes": options.passes}
    if options.cache:
        reader = CacheReader(options.cache)
        steps = reader.array("steps", reader.rows)
        seconds = sum(commit.seconds for commit in reader.commits.values())
        result["passes"] = round(float(steps.mean()), 1)
        result["measured_worker_seconds_per_view"] = seconds / (len(reader) * reader.spec.num_views)
        result["measured_worker_hours"] = (
            result["measured_worker_seconds_per_view"] * options.images * options.views / 3600
        )
    image_bytes = 3 * options.image_size**2
    shard_images = min(512, default_shard_images(image_bytes, options.views))
    result["cache_gb"] = options.images * options.views * image_bytes / 1e9
    result["shards"] = -(-options.images // shard_images)
    forward, update = pass_flops(options.dataset, options.image_size)
    total = options.images * options.views * (result["passes"] * update + forward)
    result["computed_gflop_per_update"] = update / 1e9
    result["computed_gpu_hours"] = total / (options.tflops * 1e12) / 3600
    result["at_tflops"] = options.tflops
    json.dump({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in result.items()}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
