"""Optimisers and learning rates of a training.

References:
    Large Batch Training of Convolutional Networks, You et al., 2017, https://arxiv.org/abs/1708.03888
    Decoupled Weight Decay Regularization, Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101
    SGDR: Stochastic Gradient Descent with Warm Restarts, Loshchilov and Hutter, 2017, equation 5,
    https://arxiv.org/abs/1608.03983
    Exploring Simple Siamese Representation Learning, Chen and He, 2021, section 4.2 (the predictor's rate),
    https://arxiv.org/abs/2011.10566
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from viewgen_train.lars import LARS
from viewgen_train.settings import OptimiserSettings

__all__ = ["Optimiser", "learning_rate", "predictor_learning_rate"]


def learning_rate(settings: OptimiserSettings, step: int, num_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine, a constant or steps."""
    warm_up = min(round(settings.warm_up_epochs * num_steps / settings.epochs), num_steps // 2)
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    if settings.schedule == "constant":
        return settings.learning_rate
    floor = settings.learning_rate_floor
    if settings.schedule == "steps":
        passed = sum(step >= round(m * num_steps / settings.epochs) for m in settings.milestones)
        return settings.learning_rate * max(settings.step_factor**passed, floor)
    progress = (step - warm_up) / max(1, num_steps - warm_up)
    return settings.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def predictor_learning_rate(settings: OptimiserSettings, step: int, num_steps: int) -> float:
    """Return the learning rate of the predictor in a step."""
    highest = settings.predictor_learning_rate or settings.learning_rate
    if settings.predictor_schedule == "constant":
        return highest
    return highest / settings.learning_rate * learning_rate(settings, step, num_steps)


class Optimiser:
    """An optimiser with the learning rate of each step.

    Args:
        settings: settings of the optimiser.
        parts: modules with the encoder and the objective's weights.
        predictor: module with the predictor's weights, or None.
        num_steps: number of steps of the training.
        fused: True to update all weights in one kernel, on a GPU.

    Attributes:
        parameters: all trained weights.
        torch: the optimiser of PyTorch.
    """

    def __init__(
        self,
        settings: OptimiserSettings,
        parts: Sequence[nn.Module],
        predictor: nn.Module | None,
        num_steps: int,
        *,
        fused: bool,
    ) -> None:
        self.settings, self.num_steps = settings, num_steps
        self.parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
        groups = self._groups(set() if predictor is None else set(predictor.parameters()))
        self._of_predictor = [of_predictor for _, of_predictor in groups]
        self.torch = self._built([group for group, _ in groups], fused=fused)

    def _groups(self, predictor: set[nn.Parameter]) -> list[tuple[dict[str, Any], bool]]:
        """Return parameter groups, each with whether its rate is the predictor's."""
        settings = self.settings
        apart = settings.predictor_learning_rate is not None or settings.predictor_schedule == "constant"
        exempt = settings.name != "sgd"
        groups: list[tuple[dict[str, Any], bool]] = []
        for of_predictor in (False, True) if apart else (False,):
            mine = [p for p in self.parameters if not apart or (p in predictor) == of_predictor]
            kinds = ([p for p in mine if p.ndim > 1], [p for p in mine if p.ndim <= 1]) if exempt else (mine,)
            for weights, found in zip((True, False), kinds, strict=False):
                group: dict[str, Any] = {"params": found}
                if not weights:
                    group |= {"weight_decay": 0.0}
                    group |= {"adapt": False} if settings.name == "lars" else {}
                if found:
                    groups.append((group, of_predictor))
        return groups

    def _built(self, groups: Iterable[dict[str, Any]], *, fused: bool) -> torch.optim.Optimizer:
        settings = self.settings
        common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
        if settings.name == "lars":
            return LARS(
                groups,
                momentum=settings.momentum,
                trust_coefficient=settings.trust_coefficient,
                clip=settings.trust_clip,
                **common,
            )
        if settings.name == "adamw":
            return torch.optim.AdamW(groups, fused=fused, **common)
        return torch.optim.SGD(groups, momentum=settings.momentum, fused=fused, **common)

    def zero_grad(self) -> None:
        """Discard the gradients."""
        self.torch.zero_grad(set_to_none=True)

    def at(self, step: int) -> float:
        """Set the learning rates of a step, and return that of the encoder."""
        rate = learning_rate(self.settings, step, self.num_steps)
        of_predictor = predictor_learning_rate(self.settings, step, self.num_steps)
        for group, is_predictor in zip(self.torch.param_groups, self._of_predictor, strict=True):
            group["lr"] = of_predictor if is_predictor else rate
        return rate

    def step(self) -> None:
        """Update the weights."""
        self.torch.step()

    def state(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        return self.torch.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.torch.load_state_dict(state)
