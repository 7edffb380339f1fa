"""The mean curvature of the refinement's loss in a generator's code space, as a preconditioner.

But for its perceptual term, which is left out here, the loss of an image is a sum of squared residuals r, and
its Hessian near the minimum is about 2·JᵀJ, where J are the residuals' derivatives by the code: Gauss-Newton.
The mean of JᵀJ over codes is estimated once per generator from products Jᵀu with random u; the preconditioner
is the inverse of the damped mean, which is a multiple of the identity but for a few hundred directions.
Without it steps are badly scaled: the eigenvalues for StyleGAN2's W⁺ span six orders of magnitude.

Shape legend: D elements of a code, K directions, N products Jᵀu.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.networks.generator import Generator, SamplingGenerator
from viewgen.optimise.slots import equal_parts

__all__ = ["MeanCurvature", "mean_curvature"]

NUM_CODES = 64
NUM_PROBES = 8
# Added to the eigenvalues, as a share of the largest; and of that the smallest eigenvalue worth its cost.
DAMPING = 0.003
SMALLEST = 0.01
COLUMNS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanCurvature:
    """The inverse of a damped Hessian, scale·I − V·Vᵀ; call it with gradients `(B, D)`.

    Attributes:
        scale: inverse curvature in all directions that are not among those of `directions`.
        directions: V, `(D, K)`, eigenvectors times the roots of what their eigenvalues take off `scale`.
    """

    scale: float
    directions: Tensor

    def __call__(self, gradients: Tensor) -> Tensor:
        """Return the gradients times this matrix, `(B, D)`."""
        return self.scale * gradients - (gradients @ self.directions) @ self.directions.T


@torch.enable_grad()
def mean_curvature(generator: Generator, domain_weight: float, batch_size: int = 32) -> MeanCurvature:
    """Return the preconditioner for refinements with this generator.

    Args:
        generator: g, frozen, with its `start`. The same generator gives the same result, up to rounding.
        domain_weight: λ_d, weight of the residuals of the domain term relative to those of the pixels.
        batch_size: images per network evaluation, at most; no more than 64 are taken.

    Raises:
        ModelError: no code changes its image, or derivatives are not finite.
    """
    device = generator.code_scale.device
    batch_size = min(batch_size, NUM_CODES)
    labels = None
    if count := generator.num_classes:
        every = torch.arange(NUM_CODES, device=device)
        labels = every % count if count <= NUM_CODES else every * count // NUM_CODES
    codes = _codes_in_domain(generator, labels, batch_size)
    randoms = [torch.Generator().manual_seed(1 + number) for number in range(NUM_CODES)]
    products = []
    for index, kept in equal_parts(torch.arange(NUM_CODES, device=device), batch_size):
        part = codes[index].requires_grad_()
        images = generator.decode(part)
        residuals = [(images, 1.0)]
        if domain_weight:
            own = None if labels is None else labels[index]
            residuals.append((generator.start(images, own), math.sqrt(domain_weight)))
        for probe in range(NUM_PROBES):
            total = images.new_zeros(())
            for values, weight in residuals:
                own_u = [torch.randn(values.shape[1:], generator=randoms[i]) for i in index[:kept].tolist()]
                u = torch.stack(own_u + own_u[-1:] * (len(index) - kept)).to(values)
                total = total + weight / math.sqrt(values[0].numel()) * (values * u).sum()
            (product,) = torch.autograd.grad(total, part, retain_graph=probe < NUM_PROBES - 1)
            products.append(product[:kept].flatten(1).cpu())
    rows = torch.cat(products)
    rows = rows[torch.isfinite(rows).all(dim=1)]
    if 2 * len(rows) < NUM_CODES * NUM_PROBES:
        raise ModelError("the generator's derivatives are not finite; its weights are damaged")
    values, vectors = _eigenvectors(rows)
    damping = DAMPING * float(values[-1])
    if not damping > 0:
        raise ModelError("the generator draws the same image from every code; its weights are damaged")
    large = values > SMALLEST * damping
    scale = 1 / (2 * damping)
    taken_off = scale - 1 / (2 * (values[large] + damping))
    directions = vectors[:, large] * taken_off.sqrt()
    return MeanCurvature(scale=scale, directions=directions.to(device, generator.code_scale.dtype))


@torch.no_grad()
def _codes_in_domain(generator: Generator, labels: Tensor | None, batch_size: int) -> Tensor:
    """Return codes as refinements start from, `(NUM_CODES, ...)`.

    They are the starts of images that the generator draws or, where it has no prior, noise around the start
    of a grey image.
    """
    scale = generator.code_scale
    random = torch.Generator().manual_seed(0)
    if isinstance(generator, SamplingGenerator):
        noise = torch.randn(NUM_CODES, generator.noise_dim, generator=random).to(scale)
    else:
        noise = torch.randn(NUM_CODES, *generator.code_shape, generator=random).to(scale)
    found = []
    for index, kept in equal_parts(torch.arange(NUM_CODES, device=scale.device), batch_size):
        own = None if labels is None else labels[index]
        if isinstance(generator, SamplingGenerator):
            codes = generator.start(generator.sample(noise[index], own), own)
        else:
            grey = scale.new_zeros(len(index), generator.channels, generator.image_size, generator.image_size)
            codes = generator.start(grey, own) + scale * noise[index]
        found.append(codes[:kept])
    return torch.cat(found)


def _eigenvectors(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors `(D, ·)` of the mean of r·rᵀ over the rows r, `(N, D)`.

    Computed in float64, of which a long code's rows would take much memory, part by part.
    """
    count, size = rows.shape
    if size <= count:
        values, vectors = torch.linalg.eigh(rows.double().T @ rows.double() / count)
        return values, vectors.to(rows.dtype)
    # the smaller matrix of inner products has the same eigenvalues
    parts = rows.split(COLUMNS_AT_ONCE, dim=1)
    products = torch.zeros(count, count, dtype=torch.float64)
    for part in parts:
        products += part.double() @ part.double().T / count
    values, vectors = torch.linalg.eigh(products)
    scaled = vectors / (values * count).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    return values, torch.cat([(part.double().T @ scaled).to(rows.dtype) for part in parts])
