"""Directions in a generator's code space along which the refinement's loss is about equally curved.

The loss of an image is a sum of squared residuals r, and its Hessian near the minimum is about 2·JᵀJ, where J
are the residuals' derivatives by the code (Gauss-Newton). Its mean over codes is estimated once per generator
from products Jᵀu with random u, and its eigenvectors, divided by the square roots of its damped eigenvalues,
are the directions. The eigenvalues of StyleGAN2's W⁺ span six orders of magnitude, and of its thousands of
dimensions only as many change an image as the affine maps to the styles have outputs.
"""

import math

import torch
from torch import Tensor

from viewgen.errors import ModelError
from viewgen.networks.generator import Generator, SamplingGenerator
from viewgen.optimise.slots import equal_parts

__all__ = ["equal_curvature"]

NUM_CODES = 128
NUM_PROBES = 8
# Added to the eigenvalues, and the smallest one whose direction is kept, as shares of the largest.
DAMPING = 0.003
SMALLEST = 1e-6
COLUMNS_AT_ONCE = 256


def equal_curvature(generator: Generator, domain_weight: float, batch_size: int = 32) -> Tensor:
    """Return the directions `(D, K)`, D elements of a code and K at most 512.

    Args:
        generator: g, frozen, with its `start`. The same generator always gives the same directions.
        domain_weight: λ_d, weight of the residuals of the domain term relative to those of the pixels.
        batch_size: images per network evaluation.

    Raises:
        ModelError: no code changes its image, or derivatives are not finite.
    """
    device = generator.code_scale.device
    random = torch.Generator().manual_seed(0)
    labels = None
    if generator.num_classes:
        labels = torch.arange(NUM_CODES, device=device) % generator.num_classes
    codes = _codes_in_domain(generator, labels, random, batch_size)
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
                u = torch.randn(values.shape, generator=random).to(values)
                total = total + weight / math.sqrt(values[0].numel()) * (values * u).sum()
            (product,) = torch.autograd.grad(total, part, retain_graph=probe < NUM_PROBES - 1)
            products.append(product[:kept].flatten(1).cpu())
    rows = torch.cat(products)
    if not bool(torch.isfinite(rows).all()):
        raise ModelError("the generator's derivatives are not finite; its weights are damaged")
    values, units = _eigenvectors(rows)
    if not float(values[-1]) > 0:
        raise ModelError("the generator draws the same image from every code; its weights are damaged")
    large = values > SMALLEST * values[-1]
    directions = units[:, large] / (2 * (values[large] + DAMPING * values[-1])).sqrt()
    return directions.to(device, generator.code_scale.dtype)


@torch.no_grad()
def _codes_in_domain(
    generator: Generator, labels: Tensor | None, random: torch.Generator, batch_size: int
) -> Tensor:
    """Return the starts of the refinements, `(NUM_CODES, ...)`, of images that the generator draws."""
    scale = generator.code_scale
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
        return torch.linalg.eigh(rows.double().T @ rows.double() / count)
    # the smaller matrix of inner products has the same eigenvalues
    parts = rows.split(COLUMNS_AT_ONCE, dim=1)
    products = torch.zeros(count, count, dtype=torch.float64)
    for part in parts:
        products += part.double() @ part.double().T / count
    values, vectors = torch.linalg.eigh(products)
    scaled = vectors / (values * count).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    return values, torch.cat([(part.double().T @ scaled).to(rows.dtype) for part in parts])
