"""Single operations of the expert transform: viewgen's batched ones beside torchvision's and kornia's.

All change the same images, each with a parameter of its own. torchvision's work image by image, viewgen's and
kornia's on the batch. An operation that a library lacks has no entry.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import click
import torch
from measure import ratio
from torch import Tensor

from viewgen.networks.torchvision_import import import_torchvision
from viewgen.views.blur import gaussian_blur
from viewgen.views.compositions import expert_values
from viewgen.views.expert import ExpertConfig
from viewgen.views.randaugment import NUM_DRAWN, OPERATIONS, affine, randaugment, solarize

__all__ = ["measure_operations", "without"]

NUM_TAPS = 7
FILL = (0.5, 0.5, 0.5)
INFOMIN = ExpertConfig(**expert_values("infomin"))

Runs = dict[str, dict[str, Callable[[], object]]]


def without(build: Callable[[], Any], absent: list[str]) -> Any:
    """Return what `build` returns, or None with the library's name in `absent` if it is not installed."""
    try:
        return build()
    except ModuleNotFoundError as error:
        absent.append((error.name or str(error)).partition(".")[0])
        return None


def by_viewgen(x: Tensor, share: Tensor) -> dict[str, Callable[[], object]]:
    """Return viewgen's operations on images in [0, 1] `(B, 3, H, W)`, parameters at magnitudes `(B,)`."""
    sigma = 0.1 + 1.9 * share

    def applied(name: str) -> Callable[[], object]:
        operation = OPERATIONS[name]
        if operation.matrix is not None:
            matrix = operation.matrix
            return lambda: affine(x, matrix(operation.parameter(share), x.shape[-2:]), FILL)
        apply = operation.apply
        assert apply is not None
        return lambda: apply(x, operation.parameter(share))

    return {
        "blur": lambda: gaussian_blur(x, sigma, NUM_TAPS),
        "solarise at 0.5": lambda: solarize(x, 0.5),
        **{name: applied(name) for name in OPERATIONS},
        "RandAugment": lambda: randaugment(
            x, torch.rand(len(x), NUM_DRAWN * INFOMIN.randaugment_ops), INFOMIN
        ),
    }


def by_torchvision(x: Tensor, share: Tensor) -> dict[str, Callable[[], object]]:
    """Return torchvision's, image by image; posterize, equalize and RandAugment on uint8."""
    functional = import_torchvision("transforms.v2.functional")
    transforms = import_torchvision("transforms.v2")
    bilinear = transforms.InterpolationMode.BILINEAR
    pixels = (x * 255).round().to(torch.uint8)
    values = share.tolist()
    size = x.shape[-1]

    def each(function: Callable[[Tensor, float], Tensor], images: Tensor = x) -> Callable[[], object]:
        return lambda: torch.stack([function(*pair) for pair in zip(images, values, strict=True)])

    def move(y: Tensor, shift: list[float], shear: list[float]) -> Any:
        return functional.affine(y, 0, shift, 1.0, shear, interpolation=bilinear, fill=0.5)

    def factor(m: float) -> float:
        return 0.1 + 1.8 * m

    chosen = transforms.RandAugment(num_ops=2, magnitude=29, interpolation=bilinear)
    return {
        "blur": each(lambda y, m: functional.gaussian_blur(y, [NUM_TAPS] * 2, [0.1 + 1.9 * m] * 2)),
        "solarise at 0.5": each(lambda y, _: functional.solarize(y, 0.5)),
        "autocontrast": each(lambda y, _: functional.autocontrast(y)),
        "equalize": each(lambda y, _: functional.equalize(y), pixels),
        "invert": each(lambda y, _: functional.invert(y)),
        "rotate": each(lambda y, m: functional.rotate(y, 30 * m, bilinear, fill=0.5)),
        "posterize": each(lambda y, m: functional.posterize(y, int(4 * m)), pixels),
        "solarize": each(lambda y, m: functional.solarize(y, m)),
        "color": each(lambda y, m: functional.adjust_saturation(y, factor(m))),
        "contrast": each(lambda y, m: functional.adjust_contrast(y, factor(m))),
        "brightness": each(lambda y, m: functional.adjust_brightness(y, factor(m))),
        "sharpness": each(lambda y, m: functional.adjust_sharpness(y, factor(m))),
        "shear-x": each(lambda y, m: move(y, [0, 0], [17 * m, 0])),
        "shear-y": each(lambda y, m: move(y, [0, 0], [0, 17 * m])),
        "translate-x": each(lambda y, m: move(y, [0.45 * m * size, 0], [0, 0])),
        "translate-y": each(lambda y, m: move(y, [0, 0.45 * m * size], [0, 0])),
        "RandAugment": each(lambda y, _: chosen(y), pixels),
    }


def by_kornia(x: Tensor, share: Tensor) -> dict[str, Callable[[], object]]:
    """Return kornia's, batched."""
    import_torchvision("ops")  # declares what kornia's own import of torchvision needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia
        from kornia.augmentation.auto import RandAugment

    enhance, geometry = kornia.enhance, kornia.geometry.transform
    size = x.shape[-1]
    sigma = (0.1 + 1.9 * share)[:, None].expand(-1, 2)
    factor, zero = 0.1 + 1.8 * share, torch.zeros_like(share)
    chosen = RandAugment(n=2, m=29)
    return {
        "blur": lambda: kornia.filters.gaussian_blur2d(x, (NUM_TAPS, NUM_TAPS), sigma),
        "solarise at 0.5": lambda: enhance.solarize(x, 0.5),
        "equalize": lambda: enhance.equalize(x),
        "invert": lambda: enhance.invert(x),
        "rotate": lambda: geometry.rotate(x, 30 * share),
        "posterize": lambda: enhance.posterize(x, (4 * share).int()),
        "solarize": lambda: enhance.solarize(x, share),
        "color": lambda: enhance.adjust_saturation_with_gray_subtraction(x, factor),
        "contrast": lambda: enhance.adjust_contrast_with_mean_subtraction(x, factor),
        "brightness": lambda: enhance.adjust_brightness_accumulative(x, factor),
        "sharpness": lambda: enhance.sharpness(x, factor),
        "shear-x": lambda: geometry.shear(x, torch.stack([0.3 * share, zero], dim=1)),
        "shear-y": lambda: geometry.shear(x, torch.stack([zero, 0.3 * share], dim=1)),
        "translate-x": lambda: geometry.translate(x, torch.stack([0.45 * size * share, zero], dim=1)),
        "translate-y": lambda: geometry.translate(x, torch.stack([zero, 0.45 * size * share], dim=1)),
        "RandAugment": lambda: chosen(x),
    }


def measure_operations(images: Tensor, rounds: int) -> dict[str, Any]:
    """Time every operation of every library in turn, in processor seconds, and print a table.

    Args:
        images: uint8 `(B, 3, H, W)`.
        rounds: counted rounds; one more warms up.
    """
    x, share = images.float() / 255, torch.rand(len(images))
    absent: list[str] = []
    libraries: Runs = {}
    for name, build in {"viewgen": by_viewgen, "torchvision": by_torchvision, "kornia": by_kornia}.items():
        found = without(lambda build=build: build(x, share), absent)
        if found is not None:
            libraries[name] = found
    rows: dict[str, Any] = {}
    click.echo(f"\n{'operation':16}{'viewgen':>14}   " + "".join(f"{n:>22}" for n in list(libraries)[1:]))
    for operation in libraries["viewgen"]:
        runs = {name: known[operation] for name, known in libraries.items() if operation in known}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, run in runs.items():
                start = time.process_time()
                run()
                if number:
                    seconds[name].append(time.process_time() - start)
        own = seconds.pop("viewgen")
        rows[operation] = {
            "images_per_cpu_second": len(images) / statistics.median(own),
            **{f"{name} / viewgen": ratio(times, own) for name, times in seconds.items()},
        }
        told = [
            f"{r['median']:.1f} × ({r['low']:.1f} … {r['high']:.1f})"
            if (r := rows[operation].get(f"{name} / viewgen"))
            else "–"
            for name in list(libraries)[1:]
        ]
        speed = rows[operation]["images_per_cpu_second"]
        click.echo(f"{operation:16}{speed:10,.0f} /s   " + "".join(f"{text:>22}" for text in told))
    for name in absent:
        click.echo(f"{name} is not installed: its operations are left out (pip install {name})")
    return {"operations": rows, "operations, absent": absent}
