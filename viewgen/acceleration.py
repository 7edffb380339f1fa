"""Networks run as CUDA graphs, behind a check and a fallback.

A group of images is always evaluated at the same size (`viewgen.slots`), so the some five hundred small
kernels of a pass can be recorded once and launched together, the backward pass too. A graph replays the very
kernels that an eager pass launches, so views do not depend on whether it worked. The first evaluation of
every size is made both ways; an exception, or results that differ, leaves that size eager, and says so.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from viewgen.encoder import Encoder
from viewgen.inverter import Inverter
from viewgen.stylegan2 import Generator

__all__ = ["Announce", "Compiler", "accelerated", "cuda_graphs"]

# Is told a topic ("batch size", …) and a line about it.
Announce = Callable[[str, str], object]
Function = Callable[[Tensor], Tensor]
# Takes a function and an input of the size that it will be called with, which requires a gradient.
Compiler = Callable[[Function, Tensor], Function]
Network = TypeVar("Network", bound=nn.Module)

# Sizes of one network that are compiled: groups, and images at once. More graphs would fill the memory.
MAX_SIZES = 4
# Largest difference, as a share of the largest value. The same kernels differ by nothing, others of the same
# type by their rounding through some twenty layers.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def cuda_graphs(function: Function, sample: Tensor) -> Function:
    """Record the forward and backward pass of `function` for inputs like `sample` as CUDA graphs."""
    return cast(Function, torch.cuda.make_graphed_callables(function, (sample,)))


def accelerated(network: Network, compiler: Compiler, announce: Announce) -> Network:
    """Return a shallow copy of a frozen network that evaluates every size of input compiled.

    Args:
        network: a `Generator`, whose synthesis is compiled, an `Encoder` or an `Inverter`; others come
            back as they are.
        compiler: for example `cuda_graphs`.
        announce: is told of every fallback.
    """
    method = "synthesis" if isinstance(network, Generator) else "forward"
    if not isinstance(network, Generator | Encoder | Inverter):
        return network
    low = any(parameter.dtype == torch.bfloat16 for parameter in network.parameters())
    fast = copy.copy(network)
    # an attribute of the instance comes before the class's method
    vars(fast)[method] = _Compiled(
        getattr(network, method),
        compiler,
        announce,
        name=type(network).__name__.lower(),
        tolerance=TOLERANCE[torch.bfloat16 if low else torch.float32],
    )
    return fast


class _Compiled:
    """A function of one tensor, compiled for every size that it meets first."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        compiler: Compiler,
        announce: Announce,
        *,
        name: str,
        tolerance: float,
    ) -> None:
        self.function = function
        self.compiler = compiler
        self.announce = announce
        self.name = name
        self.tolerance = tolerance
        self._of_size: dict[tuple[int, ...], Function | None] = {}

    def __call__(self, x: Tensor, *others: Any) -> Tensor:
        if any(other is not None for other in others):
            return self.function(x, *others)
        size = tuple(x.shape)
        if size not in self._of_size:
            self._of_size[size] = self._compile(x) if len(self._of_size) < MAX_SIZES else None
        compiled = self._of_size[size]
        return self.function(x) if compiled is None else compiled(x)

    def _compile(self, x: Tensor) -> Function | None:
        sample = x.detach().nan_to_num().clone().requires_grad_()
        try:
            with torch.enable_grad():
                compiled = _owning(self.compiler(self.function, sample))
                difference = _difference(self.function, compiled, sample.detach())
        except Exception as error:  # whatever a compiler raises, the eager function still works
            if x.is_cuda:
                torch.cuda.empty_cache()
            lines = str(error).strip().splitlines()
            problem = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        else:
            if difference <= self.tolerance:
                return compiled
            problem = f"results differ by {difference:.2g} of their largest value"
        self.announce(
            "acceleration",
            f"the {self.name} runs eagerly on {len(x)} at once, its compiled form cannot be used: {problem}",
        )
        return None


def _owning(compiled: Function) -> Function:
    """Return `compiled` with results and gradients of its own, which its next call does not overwrite."""

    def function(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda gradient: gradient.clone())
        return compiled(x).clone()

    return function


def _difference(first: Function, second: Function, x: Tensor) -> float:
    """Return the largest difference of two functions' values and gradients, as a share of the largest value.

    They are called on two inputs in turn and compared afterwards, so that an overwritten result shows.
    """
    inputs = (x, x.flip(0))
    pairs = zip(
        *([_value_and_gradient(function, part) for part in inputs] for function in (first, second)),
        strict=True,
    )
    shares = [
        float((b - a).abs().max() / a.abs().max().clamp_min(1e-12))
        for expected, found in pairs
        for a, b in zip(expected, found, strict=True)
    ]
    return max(share if share == share else float("inf") for share in shares)


def _value_and_gradient(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = function(leaf)
    # no multiple of the value: a normalised output has no gradient along itself
    direction = torch.linspace(-1, 1, value.numel(), device=value.device, dtype=value.dtype).view_as(value)
    (gradient,) = torch.autograd.grad(value, leaf, direction)
    return value.detach(), gradient
