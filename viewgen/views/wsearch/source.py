"""W-search as a step from arrays to arrays, at either precision.

In bfloat16 the search runs on copies of the networks (`viewgen.networks.precision`). What is stored is not
theirs: views are rendered, and their distances measured, in float32. An image that the search took to be
done, and whose stored views do not all lie within the tolerance, goes on in float32 from the codes found,
within the same number of steps. `steps` counts both parts.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewgen.memory import BatchSize
from viewgen.networks.encoder import Encoder
from viewgen.networks.files import Models
from viewgen.networks.precision import at_precision
from viewgen.networks.stylegan2 import Generator
from viewgen.optimise.slots import Evaluation, SlotResult
from viewgen.status import Status
from viewgen.views.batches import (
    Batch,
    Step,
    as_array,
    as_tensor,
    images_at_once,
    measure,
    needed,
    slot_bytes,
)
from viewgen.views.wsearch.problem import (
    WSearchConfig,
    WSearchProblem,
    near_boundary,
    project,
    render,
    search_views,
)

__all__ = ["build_wsearch"]

# Share of the learning rate with which a search goes on in float32. Views are off by a rounding error, and
# Adam's first step has the length of the rate, whatever the gradient: of 24 digits nine went on, at the full
# rate for 3 to 20 steps, at a quarter of it for one or two.
CONTINUED_RATE = 0.25


class _Continuation(WSearchProblem):
    """W-search that goes on from given codes; an image is done when its views meet ε₁ again.

    Args:
        codes: where images start, `(N, n, L, D)`.
        used: steps made so far, `(N,)`.
        others: of `WSearchProblem`.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        *,
        codes: Tensor,
        used: Tensor,
        config: WSearchConfig,
        **others: Any,
    ) -> None:
        closer = dataclasses.replace(
            config, start="noise", learning_rate=CONTINUED_RATE * config.learning_rate
        )
        super().__init__(generator, encoder, config=closer, **others)
        self.codes = codes
        self.used = used
        self.exhausted = torch.zeros(self.num_images, dtype=torch.bool, device=self.device)

    def start(self, rows: Tensor) -> Tensor:
        super().start(rows)
        return self.codes[rows]

    def evaluate(self, w: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        evaluation = super().evaluate(w, rows, steps)
        near = near_boundary(self.distance[rows], self.config).all(dim=1)
        spent = steps + self.used[rows] >= self.config.max_steps
        self.exhausted[rows] = spent & ~near
        return dataclasses.replace(evaluation, done=near | spent)

    def total(self, result: SlotResult) -> SlotResult:
        """Add the low-precision steps; mark images that ran out of them as not converged."""
        status = result.status.masked_fill(
            self.exhausted & (result.status == Status.OK), Status.NOT_CONVERGED
        )
        steps = (result.steps + self.used).to(torch.int32)
        return dataclasses.replace(result, steps=steps, status=status)


def build_wsearch(
    config: WSearchConfig,
    models: Models,
    device: str,
    seed: int,
    num_views: int,
    batch_size: BatchSize = None,
) -> Step:
    """Return the step of W-search (eq. 2)."""
    g, f = needed(models, "generator"), needed(models, "encoder")
    execution = models.execution
    generator, encoder = execution.accelerate(g), execution.accelerate(f)
    searched = (generator, encoder)
    if config.precision != "float32":
        searched = tuple(execution.accelerate(at_precision(net, config.precision)) for net in (g, f))
    at_once = images_at_once(g.config.image_size, models.device)
    group_size = max(1, at_once // num_views)
    runner = execution.slots(
        batch_size,
        group_size=group_size,
        slot_bytes=slot_bytes(num_views, g.num_layers, g.config.style_dim),
        device=models.device,
    )

    def step(batch: Batch) -> Batch:
        anchors = as_tensor(batch["anchor_w_plus"], device)
        ids = as_tensor(batch["source_index"], "cpu")
        image_features = project(encoder, as_tensor(batch["image"], device), at_once)
        features = project(encoder, render(generator, anchors, at_once), at_once)
        targets = features if config.anchor == "reconstruction" else image_features
        every = torch.arange(len(ids), device=anchors.device)

        def images(rows: Tensor) -> dict[str, Any]:
            """Return what a problem is told of the images `rows`."""
            return {
                "anchor_features": targets[rows],
                "anchor_w_plus": anchors[rows],
                "image_ids": ids[rows.cpu()],
                "num_views": num_views,
                "seed": seed,
                "batch_size": at_once,
            }

        def search(num_slots: int) -> SlotResult:
            problem = WSearchProblem(*searched, config=config, **images(every))
            return search_views(problem, num_slots, group_size)

        def trial(num_images: int) -> None:
            brief = dataclasses.replace(config, start="noise", max_steps=1)
            rows = torch.arange(num_images, device=anchors.device) % len(ids)
            search_views(WSearchProblem(*searched, config=brief, **images(rows)), num_images, group_size)

        def stored(result: SlotResult, rows: Tensor) -> Batch:
            """Return what is stored of the images `rows`; `result` is theirs."""
            views = render(generator, result.w.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
            return {
                "views": as_array(views),
                "steps": as_array(result.steps),
                "status": as_array(result.status),
                "w_plus": as_array(result.w),
                **measure(encoder, views, targets[rows], at_once),
            }

        result = runner.run(search, trial, len(ids))
        found = stored(result, every)
        if config.precision != "float32":
            near = near_boundary(as_tensor(found["distance"], device), config).all(dim=1)
            again = every[(result.status == Status.OK) & ~near]
            found["continued"] = np.zeros(len(ids), np.uint8)
            if len(again):

                def go_on(num_slots: int) -> SlotResult:
                    problem = _Continuation(
                        generator,
                        encoder,
                        codes=result.w[again],
                        used=result.steps[again],
                        config=config,
                        **images(again),
                    )
                    return problem.total(search_views(problem, num_slots, group_size))

                rows = as_array(again)
                found["continued"][rows] = 1
                for name, values in stored(runner.run(go_on, trial, len(again)), again).items():
                    found[name][rows] = values
        return {
            **found,
            "inversion_error": batch["anchor_error"],
            "anchor_distance": as_array((features - image_features).norm(dim=1)),
        }

    return step
