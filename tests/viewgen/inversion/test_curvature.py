"""The mean curvature: against the Hessian of a linear generator, for every kind of generator."""

import pytest
import torch
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.inversion import curvature
from viewgen.inversion.curvature import mean_curvature

SIZE, RANK = 9, 5


class Linear:
    """Images that are a linear function of codes of SIZE numbers, of rank RANK, with a linear start."""

    code_shape, image_size, channels, num_classes = (3, 3), 4, 3, 0

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=random)).Q[:, :RANK]
        strength = torch.tensor([30.0, 10.0, 3.0, 1.0, 0.3])
        self.matrix = torch.randn(48, RANK, generator=random) * strength @ basis.T
        self.back = torch.randn(SIZE, 48, generator=random) / 10
        self.code_scale = torch.ones(3, 3)

    def decode(self, codes: Tensor) -> Tensor:
        return (codes.flatten(1) @ self.matrix.T).view(-1, 3, 4, 4)

    def start(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return (images.flatten(1) @ self.back.T).view(-1, 3, 3)


class Sampling(Linear):
    """The same with a prior and two classes; it notes what it was asked."""

    noise_dim, num_classes = 7, 2

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[Tensor | None] = []

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        self.labels.append(labels)
        return self.decode(noise[:, :1, None].expand(-1, 3, 3))

    def start(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        self.labels.append(labels)
        return super().start(images, labels)


def hessian(generator: Linear, domain_weight: float) -> Tensor:
    """2·JᵀJ of mean (x − g(c))² + λ_d·mean (c₀ − e(g(c)))², exact for linear networks."""
    pixels = generator.matrix
    codes = generator.back @ generator.matrix
    return 2 * (pixels.T @ pixels / 48 + domain_weight * codes.T @ codes / SIZE)


@pytest.mark.parametrize("make", [Linear, Sampling])
@pytest.mark.parametrize("domain_weight", [0.0, 2.0])
def test_it_is_the_inverse_of_the_damped_hessian(make, domain_weight, monkeypatch):
    monkeypatch.setattr(curvature, "NUM_PROBES", 60)
    generator = make()
    found = mean_curvature(generator, domain_weight)
    exact = hessian(generator, domain_weight)
    largest = torch.linalg.eigvalsh(exact)[-1]
    damped = exact + curvature.DAMPING * largest * torch.eye(SIZE)
    # 3,840 random products estimate it to a few per cent
    root = torch.linalg.cholesky(damped)
    torch.testing.assert_close(found(root.T) @ root, torch.eye(SIZE), atol=0.1, rtol=0)
    assert found.scale == pytest.approx(1 / (curvature.DAMPING * largest.item()), rel=0.1)


def test_what_hardly_changes_the_image_costs_nothing(monkeypatch):
    """Directions whose curvature is small beside the damping are not computed with."""
    generator = Linear()
    assert mean_curvature(generator, 0.0).directions.shape == (SIZE, RANK)
    monkeypatch.setattr(curvature, "SMALLEST", 30.0)
    few = mean_curvature(generator, 0.0)
    assert few.directions.shape == (SIZE, 2)
    gradients = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1))
    assert bool(((gradients * few(gradients)).sum(dim=1) > 0).all())


def test_the_same_generator_gives_the_same_curvature():
    generator = Sampling()
    gradients = torch.eye(SIZE)
    one = mean_curvature(generator, 1.0)(gradients)
    torch.manual_seed(5)
    assert torch.equal(mean_curvature(generator, 1.0)(gradients), one)
    other = mean_curvature(generator, 1.0, batch_size=5)(gradients)
    torch.testing.assert_close(other, one, atol=1e-4 * float(one.max()), rtol=1e-3)
    with torch.no_grad():
        assert torch.equal(mean_curvature(generator, 1.0)(gradients), one)
    labels = torch.cat([found for found in generator.labels if found is not None])
    assert sorted(set(labels.tolist())) == [0, 1]


def test_eigenvectors_of_few_rows_are_those_of_the_matrix():
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values, vectors = curvature._eigenvectors(rows)
    matrix = rows.T @ rows / 6
    torch.testing.assert_close(matrix @ vectors, vectors * values)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize(("factor", "message"), [(0.0, "the same image"), (torch.nan, "not finite")])
def test_a_damaged_generator_is_told(factor, message):
    generator = Linear()
    generator.matrix = generator.matrix * factor
    with pytest.raises(ModelError, match=message):
        mean_curvature(generator, 0.0)


def test_codes_without_finite_derivatives_are_left_out():
    class Sick(Linear):
        def decode(self, codes: Tensor) -> Tensor:
            images = super().decode(codes)
            sound = torch.where(torch.arange(len(codes)) == 3, torch.nan, 1.0)
            return images * sound[:, None, None, None]

    found = mean_curvature(Sick(), 0.0)(torch.eye(SIZE))
    well = mean_curvature(Linear(), 0.0)(torch.eye(SIZE))
    torch.testing.assert_close(found, well, atol=0.2 * float(well.max()), rtol=0.2)


def test_labels_are_spread_over_all_classes():
    generator = Sampling()
    generator.num_classes = 200
    mean_curvature(generator, 1.0)
    labels = torch.cat([found for found in generator.labels if found is not None])
    assert int(labels.max()) > 150
    assert len(labels.unique()) == 64
