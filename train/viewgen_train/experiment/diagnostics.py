"""Diagnostics of an experiment's caches and trainings, some of them again with settings of their own.

``bounds:features`` is the diagnostic ``bounds`` measured again. It has the settings of ``bounds``, and over
them its own (``"bounds:features.space" = "features"``); ``features`` is in the group of its measures.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Measure
from viewgen.errors import UsageError
from viewgen_pipelines.measure import measure
from viewgen_train.experiment.grid import file_part

__all__ = ["diagnose", "diagnostic_name", "diagnostic_settings", "setting_names"]

SEPARATOR = ":"


def diagnostic_name(name: str) -> str:
    """Return the diagnostic of ``DIAGNOSTIC`` or ``DIAGNOSTIC:LABEL``."""
    return name.partition(SEPARATOR)[0]


def setting_names(name: str) -> frozenset[str]:
    """Return the names of a diagnostic's settings."""
    return frozenset(DIAGNOSTICS.entry(diagnostic_name(name)).settings.model_fields)


def diagnostic_settings(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the settings of some diagnostics with one label: ``NAME`` or ``DIAGNOSTIC.NAME`` → value.

    Args:
        settings: ``NAME``, ``DIAGNOSTIC.NAME`` or ``DIAGNOSTIC:LABEL.NAME`` → value.
        names: diagnostics, with their label.
    """
    known = {field for name in names for field in setting_names(name)}
    found = {name: value for name, value in settings.items() if name in known}
    for own in (diagnostic_name, str):  # those of the diagnostic, then those of the label
        for name in names:
            prefix = f"{own(name)}."
            found |= {
                f"{diagnostic_name(name)}.{one.removeprefix(prefix)}": value
                for one, value in settings.items()
                if one.startswith(prefix)
            }
    return found


def diagnose(
    subject: str,
    names: Sequence[str],
    settings: Mapping[str, Any],
    seed: int,
    *,
    files: Path,
    **options: Any,
) -> list[Measure]:
    """Measure a subject, keep the plots, and return the measures.

    Args:
        subject: URL of a cache, or folder of a training.
        names: diagnostics, with their label where they are measured again.
        settings: ``NAME``, ``DIAGNOSTIC.NAME`` or ``DIAGNOSTIC:LABEL.NAME`` → value.
        seed: seed of the measurement.
        files: folder of the plots; those of a label are in a folder of its name.
        options: further options of `viewgen_pipelines.measure.measure`.
    """
    found: list[Measure] = []
    labels = {name: name.partition(SEPARATOR)[2] for name in names}
    for label in dict.fromkeys(labels.values()):
        chosen = [name for name in names if labels[name] == label]
        result = measure(
            subject,
            diagnostics=[diagnostic_name(name) for name in chosen],
            settings=diagnostic_settings(settings, chosen),
            seeds=(seed,),
            plots=files / file_part(label),
            executor="local",
            quiet=True,
            **options,
        )
        found += [_labelled(one.measure, label) for one in result.measured]
    twice = [name for name, count in Counter((one.name, one.group) for one in found).items() if count > 1]
    if twice:
        name, group = twice[0]
        raise UsageError(f"two diagnostics have a measure {name}[{group}]; give the label another name")
    return found


def _labelled(one: Measure, label: str) -> Measure:
    if not label:
        return one
    # expert views, measured again as "expert", are not "expert: expert"
    return replace(one, group=f"{label}: {one.group}" if one.group not in ("", label) else label)
