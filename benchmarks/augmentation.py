"""How fast expert views are made: viewgen's batched transform against PIL, torchvision and kornia.

All make SimCLR's views of the same 32-pixel images, on one core: random-resized-crop, flip, colour jitter
with p 0.8, grayscale with p 0.2, from uint8 to float. Every round times every contender once, in seconds of
processor time, so that other work on the machine counts little; ratios are taken within a round and given
with their tenth and ninetieth percentile. The presets (simclr with blur, infomin with RandAugment) are timed
beside them, then each operation beside torchvision's and kornia's. A library that is not installed is left
out, and the output says so.

"colour matrix" is a candidate that viewgen does not have: brightness, contrast, saturation and hue as one
3 × 4 matrix per image, hue as a rotation in YIQ space and nothing clamped in between. It is here to see
what an approximate hue would gain, and what it would change.

    python benchmarks/augmentation.py
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from augmentation_operations import measure_operations, without
from measure import peak_bytes, row, write_result
from PIL import Image
from torch import Tensor

from viewgen.images import to_model
from viewgen.memory import keep_freed_memory
from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views.augmentation import NUM_UNIFORMS, crop_boxes, expert_views, num_uniforms, resized_crop
from viewgen.views.color_jitter import ORDERS
from viewgen.views.compositions import PRESETS, expert_values
from viewgen.views.expert import ExpertConfig
from viewgen_train.network import build_network
from viewgen_train.objectives.assimilation import build_objective
from viewgen_train.objectives.objective import Outputs
from viewgen_train.resolve import train_settings

SIZE = 32
CONFIG = ExpertConfig()
# luma, and the two axes of colour of the NTSC's YIQ
TO_YIQ = torch.tensor([[0.2989, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def by_pil(images: np.ndarray[Any, Any]) -> Callable[[], Tensor]:
    """torchvision's first transforms on PIL images, one by one."""
    transforms = import_torchvision("transforms")
    chain = _chain(transforms, [transforms.ToTensor()])
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    return lambda: torch.stack([chain(picture) for picture in pictures]) * 2 - 1


def by_torchvision(images: np.ndarray[Any, Any]) -> Callable[[], Tensor]:
    """torchvision's second transforms on tensors, one by one."""
    transforms = import_torchvision("transforms.v2")
    chain = _chain(transforms, [transforms.ToDtype(torch.float32, scale=True)])
    tensors = list(torch.from_numpy(images))
    return lambda: torch.stack([chain(tensor) for tensor in tensors]) * 2 - 1


def _chain(transforms: Any, last: list[Any]) -> Any:
    jitter = transforms.ColorJitter(CONFIG.brightness, CONFIG.contrast, CONFIG.saturation, CONFIG.hue)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, CONFIG.crop_scale, CONFIG.crop_ratio),
            transforms.RandomHorizontalFlip(CONFIG.flip_probability),
            transforms.RandomApply([jitter], CONFIG.jitter_probability),
            transforms.RandomGrayscale(CONFIG.grayscale_probability),
            *last,
        ]
    )


def by_kornia(images: np.ndarray[Any, Any]) -> Callable[[], Tensor]:
    """kornia's augmentations, batched."""
    import_torchvision("ops")  # declares what kornia's own import of torchvision needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.augmentation as augmentation

    chain = augmentation.AugmentationSequential(
        augmentation.RandomResizedCrop((SIZE, SIZE), CONFIG.crop_scale, CONFIG.crop_ratio),
        augmentation.RandomHorizontalFlip(CONFIG.flip_probability),
        augmentation.ColorJitter(
            CONFIG.brightness, CONFIG.contrast, CONFIG.saturation, CONFIG.hue, p=CONFIG.jitter_probability
        ),
        augmentation.RandomGrayscale(p=CONFIG.grayscale_probability),
        data_keys=["input"],
    )
    tensor = torch.from_numpy(images)
    return lambda: chain(tensor.float() / 255) * 2 - 1


def by_viewgen(images: np.ndarray[Any, Any]) -> Callable[[], Tensor]:
    """viewgen's transform, as the training calls it."""
    tensor = torch.from_numpy(images)
    return lambda: expert_views(to_model(tensor), torch.rand(len(tensor), NUM_UNIFORMS), CONFIG)


def by_matrix(images: np.ndarray[Any, Any]) -> Callable[[], Tensor]:
    """The candidate: viewgen's crop, and a colour matrix per image."""
    tensor = torch.from_numpy(images)
    return lambda: matrix_views(to_model(tensor), torch.rand(len(tensor), NUM_UNIFORMS), CONFIG)


def matrix_views(images: Tensor, u: Tensor, config: ExpertConfig) -> Tensor:
    """As `expert_views`, with all colour operations of an image in one matrix."""
    crops, position, flip, jitter, strengths, order, gray = u.split([20, 2, 1, 1, 4, 1, 1], dim=1)
    box = crop_boxes(crops, position, SIZE, SIZE, config)
    x = (resized_crop(images, box, flip[:, 0] < config.flip_probability) + 1) / 2
    means = x.mean(dim=(2, 3))
    # homogeneous 4 × 4 matrices; the contrast's grey mean follows the colours through the chain
    steps = _colour_steps(strengths, config)
    permutation = ORDERS[(order[:, 0] * len(ORDERS)).long()]
    total = torch.eye(4).repeat(len(x), 1, 1)
    homogeneous = torch.cat([means, torch.ones(len(x), 1)], dim=1)[:, :, None]
    span = config.contrast
    contrast = 1 - span + 2 * span * strengths[:, 1]
    for place in range(4):
        chosen = steps[torch.arange(len(x)), permutation[:, place]].clone()
        mean = ((total @ homogeneous)[:, :3, 0] * TO_YIQ[0]).sum(dim=1)
        offset = torch.where(permutation[:, place] == 1, (1 - contrast) * mean, torch.zeros(()))
        chosen[:, :3, 3] = offset[:, None]
        total = chosen @ total
    total = torch.where((jitter < config.jitter_probability)[:, :, None], total, torch.eye(4))
    to_gray = torch.eye(4)
    to_gray[:3, :3] = TO_YIQ[0]
    total = torch.where((gray < config.grayscale_probability)[:, :, None], to_gray @ total, total)
    flat = torch.baddbmm(total[:, :3, 3:], total[:, :3, :3], x.flatten(2))
    return flat.clamp(0, 1).view_as(x) * 2 - 1


def _colour_steps(strengths: Tensor, config: ExpertConfig) -> Tensor:
    """Return brightness, contrast, saturation and hue as `(B, 4, 4, 4)` matrices, without offsets."""
    count = len(strengths)
    span = torch.tensor([config.brightness, config.contrast, config.saturation])
    factors = 1 - span + 2 * span * strengths[:, :3]
    steps = torch.zeros(count, 4, 4, 4)
    steps[:, :, 3, 3] = 1
    eye = torch.eye(3)
    steps[:, 0, :3, :3] = factors[:, 0, None, None] * eye
    steps[:, 1, :3, :3] = factors[:, 1, None, None] * eye
    luma = TO_YIQ[0].expand(3, 3)
    steps[:, 2, :3, :3] = luma + factors[:, 2, None, None] * (eye - luma)
    angle = (2 * strengths[:, 3] - 1) * config.hue * 2 * math.pi
    rotation = torch.zeros(count, 3, 3)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = angle.sin(), -angle.sin()
    steps[:, 3, :3, :3] = torch.linalg.inv(TO_YIQ) @ rotation @ TO_YIQ
    return steps


def by_preset(images: np.ndarray[Any, Any], name: str) -> Callable[[], Tensor]:
    """viewgen's transform with a combination of operations (see `viewgen.views.compositions`)."""
    tensor, config = torch.from_numpy(images), ExpertConfig(**expert_values(name))
    return lambda: expert_views(to_model(tensor), torch.rand(len(tensor), num_uniforms(config)), config)


def training_step(images: np.ndarray[Any, Any]) -> Callable[[], object]:
    """Return the forward and backward pass of a ResNet18 on two views of each image, as in SimCLR."""
    settings = {"assimilation": "none", "precision": "float32"}
    found = train_settings("tinyimagenet", settings)
    objective = build_objective(found)
    network = build_network(found, objective.head, SIZE, torch.device("cpu"))
    views = to_model(torch.from_numpy(np.stack([images, images])))

    def run() -> None:
        network.zero_grad(set_to_none=True)
        objective.loss(Outputs(z=network(views)["z"].transpose(0, 1)))["loss"].backward()

    return run


def smooth_images(count: int) -> np.ndarray[Any, Any]:
    """Return smooth random images, uint8 `(count, 3, H, W)`; noise would make every crop look alike."""
    coarse = torch.from_numpy(np.random.default_rng(0).random((count, 3, 5, 5), np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    found: np.ndarray[Any, Any] = (smooth * 255).to(torch.uint8).numpy()
    return found


BUILDERS = {
    "viewgen": by_viewgen,
    "colour matrix": by_matrix,
    "kornia": by_kornia,
    "torchvision": by_torchvision,
    "PIL": by_pil,
}


def one_call(name: str, num_images: int) -> Callable[[], object]:
    """Return one call of a contender, for the measurement of its memory."""
    torch.set_num_threads(1)
    return BUILDERS[name](smooth_images(num_images))


def view_statistics(views: Tensor) -> Tensor:
    """Return each view's brightness, contrast, colour and edges, `(B, 4)`, for pixels in [0, 1]."""
    x = (views + 1) / 2
    return torch.stack(
        [
            x.mean(dim=(1, 2, 3)),
            x.std(dim=(1, 2, 3)),
            (x.amax(dim=1) - x.amin(dim=1)).mean(dim=(1, 2)),
            x.diff(dim=3).abs().mean(dim=(1, 2, 3)),
        ],
        dim=1,
    )


def compare_statistics(ours: Tensor, theirs: Tensor) -> str:
    """Say how the means of two contenders' view statistics, `(N, 4)`, differ."""
    error = ((ours.var(dim=0) + theirs.var(dim=0)) / len(ours)).sqrt()
    difference = theirs.mean(dim=0) - ours.mean(dim=0)
    names = ("brightness", "contrast", "colour", "edges")
    parts = [f"{n} {v:+.3f}" for n, v in zip(names, difference.tolist(), strict=True)]
    most = float((difference / error).abs().max())
    return f"means differ by {', '.join(parts)} ({most:.1f} standard errors at most)"


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of one call, and what it returned."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


@click.command()
@click.option("--images", default=256, show_default=True, help="Images of a batch.")
@click.option("--rounds", default=15, show_default=True, help="Rounds of all contenders.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure memory too.")
def main(images: int, rounds: int, memory: bool) -> None:
    """Measure, print a table and write the result file."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    batch = smooth_images(images)
    absent: list[str] = []
    built = {name: without(lambda build=build: build(batch), absent) for name, build in BUILDERS.items()}
    contenders = {name: run for name, run in built.items() if run is not None}
    for name in PRESETS:
        contenders[name] = by_preset(batch, name)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    statistic: dict[str, list[Tensor]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, run in contenders.items():
            elapsed, views = timed(run)
            statistic[name].append(view_statistics(views))
            if round_number:
                seconds[name].append(elapsed)
    few = 16
    step = training_step(batch[:few])
    step()
    steps = [timed(step)[0] / (2 * few) * images for _ in range(3)]
    uniforms = torch.rand(images, NUM_UNIFORMS)
    exact, approximate = (
        f(to_model(torch.from_numpy(batch)), uniforms, CONFIG) for f in (expert_views, matrix_views)
    )
    difference = (exact - approximate).abs() * 127.5
    equal = {
        name: compare_statistics(torch.cat(statistic["viewgen"]), torch.cat(values))
        for name, values in statistic.items()
    }
    peaks = {name: peak_bytes(one_call, name, images) for name in contenders if memory and name in BUILDERS}
    ratios = {
        f"{name} / viewgen": row(
            times,
            seconds["viewgen"],
            quality=equal[name],
            memory={key: peaks.get(key) for key in (name, "viewgen")},
        )
        for name, times in seconds.items()
        if name not in ("viewgen", "colour matrix", *PRESETS)
    }
    for name in PRESETS:
        ratios[f"{name} / viewgen"] = row(seconds[name], seconds["viewgen"], quality="other operations")
    off = float(difference.mean())
    for name in [name for name in ("PIL", "viewgen") if name in contenders]:
        ratios[f"{name} / colour matrix"] = row(
            seconds[name],
            seconds["colour matrix"],
            quality=f"approximate: {off:.1f} grey levels off the exact views on average; not in viewgen",
            memory={key: peaks.get(key) for key in (name, "colour matrix")},
        )
    share = statistics.median(seconds["viewgen"]) / statistics.median(steps)
    document = {
        "images": images,
        "ratios": ratios,
        "images_per_cpu_second": {name: images / statistics.median(times) for name, times in seconds.items()},
        "view_time / forward and backward of ResNet18 per view": share,
        "colour matrix, grey levels off the exact transform": {
            "mean": off,
            "per image, 90th percentile": float(difference.mean(dim=(1, 2, 3)).quantile(0.9)),
        },
    }
    document |= {"absent": absent, **measure_operations(torch.from_numpy(batch), rounds)}
    libraries = [name for name in ("torch", "torchvision", "kornia", "pillow") if name not in absent]
    write_result("augmentation", document, tuple(libraries))
    for name, times in seconds.items():
        against = ratios.get(f"{name} / viewgen")
        text = (
            f"   {against['median']:6.2f} × ({against['low']:.2f} … {against['high']:.2f}) of viewgen's time"
            if against
            else ""
        )
        click.echo(f"{name:14} {images / statistics.median(times):10,.0f} views/s{text}")
        if name not in PRESETS:
            click.echo(f"               {equal[name]}")
    for name in absent:
        click.echo(f"{name} is not installed and left out (pip install {name})")
    click.echo(f"a view takes {100 * share:.2f} % of a ResNet18's forward and backward pass on it")
    click.echo(f"the colour matrix is {off:.1f} grey levels off on average")


if __name__ == "__main__":
    main()
