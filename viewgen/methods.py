"""The registry of view methods: what each is called, needs, and how it turns a batch of images into views.

A built method is a pure step from arrays to arrays, without Ray, files or hidden state:

- in: ``image`` uint8 `(B, 3, H, W)`, ``source_index`` int64 `(B,)`, ``label`` int64 `(B, *label_shape)`,
  which only the inversion into a class-conditional generator reads, and where the method needs inversions
  ``anchor_w_plus`` float32 `(B, L, 512)` and ``anchor_error`` float32 `(B,)`;
- out: ``views`` uint8 `(B, V, 3, H, W)`, ``distance`` float32 `(B, V)` from the anchor in the encoder's space
  (of the stored 8-bit views; NaN without an encoder), ``steps`` int32 `(B,)`, ``inversion_error`` float32
  `(B,)` (mean squared error of the reconstruction, model units), ``status`` uint8 `(B,)`, ``mean_pairwise``
  and ``anchor_distance`` float32 `(B,)` for the report, ``w_plus`` or ``anchor_w_plus`` codes.

To add a method, write a module with a config dataclass and a builder, and `register` its `MethodSpec`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.encoder import Encoder
from viewgen.errors import ModelError, UsageError, nearest_name
from viewgen.expert import NUM_UNIFORMS, ExpertConfig, expert_views
from viewgen.images import to_model, to_storage
from viewgen.inversion import InversionProblem, InvertConfig, invert_images
from viewgen.inverter import class_labels
from viewgen.models import Models
from viewgen.perceptual import build_perceptual, resolve_perceptual
from viewgen.perturb import WPerturbConfig
from viewgen.randomness import addressed_generator
from viewgen.search import (
    WSearchConfig,
    WSearchProblem,
    initial_codes,
    mean_pairwise_distance,
    project,
    render,
    search_views,
)
from viewgen.slots import FAILED, OK

__all__ = ["METHODS", "Batch", "MethodSpec", "Step", "method_spec", "register"]

Batch = dict[str, NDArray[Any]]
Step = Callable[[Batch], Batch]

# Images (or codes) that pass through the networks at once, at up to 32 px. Always exactly as many, and never
# more or fewer on request: networks round differently at different batch sizes, and a search that starts at
# its anchor carries a difference in the last bit to another view.
IMAGES_AT_ONCE = {"cpu": 32, "cuda": 256}


class Builder(Protocol):
    """Makes a step of networks on a device, a seed, a number of views, and how many images run at once."""

    def __call__(
        self,
        config: Any,
        models: Models,
        device: str,
        seed: int,
        num_views: int,
        batch_size: int | None = None,
    ) -> Step: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """A view method.

    Attributes:
        name: as on the command line.
        summary: one line of help.
        config: its configuration's dataclass.
        needs: the networks it uses, and ``"inversions"`` if it starts from refined codes.
        build: makes the step.
        num_views: views per image where the method fixes it.
        arrays: optional cache arrays that it always writes.
    """

    name: str
    summary: str
    config: type
    needs: frozenset[str]
    build: Builder
    num_views: int | None = None
    arrays: tuple[str, ...] = ()


METHODS: dict[str, MethodSpec] = {}


def register(spec: MethodSpec) -> None:
    """Add a method to the registry.

    Raises:
        UsageError: the name is taken.
    """
    if spec.name in METHODS:
        raise UsageError(f"a method named {spec.name!r} is registered already")
    METHODS[spec.name] = spec


def method_spec(name: str) -> MethodSpec:
    """Return the method called `name`.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name not in METHODS:
        raise UsageError(
            f"no view method {name!r}{nearest_name(name, METHODS)} (known: {', '.join(METHODS)})"
        )
    return METHODS[name]


def _images_at_once(image_size: int, device: torch.device) -> int:
    at_once = IMAGES_AT_ONCE.get(device.type, IMAGES_AT_ONCE["cpu"])
    return max(1, min(at_once, at_once * 32**2 // image_size**2))


def _slots(batch_size: int | None, num_views: int, at_once: int) -> tuple[int, int]:
    """Return how many images are optimised at once (`batch_size` in whole groups), and a group's size."""
    group_size = max(1, at_once // num_views)
    wanted = group_size if batch_size is None else batch_size
    return -(-wanted // group_size) * group_size, group_size


def _need(models: Models, name: str) -> Any:
    network = getattr(models, name)
    if network is None:
        raise ModelError(f"the method needs a network of kind {name!r}, and none was given")
    return network


def _numpy(tensor: Tensor, dtype: Any = None) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)


def _tensor(array: NDArray[Any], device: str) -> Tensor:
    # arrays out of a shared or mapped memory are read-only, which torch does not know
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _measure(encoder: Encoder, views: Tensor, anchor_features: Tensor, at_once: int) -> Batch:
    """Return the distances of stored views `(B, V, 3, H, W)` from anchors `(B, K)` and from each other."""
    num_views = views.shape[1]
    z = project(encoder, views.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
    return {
        "distance": _numpy((z - anchor_features[:, None]).norm(dim=2)),
        "mean_pairwise": _numpy(mean_pairwise_distance(z).mean(dim=1)),
    }


def build_invert(
    config: InvertConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: int | None = None,
) -> Step:
    """Return the step that refines every image's code; its one view is the reconstruction."""
    generator, inverter = _need(models, "generator"), _need(models, "inverter")
    chosen = resolve_perceptual(config.perceptual, has_discriminator=models.discriminator is not None)
    perceptual = build_perceptual(chosen, models.discriminator, models.device)
    at_once = _images_at_once(generator.config.image_size, models.device)
    num_slots, group_size = _slots(batch_size, 1, at_once)
    num_classes = generator.config.num_classes
    if inverter.config.num_classes != num_classes:
        raise ModelError(
            f"the generator has {num_classes} classes, the inverter {inverter.config.num_classes}; train an "
            "inverter for this generator (viewgen pretrain inverter)"
        )

    def step(batch: Batch) -> Batch:
        images = to_model(_tensor(batch["image"], device))
        labels = class_labels(_tensor(batch["label"], device), num_classes) if num_classes else None
        problem = InversionProblem(generator, inverter, perceptual, images, config, at_once, labels)
        result = invert_images(problem, num_slots, group_size)
        codes = result.w[:, 0]
        views = render(generator, codes, at_once)
        error = (to_model(views) - images).square().mean(dim=(1, 2, 3))
        return {
            "views": _numpy(views[:, None]),
            "distance": np.full((len(views), 1), np.nan, np.float32),
            "steps": _numpy(result.steps),
            "inversion_error": _numpy(error),
            # an image that still improved at its last step has a usable code
            "status": np.where(_numpy(result.status) == FAILED, FAILED, OK).astype(np.uint8),
            "anchor_w_plus": _numpy(codes),
        }

    return step


def build_wsearch(
    config: WSearchConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: int | None = None,
) -> Step:
    """Return the step of W-search (eq. 2)."""
    generator, encoder = _need(models, "generator"), _need(models, "encoder")
    at_once = _images_at_once(generator.config.image_size, models.device)
    num_slots, group_size = _slots(batch_size, num_views, at_once)

    def step(batch: Batch) -> Batch:
        anchors = _tensor(batch["anchor_w_plus"], device)
        image_features = project(encoder, _tensor(batch["image"], device), at_once)
        features = project(encoder, render(generator, anchors, at_once), at_once)
        problem = WSearchProblem(
            generator,
            encoder,
            anchor_features=features if config.anchor == "reconstruction" else image_features,
            anchor_w_plus=anchors,
            image_ids=_tensor(batch["source_index"], "cpu"),
            num_views=num_views,
            config=config,
            seed=seed,
            batch_size=at_once,
        )
        result = search_views(problem, num_slots, group_size)
        views = render(generator, result.w.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
        return {
            "views": _numpy(views),
            "steps": _numpy(result.steps),
            "inversion_error": batch["anchor_error"],
            "status": _numpy(result.status),
            "anchor_distance": _numpy((features - image_features).norm(dim=1)),
            "w_plus": _numpy(result.w),
            **_measure(encoder, views, problem.anchor_features, at_once),
        }

    return step


def build_wperturb(
    config: WPerturbConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: int | None = None,
) -> Step:
    """Return the step of W-perturb: g(e(x) + σ·N(0, I))."""
    generator, encoder = _need(models, "generator"), _need(models, "encoder")
    at_once = _images_at_once(generator.config.image_size, models.device)

    def step(batch: Batch) -> Batch:
        anchors = _tensor(batch["anchor_w_plus"], device)
        image_features = project(encoder, _tensor(batch["image"], device), at_once)
        features = project(encoder, render(generator, anchors, at_once), at_once)
        ids = _tensor(batch["source_index"], "cpu")
        codes = initial_codes(anchors, ids, num_views, noise=config.sigma, seed=seed, stage="wperturb")
        views = render(generator, codes.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
        return {
            "views": _numpy(views),
            "steps": np.zeros(len(views), np.int32),
            "inversion_error": batch["anchor_error"],
            "status": np.full(len(views), OK, np.uint8),
            "anchor_distance": _numpy((features - image_features).norm(dim=1)),
            "w_plus": _numpy(codes),
            **_measure(encoder, views, features, at_once),
        }

    return step


def build_expert(
    config: ExpertConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: int | None = None,
) -> Step:
    """Return the step that applies the expert transform, its draws addressed by (seed, image, view)."""
    encoder = _need(models, "encoder")
    at_once = _images_at_once(encoder.config.image_size, models.device)

    def step(batch: Batch) -> Batch:
        images = _tensor(batch["image"], device)
        uniforms = expert_uniforms(batch["source_index"], num_views, seed)
        repeated = images.repeat_interleave(num_views, dim=0)
        pairs = zip(repeated.split(at_once), uniforms.split(at_once), strict=True)
        parts = [to_storage(expert_views(to_model(part), u, config)) for part, u in pairs]
        views = torch.cat(parts).unflatten(0, (-1, num_views))
        return {
            "views": _numpy(views),
            "steps": np.zeros(len(views), np.int32),
            "inversion_error": np.full(len(views), np.nan, np.float32),
            "status": np.full(len(views), OK, np.uint8),
            **_measure(encoder, views, project(encoder, images, at_once), at_once),
        }

    return step


def expert_uniforms(image_ids: NDArray[np.int64], num_views: int, seed: int) -> Tensor:
    """Return the rows of uniform numbers of every image's views, `(B·V, NUM_UNIFORMS)`."""
    rows = [
        torch.rand(NUM_UNIFORMS, generator=addressed_generator(seed, "expert", int(image_id), view))
        for image_id in image_ids
        for view in range(num_views)
    ]
    return torch.stack(rows)


for _spec in (
    MethodSpec(
        name="wsearch",
        summary="optimise codes to a set distance from the anchor in the encoder's space (W-search)",
        config=WSearchConfig,
        needs=frozenset({"generator", "encoder", "inversions"}),
        build=build_wsearch,
    ),
    MethodSpec(
        name="wperturb",
        summary="add Gaussian noise to the anchor's code (W-perturb)",
        config=WPerturbConfig,
        needs=frozenset({"generator", "encoder", "inversions"}),
        build=build_wperturb,
    ),
    MethodSpec(
        name="expert",
        summary="random crop, flip, colour jitter and grayscale (SimCLR's transforms), for comparison",
        config=ExpertConfig,
        needs=frozenset({"encoder"}),
        build=build_expert,
    ),
    MethodSpec(
        name="invert",
        summary="refined inversion of every image; one view, its reconstruction",
        config=InvertConfig,
        needs=frozenset({"generator", "discriminator", "inverter"}),
        build=build_invert,
        num_views=1,
        arrays=("anchor_w_plus",),
    ),
):
    register(_spec)


def config_fields(spec: MethodSpec) -> frozenset[str]:
    """Return the names of a method's settings."""
    return frozenset(field.name for field in dataclasses.fields(spec.config))
