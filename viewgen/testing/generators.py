"""Contract of generators; see `viewgen.testing`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from viewgen.networks.generator import Generator, code_unit

__all__ = ["GeneratorContract"]


class GeneratorContract:
    """Contract of a generator: codes in, images out. Subclasses provide the fixture `generator`, frozen."""

    @pytest.fixture
    def generator(self) -> Generator:
        """The generator under test."""
        raise NotImplementedError("give the fixture `generator`")

    @pytest.fixture
    def pictures(self, generator: Generator) -> Tensor:
        """Model images, `(5, C, H, W)` in [−1, 1]."""
        shape = (5, generator.channels, generator.image_size, generator.image_size)
        return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 1

    @pytest.fixture
    def labels(self, generator: Generator) -> Tensor | None:
        """Class indices of the images, for a class-conditional generator."""
        return torch.arange(5) % generator.num_classes if generator.num_classes else None

    @pytest.fixture
    def codes(self, generator: Generator, pictures: Tensor, labels: Tensor | None) -> Tensor:
        """First codes, `(5, *code_shape)`, without gradients."""
        with torch.no_grad():
            return generator.start(pictures, labels)

    def test_a_code_has_the_shape_that_is_stated(self, generator: Generator, codes: Tensor) -> None:
        assert codes.shape == (5, *generator.code_shape)
        assert bool(torch.isfinite(codes).all())

    def test_codes_become_images(self, generator: Generator, codes: Tensor) -> None:
        with torch.no_grad():
            images = generator.decode(codes)
        assert images.shape == (5, generator.channels, generator.image_size, generator.image_size)
        assert images.dtype == torch.float32
        assert bool(torch.isfinite(images).all())

    def test_an_image_depends_on_its_own_code(self, generator: Generator, codes: Tensor) -> None:
        with torch.no_grad():
            together = generator.decode(codes)
            for row in range(len(codes)):
                alone = generator.decode(codes[row : row + 1])
                # float32 networks at another batch size
                torch.testing.assert_close(alone, together[row : row + 1], atol=1e-4, rtol=1e-4)

    def test_equal_codes_give_equal_images(self, generator: Generator, codes: Tensor) -> None:
        with torch.no_grad():
            assert torch.equal(generator.decode(codes), generator.decode(codes))

    def test_decoding_is_differentiable(self, generator: Generator, codes: Tensor) -> None:
        leaf = codes.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(generator.decode(leaf).square().sum(), leaf)
        assert gradient.shape == codes.shape
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient.flatten(1).norm(dim=1) > 0).all())

    def test_images_and_their_starts_can_be_differentiated_more_than_once(
        self, generator: Generator, codes: Tensor, labels: Tensor | None
    ) -> None:
        """One forward pass serves several backward passes, as the inversion's curvature needs."""
        leaf = codes.clone().requires_grad_()
        images = generator.decode(leaf)
        total = images.square().sum() + generator.start(images, labels).square().sum()
        (first,) = torch.autograd.grad(total, leaf, retain_graph=True)
        (second,) = torch.autograd.grad(total, leaf)
        torch.testing.assert_close(first, second)

    def test_the_gradient_is_that_of_the_images(self, generator: Generator, codes: Tensor) -> None:
        """A small step along the gradient changes the sum of the images as the gradient says."""
        leaf = codes[:1].clone().requires_grad_()
        total = generator.decode(leaf).square().mean()
        (gradient,) = torch.autograd.grad(total, leaf)
        step = 1e-3 * code_unit(generator) * gradient / gradient.norm()
        with torch.no_grad():
            changes = [float(generator.decode(leaf + sign * step).square().mean()) for sign in (1, -1)]
        expected = float((gradient * step).sum())
        # half the difference of two sides: its error is of third order, and float32's rounding
        assert (changes[0] - changes[1]) / 2 == pytest.approx(expected, rel=0.1, abs=1e-6)

    def test_the_start_is_differentiable_where_it_reads_the_images(
        self, generator: Generator, pictures: Tensor, labels: Tensor | None
    ) -> None:
        leaf = pictures.clone().requires_grad_()
        codes = generator.start(leaf, labels)
        if codes.requires_grad:
            (gradient,) = torch.autograd.grad(codes.square().sum(), leaf)
            assert bool(torch.isfinite(gradient).all())

    def test_the_scale_of_codes(self, generator: Generator) -> None:
        scale: Any = generator.code_scale
        assert scale.shape == generator.code_shape
        assert bool(torch.isfinite(scale).all())
        assert bool((scale >= 0).all())
        assert code_unit(generator) > 0

    def test_noise_of_one_scale_changes_the_images(self, generator: Generator, codes: Tensor) -> None:
        noise = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            moved = generator.decode(codes + generator.code_scale * noise) - generator.decode(codes)
        assert float(moved.abs().max()) > 1e-4

    def test_attributes(self, generator: Generator) -> None:
        assert generator.image_size >= 1
        assert generator.channels >= 1
        assert generator.num_classes >= 0
