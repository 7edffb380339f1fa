"""Execution of networks as CUDA graphs, with a check and a fallback.

A group of images is always evaluated at the same size (`viewgen.optimise.slots`), so the roughly five hundred
small kernels of a forward or backward pass can be recorded once and launched together. A graph replays the
same kernels that an eager pass launches, so views do not depend on its use. The first evaluation of every
size runs both ways; after an exception or a difference that size stays eager, with a message.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

__all__ = ["Announce", "Compiler", "Recording", "accelerated", "cuda_graphs", "replaying"]

# Is told a topic ("batch size", …) and a line about it.
Announce = Callable[[str, str], object]
Function = Callable[[Tensor], Tensor]
# Takes a function and an input of the size that it will be called with, which requires a gradient.
Compiler = Callable[[Function, Tensor], Function]
Network = TypeVar("Network")

# Sizes of one network that are compiled: groups, and images at once. More graphs would fill the memory.
MAX_SIZES = 4
# Largest difference, as a share of the largest value. The same kernels differ by nothing, others of the same
# type by their rounding through some twenty layers.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A function's forward and backward pass between tensors at fixed addresses.

    Attributes:
        x: input.
        y: result.
        gradient_y: gradient of the result.
        gradient_x: gradient of the input.
        forward: graph whose `replay` computes y from x.
        backward: graph whose `replay` computes gradient_x from gradient_y and the saved tensors of the
            forward pass.
    """

    x: Tensor
    y: Tensor
    gradient_y: Tensor
    gradient_x: Tensor
    forward: Any
    backward: Any


def cuda_graphs(function: Function, sample: Tensor) -> Function:
    """Record the forward and backward pass of `function` for inputs like `sample` as CUDA graphs.

    Unlike with `torch.cuda.make_graphed_callables`, the saved tensors of the forward pass outlive a backward
    pass, which permits several backward passes (`viewgen.views.wsearch.newton` takes two).
    """
    x = sample.detach().clone().requires_grad_()
    # first calls allocate workspaces and choose kernels, which no graph may hold
    side = torch.cuda.Stream(x.device)
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(side):
        for _ in range(3):
            y = function(x)
            torch.autograd.grad(y, x, torch.ones_like(y))
    torch.cuda.current_stream(x.device).wait_stream(side)
    forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(forward, capture_error_mode="thread_local"):
        y = function(x)
    gradient_y = torch.ones_like(y)
    with torch.cuda.graph(backward, pool=forward.pool(), capture_error_mode="thread_local"):
        (gradient_x,) = torch.autograd.grad(y, x, gradient_y, retain_graph=True)
    return replaying(
        Recording(x=x, y=y, gradient_y=gradient_y, gradient_x=gradient_x, forward=forward, backward=backward)
    )


def replaying(recording: Recording) -> Function:
    """Return the recorded function; its results and gradients are copies that no replay overwrites.

    A backward pass belongs to the last forward pass; after another forward pass it raises RuntimeError.
    """
    num_replays = 0

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            nonlocal num_replays
            num_replays += 1
            ctx.replay = num_replays
            recording.x.copy_(x)
            recording.forward.replay()
            return recording.y.detach().clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            if ctx.replay != num_replays:
                raise RuntimeError("a graph's backward pass came after another forward pass of it")
            recording.gradient_y.copy_(gradients[0])
            recording.backward.replay()
            return recording.gradient_x.clone()

    return cast(Function, Replay.apply)


def accelerated(network: Network, compiler: Compiler, announce: Announce) -> Network:
    """Return a shallow copy of a frozen network with compiled methods, one compilation per input size.

    Args:
        network: network whose class attribute `compiled` maps the methods to compile to their names in
            messages; a network without it is returned unchanged.
        compiler: compiler of a function, for example `cuda_graphs`.
        announce: callback for every fallback.
    """
    compiled: Mapping[str, str] = getattr(network, "compiled", {})
    if not isinstance(network, nn.Module) or not compiled:
        return network
    low = any(parameter.dtype == torch.bfloat16 for parameter in network.parameters())
    fast = copy.copy(network)
    for method, name in compiled.items():
        # an attribute of the instance comes before the class's method
        vars(fast)[method] = _Compiled(
            getattr(network, method),
            compiler,
            announce,
            name=name,
            tolerance=TOLERANCE[torch.bfloat16 if low else torch.float32],
        )
    return fast


class _Compiled:
    """A function of one tensor, compiled separately for each of the first few input sizes."""

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
                compiled = self.compiler(self.function, sample)
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


def _difference(first: Function, second: Function, x: Tensor) -> float:
    """Return the largest difference of two functions' values and gradients, as a share of the largest value.

    Both are called on two inputs in turn and compared afterwards, which detects an overwritten result.
    """
    inputs = (x, x.flip(0))
    expected, found = (
        [tensor for part in inputs for tensor in _value_and_gradients(function, part)]
        for function in (first, second)
    )
    shares = [
        float((b - a).abs().max() / a.abs().max().clamp_min(1e-12))
        for a, b in zip(expected, found, strict=True)
    ]
    return max(math.inf if math.isnan(share) else share for share in shares)


def _value_and_gradients(function: Function, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value, and its gradients in two directions, from one forward pass."""
    leaf = x.clone().requires_grad_()
    value = function(leaf)
    # no multiples of the value: a normalised output has no gradient along itself
    line = torch.linspace(-1, 1, value.numel(), device=value.device, dtype=value.dtype).view_as(value)
    (first,) = torch.autograd.grad(value, leaf, line, retain_graph=True)
    (second,) = torch.autograd.grad(value, leaf, line.square())
    return value.detach(), first, second
