"""The folder of an experiment: its identity, and one record for every finished task.

A record is written once, when its task is done, and holds all that tables and plots show. `experiment.json`
holds what results depend on: data, caches, rows. A file that grows adds to it; a file that changes what is
there is refused.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from viewgen.diagnostics.measure import Measure
from viewgen.documents import Document as JsonDocument
from viewgen.documents import checked, read_object
from viewgen.errors import CacheMismatchError, CorruptDataError, UsageError
from viewgen.files import make_folder, write_atomically
from viewgen_train.experiment.grid import file_part

__all__ = ["Record", "ResultFolder", "differences", "named_values"]

Value = TypeVar("Value")

IDENTITY = "experiment.json"
RESULTS = "results"
FILES = "measured"
# name of an attribute that is the only one
ONLY_ATTRIBUTE = "class"
EXPECTED = "expected-seconds.json"
# tables of the identity that grow with the file
GROWING = ("encoders", "caches", "rows")
# kind of a record: table of its name
TABLES = {"training": "rows", "cache": "caches", "diagnostics": "caches", "encoder": "encoders"}


class _Stored(JsonDocument):
    """Types and bounds of a record."""

    kind: str
    name: str
    seed: int
    status: str
    reason: str
    measures: list[dict[str, Any]]
    seconds: float = Field(ge=0)
    identity: str
    about: dict[str, Any]
    curves: dict[str, list[list[float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The result of one task.

    Attributes:
        kind: ``"training"``, ``"cache"``, ``"diagnostics"`` of a cache, or ``"encoder"``.
        name: name of the row, cache or encoder.
        seed: seed of the training or of the cache's diagnostics.
        status: ``"finished"``, ``"diverged"`` or ``"failed"``.
        reason: why it did not finish, empty if it did.
        measures: its numbers.
        seconds: duration, without waiting.
        identity: digest of what it depends on.
        about: JSON values that describe it: resolved settings, versions, digests, device.
        curves: measure → pairs (epoch, value) during the training.
    """

    kind: str
    name: str
    seed: int
    status: str = "finished"
    reason: str = ""
    measures: tuple[Measure, ...] = ()
    seconds: float = 0.0
    identity: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)

    def value(self, measure: str) -> float | None:
        """Return the value of a measure, ``robust_top1`` or, of an attribute, ``top1[digit]``, or None."""
        return named_values((one.name, one.group, one.value) for one in self.measures).get(measure)


def named_values(values: Iterable[tuple[str, str, Value]]) -> dict[str, Value]:
    """Return values of (measure, group) by the names of tables and questions: ``top1[digit]``.

    The group of a measure's only attribute, ``class``, can be left out.
    """
    values = [*values]
    found = {f"{name}[{group}]" if group else name: value for name, group, value in values}
    others = {name for name, group, _ in values if group not in ("", ONLY_ATTRIBUTE)}
    for name, group, value in values:
        if group == ONLY_ATTRIBUTE and name not in others:
            found.setdefault(name, value)
    return found


class ResultFolder:
    """Folder of an experiment.

    Args:
        path: the folder.
        identity: JSON values of everything that results depend on (`ExperimentPlan.identity`).
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))

    def check(self) -> None:
        """Compare the identity with that in the folder.

        Raises:
            CacheMismatchError: the folder holds results of other settings or data; the message lists them.
            CorruptDataError: the folder's record cannot be read.
        """
        path = self.path / IDENTITY
        if not path.is_file():
            # a killed run may have left its lock, or a temporary file
            there_is = [one.name for one in self.path.iterdir()] if self.path.is_dir() else []
            if any(not name.startswith(".") for name in there_is):
                raise UsageError(
                    f"{self.path} holds other files and no experiment; give another --out, or an empty folder"
                )
            return
        there = read_object(path)
        if different := differences(there, self.identity):
            raise CacheMismatchError(
                f"{self.path} holds results of another experiment:\n"
                + "\n".join(f"  {one}" for one in different)
                + "\ngive another --out, or these settings again; rows, caches and seeds may be added"
            )

    def begin(self) -> None:
        """Add this experiment's rows, caches and encoders to the folder's identity."""
        path = self.path / IDENTITY
        make_folder(self.path)
        there = read_object(path) if path.is_file() else {}
        grown = {table: {**there.get(table, {}), **self.identity[table]} for table in GROWING}
        text = json.dumps({**self.identity, **grown}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode(), sole_writer=True)

    def digest(self, kind: str, name: str) -> str:
        """Return the digest of what a task depends on."""
        whole = self.identity
        own = whole[TABLES[kind]][name]
        part = {one: whole[one] for one in ("dataset", "threads", "probe", "measure")} | {"own": own}
        cache = whole["caches"].get(own["cache"]) if kind == "training" else own
        if kind == "training":
            part["cache"] = cache
        if kind != "encoder" and cache is not None:
            part["encoder"] = whole["encoders"].get(cache["encoder"])
        text = json.dumps(part, sort_keys=True).encode()
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    def read(self, kind: str, name: str, seed: int) -> Record | None:
        """Return the record of a task, or None if it is not finished.

        Raises:
            CorruptDataError: the record cannot be read.
            CacheMismatchError: it is of other settings.
        """
        path = self._place(kind, name, seed)
        if not path.is_file():
            return None
        try:
            found = checked(_Stored, read_object(path))
            measures = tuple(_measure(one) for one in found["measures"])
        except (UsageError, TypeError, KeyError) as error:
            raise CorruptDataError(
                f"{path} is damaged ({error}); delete it, and the task is done again"
            ) from error
        curves = {name: [(one[0], one[1]) for one in points] for name, points in found["curves"].items()}
        names = {one: found[one] for one in _Stored.model_fields}
        record = Record(**{**names, "measures": measures, "curves": curves})
        if record.identity != self.digest(kind, name):
            raise CacheMismatchError(
                f"{path} is a result of other settings or data than {name} has now; delete it, or give "
                "another --out"
            )
        return record

    def write(self, record: Record) -> None:
        """Write the record of a finished task."""
        document = {**asdict(record), "measures": [_stored(one) for one in record.measures]}
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self._place(record.kind, record.name, record.seed), text.encode())

    def records(self, kind: str) -> Iterator[Record]:
        """Yield the records of a kind whose row, cache or encoder the experiment has, in its order.

        Paths in their reasons are told from the folder on, so that a table says the same anywhere.
        """
        own = f"{self.path.absolute()}/"
        for name in self.identity[TABLES[kind]]:
            folder = self._place(kind, name, 0).parent
            seeds = sorted(
                int(path.stem.removeprefix("seed-"))
                for path in (folder.glob("seed-*.json") if folder.is_dir() else ())
            )
            for seed in seeds:
                record = self.read(kind, name, seed)
                if record is not None:
                    yield replace(record, reason=record.reason.replace(own, ""))

    def files(self, kind: str, name: str, seed: int) -> Path:
        """Return the folder of the plots of a task's diagnostics."""
        return self.path / FILES / kind / file_part(name) / f"seed-{seed}"

    def expected(self) -> dict[tuple[str, str], float]:
        """Return (kind, name) → seconds of a task, as an earlier call measured them for its progress."""
        try:
            document = read_object(self.path / EXPECTED)
        except (OSError, CorruptDataError):
            return {}
        return {
            (kind, name): seconds
            for kind, table in document.items()
            if isinstance(table, dict)
            for name, seconds in table.items()
            if isinstance(seconds, float) and seconds > 0
        }

    def expect(self, seconds: Mapping[tuple[str, str], float]) -> None:
        """Keep the expected seconds of tasks for later calls."""
        document: dict[str, dict[str, float]] = {}
        for (kind, name), value in seconds.items():
            document.setdefault(kind, {})[name] = float(value)
        write_atomically(self.path / EXPECTED, json.dumps(document).encode(), sole_writer=True)

    def _place(self, kind: str, name: str, seed: int) -> Path:
        return self.path / RESULTS / kind / file_part(name) / f"seed-{seed}.json"


def _stored(measure: Measure) -> dict[str, Any]:
    """Return a measure as JSON values; NaN as null."""
    return {
        name: None if isinstance(value, float) and value != value else value
        for name, value in measure.to_json().items()
    }


def _measure(stored: Mapping[str, Any]) -> Measure:
    return Measure(**{**stored, "value": float("nan") if stored["value"] is None else stored["value"]})


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return a line for every value that two identities have differently; what only one has is none.

    Rows, caches and encoders that only one of them has are no difference: an experiment may grow.
    """
    found = []
    for table in dict.fromkeys([*there, *here]):
        if table in GROWING:
            shared = there.get(table, {}).keys() & here.get(table, {}).keys()
            pairs = [(f"{table}.{name}", there[table][name], here[table][name]) for name in sorted(shared)]
        else:
            pairs = [(table, there.get(table), here.get(table))]
        for place, before, now in pairs:
            old, new = dict(_leaves(before, place)), dict(_leaves(now, place))
            found += [
                f"{name}: there {old.get(name)!r}, here {new.get(name)!r}"
                for name in dict.fromkeys([*old, *new])
                if old.get(name) != new.get(name)
            ]
    return found


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{place}.{name}")
    else:
        yield place, value
