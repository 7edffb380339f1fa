"""W-search as a view source, at either precision.

In bfloat16 the search runs on copies of the networks (`viewgen.networks.precision`). Stored views are
rendered, and their distances measured, in float32. If an image is done according to the search, but not all
of its stored views are within the tolerance, its search continues in float32 from the codes found, with the
same limit on the total number of steps. `steps` counts both parts.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.memory import SlotRunner
from viewgen.networks.batched import images_at_once, project, render
from viewgen.networks.encoder import Encoder
from viewgen.networks.generator import Generator
from viewgen.optimise.slots import Evaluation, SlotResult, slot_bytes
from viewgen.status import Status
from viewgen.views.distances import view_distances
from viewgen.views.entry import Resources
from viewgen.views.source import Images, Views, required_codes
from viewgen.views.wsearch.features import search_features, search_metric
from viewgen.views.wsearch.loss import near_boundary
from viewgen.views.wsearch.problem import WSearchProblem, search_views
from viewgen.views.wsearch.settings import WSearchConfig

__all__ = ["WSearchSource"]

# Share of the learning rate with which a search goes on in float32. Views are off by a rounding error, and
# Adam's first step has the length of the rate, whatever the gradient: of 24 digits nine went on, at the full
# rate for 3 to 20 steps, at a quarter of it for one or two.
CONTINUED_RATE = 0.25


class _Continuation(WSearchProblem):
    """W-search that continues from given codes; an image is done when its views meet ε₁ again.

    Args:
        codes: first codes of the images, `(N, n, ...)`.
        used: number of earlier steps, `(N,)`.
        others: arguments of `WSearchProblem`.
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
        closer = config.replace(start="noise", learning_rate=CONTINUED_RATE * config.learning_rate)
        super().__init__(generator, encoder, config=closer, **others)
        self.codes = codes
        self.used = used
        self.exhausted = torch.zeros(self.num_images, dtype=torch.bool, device=self.device)

    def start(self, rows: Tensor) -> Tensor:
        super().start(rows)
        return self.codes[rows]

    def evaluate(self, codes: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        evaluation = super().evaluate(codes, rows, steps)
        near = near_boundary(self.distance[rows], self.config).all(dim=1)
        spent = steps + self.used[rows] >= self.config.max_steps
        self.exhausted[rows] = spent & ~near
        return dataclasses.replace(evaluation, done=near | spent)

    def total(self, result: SlotResult) -> SlotResult:
        """Add the low-precision steps to `result`; mark images that ran out of steps as not converged."""
        status = result.status.masked_fill(
            self.exhausted & (result.status == Status.OK), Status.NOT_CONVERGED
        )
        steps = (result.steps + self.used).to(torch.int32)
        return dataclasses.replace(result, steps=steps, status=status)


class WSearchSource:
    """W-search over frozen networks.

    Args:
        config: settings, with ε₁ a number.
        resources: generator, encoder, the further encoders that the settings name, and their execution
            settings.

    Raises:
        ModelError: the resources have another number of further encoders than the settings.
    """

    roles: tuple[str, ...] = ("view",)

    def __init__(self, config: WSearchConfig, resources: Resources) -> None:
        self.config, self.resources = config, resources
        encoders = resources.encoders()
        if len(encoders) != 1 + len(config.encoders):
            raise ModelError(
                f"wsearch: the settings name {len(config.encoders)} further encoders, and "
                f"{len(encoders) - 1} were loaded"
            )
        self.metric = search_metric(encoders, config)
        self.networks = (resources.network("generator"), search_features(encoders, config))
        self.searched: Any = (
            resources.network("generator", config.precision),
            search_features(resources.encoders(config.precision), config),
        )
        self.at_once = images_at_once(self.networks[0].image_size, resources.models.device)
        self._runners: dict[int, SlotRunner] = {}

    def views(self, images: Images, num_views: int) -> Views:
        """Return storage images `(V, B, C, H, W)`, with codes, distances, steps and status as columns."""
        return _Search(self, images, num_views).run()

    def runner(self, num_views: int) -> SlotRunner:
        """Return the `SlotRunner`: number of images searched at once, given the number of views."""
        if num_views not in self._runners:
            generator = self.networks[0]
            self._runners[num_views] = self.resources.models.execution.slots(
                self.resources.batch_size,
                group_size=self.group_size(num_views),
                slot_bytes=slot_bytes(num_views, generator.code_shape),
                device=self.resources.models.device,
            )
        return self._runners[num_views]

    def group_size(self, num_views: int) -> int:
        """Return the number of images evaluated together."""
        return max(1, self.at_once // num_views)


class _Search:
    """The search for the views of one batch."""

    def __init__(self, source: WSearchSource, images: Images, num_views: int) -> None:
        self.source, self.images, self.num_views = source, images, num_views
        self.config, self.at_once = source.config, source.at_once
        self.generator, self.encoder = source.networks
        self.anchors = required_codes(images)
        self.image_features = project(self.encoder, images.pixels, self.at_once)
        rendered = render(self.generator, self.anchors, self.at_once)
        self.features = project(self.encoder, rendered, self.at_once)
        from_image = self.config.anchor == "image"
        self.targets = self.image_features if from_image else self.features
        self.every = torch.arange(len(images), device=self.anchors.device)

    def run(self) -> Views:
        """Return the views and their columns."""
        runner = self.source.runner(self.num_views)
        result = runner.run(self._search, self._trial, len(self.images))
        views, columns = self._stored(result, self.every)
        if self.config.precision != "float32":
            again = self._off_the_boundary(result, columns["distance"])
            columns["continued"] = torch.zeros(len(self.images), dtype=torch.uint8, device=again.device)
            if len(again):
                further = runner.run(lambda slots: self._go_on(result, again, slots), self._trial, len(again))
                columns["continued"][again] = 1
                views[again], found = self._stored(further, again)
                for name, values in found.items():
                    columns[name][again] = values
        columns["anchor_distance"] = self.source.metric.length(self.features - self.image_features)
        return Views(pixels=views.transpose(0, 1), status=columns["status"], columns=columns)

    def _problem(self, rows: Tensor) -> dict[str, Any]:
        """Return the arguments of a problem for the images `rows`."""
        return {
            "anchor_features": self.targets[rows],
            "anchor_codes": self.anchors[rows],
            "draws": self.images.draws.of(rows),
            "num_views": self.num_views,
            "batch_size": self.at_once,
            "metric": self.source.metric,
        }

    def _search(self, num_slots: int) -> SlotResult:
        problem = WSearchProblem(*self.source.searched, config=self.config, **self._problem(self.every))
        return search_views(problem, num_slots, self.source.group_size(self.num_views))

    def _trial(self, num_images: int) -> None:
        """Take one step with a given number of images, to measure its memory."""
        brief = self.config.replace(start="noise", max_steps=1)
        rows = torch.arange(num_images, device=self.anchors.device) % len(self.images)
        problem = WSearchProblem(*self.source.searched, config=brief, **self._problem(rows))
        search_views(problem, num_images, self.source.group_size(self.num_views))

    def _go_on(self, result: SlotResult, again: Tensor, num_slots: int) -> SlotResult:
        """Continue in float32 with the images `again`."""
        problem = _Continuation(
            *self.source.networks,
            codes=result.codes[again],
            used=result.steps[again],
            config=self.config,
            **self._problem(again),
        )
        return problem.total(search_views(problem, num_slots, self.source.group_size(self.num_views)))

    def _off_the_boundary(self, result: SlotResult, distance: Tensor) -> Tensor:
        """Return the images that are done according to the search, but with stored views off the boundary."""
        near = near_boundary(distance, self.config).all(dim=1)
        return self.every[(result.status == Status.OK) & ~near]

    def _stored(self, result: SlotResult, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the storage images `(B, V, C, H, W)` and the columns of the images `rows`."""
        flat = render(self.generator, result.codes.flatten(0, 1), self.at_once)
        views = flat.unflatten(0, (-1, self.num_views))
        return views, {
            "steps": result.steps,
            "status": result.status,
            "w_plus": result.codes,
            **view_distances(self.encoder, views, self.targets[rows], self.at_once, self.source.metric),
        }
