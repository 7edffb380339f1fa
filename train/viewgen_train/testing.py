"""Contract of objectives as a pytest class; see `viewgen.testing`.

Shape legend: K views, N images, D projection dimension.
"""

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewgen.testing.entries import EntryContract
from viewgen_train.objectives.contrast import Contrastive
from viewgen_train.objectives.entry import ALL_COMBINATORS, ObjectiveEntry
from viewgen_train.objectives.objective import Allocated, Head, Objective, Outputs, Widths

__all__ = ["ObjectiveContract"]


class ObjectiveContract(EntryContract):
    """Contract of an objective: a finite, differentiable loss that is invariant to the order of the images.

    Attributes:
        num_images: number N of images.
        dim: projection dimension D, also the feature dimension.
        image_size: side H = W of images and views, in pixels.
        ordered: True if the loss may depend on the order of the images.
    """

    entry: ClassVar[ObjectiveEntry]
    num_images: ClassVar[int] = 6
    dim: ClassVar[int] = 5
    image_size: ClassVar[int] = 8
    ordered: ClassVar[bool] = False

    @pytest.fixture
    def objective(self) -> Objective:
        """The objective under test."""
        built: Objective = self.built()
        return built

    def built(self) -> Any:
        """Return the objective, with its state."""
        torch.manual_seed(0)
        built = self.choice.build()
        if isinstance(built, Allocated):
            built.allocate(Widths(features=self.dim, projections=self.dim, classes={"a": 3, "b": 2}))
        return built

    def outputs(self, objective: Objective, seed: int = 0) -> Outputs:
        """Return random network outputs that the objective needs, with gradients enabled."""
        random = torch.Generator().manual_seed(seed)
        views, count = objective.num_expert + objective.num_generated, self.num_images
        pixels = (3, self.image_size, self.image_size)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        def projections() -> Tensor:
            z = normal(views, count, self.dim)
            return (F.normalize(z, dim=2) if objective.head.unit else z).requires_grad_()

        needs = self.entry.needs
        num_patches = objective.head.patches**2
        return Outputs(
            z=projections(),
            p=projections() if objective.head.predictor else None,
            target=projections().detach() if objective.head.momentum is not None else None,
            features=normal(views, count, self.dim).requires_grad_() if "features" in needs else None,
            patches=normal(views, count, num_patches, self.dim).requires_grad_() if num_patches else None,
            patch_projections=normal(views, count, num_patches, self.dim).requires_grad_()
            if num_patches
            else None,
            images=normal(count, *pixels).clamp(-1, 1) if "images" in needs else None,
            views=normal(views, count, *pixels).clamp(-1, 1) if "views" in needs else None,
            labels=torch.randint(0, 2, (count, 2), generator=random) if "labels" in needs else None,
        )

    def test_it_says_what_it_needs(self, objective: Objective) -> None:
        assert objective.num_expert >= 0
        assert objective.num_generated >= 0
        assert objective.num_expert + objective.num_generated >= 1
        assert isinstance(objective.head, Head)
        assert self.entry.needs <= {"features", "patches", "images", "views", "labels"}
        assert self.entry.bears <= ALL_COMBINATORS

    def test_the_loss_is_one_finite_number(self, objective: Objective) -> None:
        losses = objective.loss(self.outputs(objective))
        assert "loss" in losses
        for name, value in losses.items():
            assert value.shape == (), name
            assert bool(torch.isfinite(value)), name

    def test_the_loss_has_gradients(self, objective: Objective) -> None:
        out = self.outputs(objective)
        outputs = (out.z, out.p, out.features, out.patches, out.patch_projections)
        found = [tensor for tensor in outputs if tensor is not None]
        if isinstance(objective, nn.Module):
            found += [parameter for parameter in objective.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(objective.loss(out)["loss"], found, allow_unused=True)
        reached = [gradient for gradient in gradients if gradient is not None]
        assert any(bool((gradient != 0).any()) for gradient in reached)
        assert all(bool(torch.isfinite(gradient).all()) for gradient in reached)

    def test_the_order_of_the_images_does_not_matter(self, objective: Objective) -> None:
        if self.ordered:
            pytest.skip("it may matter")
        out = self.outputs(objective)
        order = torch.arange(self.num_images).flip(0)

        def turned(tensor: Tensor | None, axis: int = 1) -> Any:
            return None if tensor is None else tensor.index_select(axis, order)

        other = Outputs(
            z=turned(out.z),
            p=turned(out.p),
            target=turned(out.target),
            features=turned(out.features),
            patches=turned(out.patches),
            patch_projections=turned(out.patch_projections),
            images=turned(out.images, 0),
            views=turned(out.views),
            labels=turned(out.labels, 0),
        )
        with torch.no_grad():
            expected, found = objective.loss(out)["loss"], objective.loss(other)["loss"]
        torch.testing.assert_close(found, expected)  # float32, another order of sums

    def test_its_contrast_is_its_loss(self, objective: Objective) -> None:
        if not self.entry.bears & {"IFM", "hard negatives"}:
            pytest.skip("it has no negatives that a combinator acts on")
        assert isinstance(objective, Contrastive)
        out = self.outputs(objective)
        with torch.no_grad():
            expected, found = objective.loss(out)["loss"], objective.loss_of(objective.contrast(out))
        torch.testing.assert_close(found, expected)  # float32, another order of sums

    def test_equal_outputs_give_equal_losses(self, objective: Objective) -> None:
        out = self.outputs(objective)
        with torch.no_grad():
            assert torch.equal(objective.loss(out)["loss"], objective.loss(out)["loss"])

    def test_a_step_is_noted_without_gradients(self, objective: Objective) -> None:
        for seed in range(3):
            objective.after_step(self.outputs(objective, seed).detach())
        assert bool(torch.isfinite(objective.loss(self.outputs(objective))["loss"]))

    def test_state_survives_a_checkpoint(self, objective: Objective) -> None:
        if not isinstance(objective, nn.Module):
            pytest.skip("it has no state")
        objective.after_step(self.outputs(objective).detach())
        other = self.built()
        other.load_state_dict(objective.state_dict())
        out = self.outputs(objective, 1)
        with torch.no_grad():
            assert torch.equal(other.loss(out)["loss"], objective.loss(out)["loss"])
