"""Execution of a worker's networks: compilation, memory and messages."""

import warnings
from dataclasses import dataclass
from typing import TypeVar

import torch

from viewgen.memory import BatchSize, CudaMemory, MemoryProbe, ProcessMemory, SlotRunner
from viewgen.networks.acceleration import Announce, Compiler, accelerated

__all__ = ["Execution"]

Network = TypeVar("Network")


def _warn(topic: str, text: str) -> None:
    warnings.warn(f"{topic}: {text}", stacklevel=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Execution settings outside of the method's settings; none of them changes the views.

    Attributes:
        compiler: compiler of networks for inputs of one size (`viewgen.networks.acceleration`); None runs
            them eagerly.
        memory_share: this worker's share of the device's free memory, or of the machine's.
        probe: probe of that memory; the default depends on the device.
        announce: callback for fallbacks and measurements, by topic; by default a warning.
    """

    compiler: Compiler | None = None
    memory_share: float = 1.0
    probe: MemoryProbe | None = None
    announce: Announce = _warn

    def accelerate(self, network: Network) -> Network:
        """Return the network for execution, compiled if there is a compiler."""
        return network if self.compiler is None else accelerated(network, self.compiler, self.announce)

    def slots(
        self, batch_size: BatchSize, *, group_size: int, slot_bytes: int, device: torch.device
    ) -> SlotRunner:
        """Return a `SlotRunner`, which sets the number of slots; the arguments are those of `SlotRunner`."""
        probe = self.probe
        if probe is None:
            on_gpu = device.type == "cuda"
            probe = CudaMemory(device, self.memory_share) if on_gpu else ProcessMemory(self.memory_share)
        return SlotRunner(
            batch_size, group_size=group_size, slot_bytes=slot_bytes, probe=probe, announce=self.announce
        )
