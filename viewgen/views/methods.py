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
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import UsageError, nearest_name
from viewgen.images import to_model, to_storage
from viewgen.inversion.refine import InvertConfig
from viewgen.inversion.source import build_invert
from viewgen.memory import BatchSize
from viewgen.networks.files import Models
from viewgen.randomness import addressed_generator
from viewgen.status import Status
from viewgen.views.batches import Batch, Step, as_array, as_tensor, images_at_once, measure, needed
from viewgen.views.expert import NUM_UNIFORMS, ExpertConfig, expert_views
from viewgen.views.wperturb import WPerturbConfig
from viewgen.views.wsearch.problem import WSearchConfig, initial_codes, project, render
from viewgen.views.wsearch.source import build_wsearch

__all__ = ["METHODS", "Batch", "MethodSpec", "Step", "method_spec", "register"]


class Builder(Protocol):
    """Makes a step of networks on a device, a seed, a number of views, and how many images run at once.

    `batch_size` is a number, ``"auto"`` for as many as fit into memory, or None for the method's own choice.
    """

    def __call__(
        self,
        config: Any,
        models: Models,
        device: str,
        seed: int,
        num_views: int,
        batch_size: BatchSize = None,
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


def build_wperturb(
    config: WPerturbConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: BatchSize = None,
) -> Step:
    """Return the step of W-perturb: g(e(x) + σ·N(0, I))."""
    generator, encoder = (
        models.execution.accelerate(needed(models, name)) for name in ("generator", "encoder")
    )
    at_once = images_at_once(generator.config.image_size, models.device)

    def step(batch: Batch) -> Batch:
        anchors = as_tensor(batch["anchor_w_plus"], device)
        image_features = project(encoder, as_tensor(batch["image"], device), at_once)
        features = project(encoder, render(generator, anchors, at_once), at_once)
        ids = as_tensor(batch["source_index"], "cpu")
        codes = initial_codes(anchors, ids, num_views, noise=config.sigma, seed=seed, stage="wperturb")
        views = render(generator, codes.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
        return {
            "views": as_array(views),
            "steps": np.zeros(len(views), np.int32),
            "inversion_error": batch["anchor_error"],
            "status": np.full(len(views), Status.OK, np.uint8),
            "anchor_distance": as_array((features - image_features).norm(dim=1)),
            "w_plus": as_array(codes),
            **measure(encoder, views, features, at_once),
        }

    return step


def build_expert(
    config: ExpertConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: BatchSize = None,
) -> Step:
    """Return the step that applies the expert transform, its draws addressed by (seed, image, view)."""
    encoder = models.execution.accelerate(needed(models, "encoder"))
    at_once = images_at_once(encoder.config.image_size, models.device)

    def step(batch: Batch) -> Batch:
        images = as_tensor(batch["image"], device)
        uniforms = expert_uniforms(batch["source_index"], num_views, seed)
        repeated = images.repeat_interleave(num_views, dim=0)
        pairs = zip(repeated.split(at_once), uniforms.split(at_once), strict=True)
        parts = [to_storage(expert_views(to_model(part), u, config)) for part, u in pairs]
        views = torch.cat(parts).unflatten(0, (-1, num_views))
        return {
            "views": as_array(views),
            "steps": np.zeros(len(views), np.int32),
            "inversion_error": np.full(len(views), np.nan, np.float32),
            "status": np.full(len(views), Status.OK, np.uint8),
            **measure(encoder, views, project(encoder, images, at_once), at_once),
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
