"""Mutual information of pairs of views as a diagnostic.

References:
    Mutual Information Neural Estimation, Belghazi et al., 2018, https://arxiv.org/abs/1801.04062
    What Makes for Good Views for Contrastive Learning?, Tian et al., 2020, https://arxiv.org/abs/2005.10243
"""

from functools import partial

from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimate import estimate_mutual_information
from viewgen.registry import Entry

__all__ = ["ENTRY", "MutualInformation"]


class MutualInformation:
    """Mutual information of every pair of views, on images held out from the training of its network.

    Args:
        config: settings of the estimate.
    """

    needs = frozenset({"pairs"})

    def __init__(self, config: MIConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return every estimator's value with its interval, in nats, for each pair."""
        measures = []
        num_steps, total = self.config.num_steps, len(subject.pairs) * self.config.num_steps

        def trained(first: int, step: int) -> None:
            subject.tell("mutual information", first + step, total)

        for number, pair in enumerate(subject.pairs):
            found = estimate_mutual_information(
                pair.views,
                self.config.of_roles(pair.roles),
                seed=seed,
                device=str(subject.device),
                on_step=partial(trained, number * num_steps),
            )
            on = f"{found.num_held_out:,} images held out"
            measures += [
                Measure(name=f"{name}_nats", value=b.nats, low=b.low, high=b.high, on=on, group=pair.title)
                for name, b in found.bounds.items()
            ]
        return measures


ENTRY = Entry(
    name="mutual_information",
    summary="mutual information of pairs of views, in nats",
    settings=MIConfig,
    needs=MutualInformation.needs,
    build=MutualInformation,
)
