"""Data-parallel training with exact gradients of the global loss.

Every rank holds an equal, consecutive part of the global batch. It gathers the projections of all ranks and
computes the loss of the whole batch. The backward pass of `World.gather` sums the ranks' gradients of each
projection, which is W × the gradient of the single loss; averaging parameter gradients over ranks cancels the
factor W. With batch normalisation over all ranks, W workers with B images each are therefore equivalent to
one worker with W·B images, up to rounding.

Shape legend: B images per rank, W ranks, C channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from viewgen.errors import UsageError

__all__ = ["SynchronisedBatchNorm", "World", "synchronise_batchnorm"]

Rows = TypeVar("Rows", Tensor, np.ndarray[Any, Any])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.new_empty(dist.get_world_size() * len(part), *part.shape[1:])
        dist.all_gather(list(whole.chunk(dist.get_world_size())), part.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # all-reduce rather than reduce-scatter: every backend has it, and projections are small
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


@dataclass(frozen=True, slots=True)
class World:
    """Rank of this process and number of processes of a training.

    Attributes:
        rank: number of this process, from 0; rank 0 writes the files.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """Return the world of the `torch.distributed` process group; a single process without a group."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """Return this rank's consecutive part of a global batch (array or tensor, split along axis 0).

        Raises:
            UsageError: the batch size is not divisible by the number of ranks.
        """
        if len(rows) % self.size:
            raise UsageError(
                f"a batch of {len(rows)} does not divide into equal parts for {self.size} workers; "
                "change the batch size or the number of workers"
            )
        part = len(rows) // self.size
        return rows[self.rank * part : (self.rank + 1) * part]

    def gather(self, part: Tensor) -> Tensor:
        """Return the concatenation `(W·B, …)` of all ranks' `(B, …)`, in rank order, differentiable."""
        return part if self.size == 1 else cast(Tensor, _Gather.apply(part))  # type: ignore[no-untyped-call]

    def reduce_mean(self, value: float) -> float:
        """Return the mean of a number over the ranks."""
        if self.size == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total) / self.size

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """Return a wrapper of `network` whose backward pass averages gradients over the ranks.

        The wrapper is torch's `DistributedDataParallel`; for one process, `network` itself is returned. All
        parameters must take part in every backward pass. Several forward passes may precede it.
        """
        if self.size == 1:
            return network
        parallel = DistributedDataParallel(network)
        # Buffers are equal on all ranks, for batch normalisation is synchronised; sent anew, they would
        # change between two forwards of one step. (The argument of this name warns from torch 2.13 on.)
        parallel.broadcast_buffers = False
        return parallel

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over the ranks, for networks outside `data_parallel`."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


class SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation over the batches of all ranks, on any device.

    `torch.nn.SyncBatchNorm` runs on accelerators only. Parameters, buffers and their names are those of
    `BatchNorm1d` and `BatchNorm2d`. All ranks must have batches of equal size.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (B, C, …), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(B, C, …)`."""
        world = World.current()
        if not self.training or world.size == 1:
            return super().forward(input)
        self._check_input_dim(input)
        over = [axis for axis in range(input.dim()) if axis != 1]
        variance_C, mean_C = torch.var_mean(input, over, correction=0)
        means_WC, variances_WC = world.gather(torch.stack([mean_C, variance_C])[None]).unbind(dim=1)
        mean = means_WC.mean(dim=0)
        # ranks count equally: the whole's variance is that within them and that between their means
        variance = (variances_WC + (means_WC - mean).square()).mean(dim=0)
        self._track(mean.detach(), variance.detach(), world.size * input.numel() // input.shape[1])
        shape = [1, -1] + [1] * (input.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = self.bias - mean * scale if self.affine else -mean * scale
        return torch.addcmul(shift.view(shape), input, scale.view(shape))

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), momentum)


def synchronise_batchnorm(network: nn.Module, world: World) -> nn.Module:
    """Replace every batch normalisation of a network by one over all ranks.

    Args:
        network: network on its final device; changed in place. Its parameters remain the same tensors.
        world: rank and number of processes; with one process the network is not changed.

    Returns:
        the network.
    """
    if world.size == 1:
        return network
    if any(parameter.is_cuda for parameter in network.parameters()):
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(network))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            # it differs in its forward alone; its tensors may be known to an optimiser already
            module.__class__ = SynchronisedBatchNorm  # type: ignore[assignment]
    return network
