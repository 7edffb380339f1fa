"""Limits of how far a view's code may lie from its anchor's, kept by every update.

Where a projection hardly changes along a code, a search goes far before it reaches ε₁, out of what the
generator has learnt. A radius R keeps the root mean square change of a code's elements below R, a least step
above it; both are in units of the generator's `code_scale`. A code outside is drawn back along its own
direction from the anchor, which is the nearest place inside.

Shape legend: A active images, n views, … a code's own dimensions, D their product.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.optimise.slots import Evaluation, Tensors, UpdateRule, expanded
from viewgen.views.wsearch.settings import WSearchConfig

__all__ = ["EVERYWHERE", "CodeRange", "Confined", "code_range"]


@dataclass(frozen=True, slots=True)
class CodeRange:
    """Least and largest root mean square change of a code, in units of `code_scale`."""

    least: float = 0.0
    largest: float = math.inf

    @property
    def limits(self) -> bool:
        """True if there is a limit."""
        return self.least > 0 or self.largest < math.inf

    def factor(self, length: Tensor, size: int, beside: Tensor | float = 0.0) -> Tensor:
        """Return the factor that brings changes of code into the range.

        Args:
            length: norms of the part of each change that the factor acts on.
            size: D.
            beside: squares of the norms of the rest, orthogonal to that part.
        """
        inner = (self.least**2 * size - torch.as_tensor(beside)).clamp_min(0).sqrt()
        outer = (self.largest**2 * size - torch.as_tensor(beside)).clamp_min(0).sqrt()
        return length.clamp_min(1e-12).maximum(inner).minimum(outer) / length.clamp_min(1e-12)

    def drawn_back(self, codes: Tensor, anchors: Tensor, scale: Tensor) -> Tensor:
        """Return the nearest codes in the range.

        Args:
            codes: `(A, n, ...)`.
            anchors: `(A, ...)`.
            scale: the generator's `code_scale`.
        """
        change = (codes - anchors[:, None]) / scale
        length = change.flatten(2).norm(dim=2)
        factor = self.factor(length, math.prod(change.shape[2:]))
        inside = anchors[:, None] + expanded(factor, change) * (scale * change)
        return torch.where(expanded(factor == 1, codes), codes, inside)


EVERYWHERE = CodeRange()


def code_range(config: WSearchConfig) -> CodeRange:
    """Return the range of a search; its settings are in truncated codes."""
    largest = math.inf if config.radius is None else config.truncation * config.radius
    return CodeRange(config.truncation * config.least_step, largest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confined:
    """An update rule whose codes are drawn back into a range (`viewgen.optimise.slots.UpdateRule`).

    Attributes:
        rule: the update rule.
        range: limits of the change of a code.
        anchor_codes: codes of all images' anchors, `(N, ...)`.
        scale: the generator's `code_scale`.
    """

    rule: UpdateRule
    range: CodeRange
    anchor_codes: Tensor
    scale: Tensor

    @property
    def needs_gradients(self) -> bool:
        """Whether the rule needs gradients."""
        return self.rule.needs_gradients

    def fresh(self, codes: Tensor, rows: Tensor) -> Tensors:
        """Return the rule's state, and the rows of the images."""
        return {**self.rule.fresh(codes, rows), "rows": rows}

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return the rule's derivatives."""
        return self.rule.differentiate(evaluation, codes)

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the rule's next codes, drawn back."""
        moved = self.rule.move(codes, steps, derivatives, state)
        return self.range.drawn_back(moved, self.anchor_codes[state["rows"]], self.scale)
