"""Readouts of a table of outcomes from feature vectors, by cross-validation over subjects.

A continuous outcome is read out by ridge regression, told as R² of the held-out predictions; its penalty is
chosen on a fifth of the training subjects. An ordinal outcome (a grade) is read out by multinomial logistic
regression on standardised features, told as accuracy and as the share of predictions that are off by one
grade at most. All rows of a subject lie in one fold, so that no subject is learned from and measured on. The
intervals are bootstraps over subjects, with the predictions as they are.

References:
    Can contrastive learning avoid shortcut solutions?, Robinson et al., 2021, Table 2 (outcomes of COPDGene),
    https://arxiv.org/abs/2106.11230
    Context Matters: Graph-based Self-supervised Representation Learning for Medical Images, Sun, Yu and
    Batmanghelich, 2021 (the same outcomes, 1-off accuracy), https://arxiv.org/abs/2012.06457
    Ridge Regression: Biased Estimation for Nonorthogonal Problems, Hoerl and Kennard, 1970,
    https://doi.org/10.1080/00401706.1970.10488634
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.bootstrap import Statistic, bootstrap_measure, mean_over_images
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.diagnostics.regression import linear_regression
from viewgen.diagnostics.vectors import Vectors
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.extras import need
from viewgen.randomness import addressed_generator
from viewgen.registry import Entry
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Outcomes", "OutcomesConfig", "Table", "read_table", "subject_folds"]

MOST_GRADES = 20
INNER_FOLDS = 5


class OutcomesConfig(Settings):
    """Table of outcomes, and its readout."""

    title = "outcomes"

    table: str = setting("", "CSV file with a line for each vector: its id and its outcomes")
    ordinal: tuple[str, ...] = setting((), "columns of grades, whole numbers; the others are continuous")
    id: str = setting("id", "column of the vectors' names; of images, their source indices")
    subject: str | None = setting(
        None, "column of subjects, whose rows stay in one fold; by default every row is one"
    )
    folds: int = setting(5, "folds of the cross-validation", ge=2)
    inverse_penalty: float = setting(1.0, "C of the logistic regression of grades", gt=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Outcomes of N vectors.

    Attributes:
        ids: name of each vector.
        subjects: subject of each, as whole numbers from 0, `(N,)`.
        outcomes: name → values, NaN where there is none, `(N,)`.
    """

    ids: tuple[str, ...]
    subjects: NDArray[np.int64]
    outcomes: dict[str, NDArray[np.float64]]


def read_table(path: Path, *, id_column: str = "id", subject_column: str | None = None) -> Table:
    """Read a table of outcomes; empty fields and NaN are missing outcomes.

    Raises:
        MissingFileError: there is no such file.
        DataError: a column is missing, an id is missing or occurs twice, or a field is no number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    except OSError as error:
        raise MissingFileError(f"the table of outcomes {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file: {error}") from error
    if not rows:
        raise DataError(f"{path} has no rows; expected a head with names of columns, and a line each")
    names = [name for name in rows[0] if name is not None]
    keys = [id_column, *([] if subject_column is None else [subject_column])]
    for key in keys:
        if key not in names:
            raise DataError(f"{path} has no column {key!r}; it has {', '.join(names)}")
        if empty := [line for line, row in enumerate(rows, 2) if not (row[key] or "").strip()]:
            raise DataError(f"{path}, line {empty[0]}: {key} is empty")
    ids = tuple(row[id_column].strip() for row in rows)
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise DataError(f"{path}: {id_column} {twice!r} occurs twice; expected a line of each")
    subjects = ids if subject_column is None else tuple(row[subject_column].strip() for row in rows)
    return Table(
        ids=ids,
        subjects=np.unique(np.array(subjects), return_inverse=True)[1].astype(np.int64),
        outcomes={
            name: np.array(
                [_number(row[name], f"{path}, line {line}: {name}") for line, row in enumerate(rows, 2)]
            )
            for name in names
            if name not in keys
        },
    )


def _number(text: str | None, place: str) -> float:
    if text is None or not text.strip():
        return np.nan
    try:
        found = float(text)
    except ValueError as error:
        raise DataError(
            f"{place} is {text!r}; expected a number, or nothing where it is not known"
        ) from error
    if np.isinf(found):
        raise DataError(f"{place} is {text!r}; expected a finite number")
    return found


def subject_folds(subjects: NDArray[np.int64], num_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each row, `(N,)`: subjects in random order, dealt out one by one.

    Args:
        subjects: subject of each row, `(N,)`.
        num_folds: number of folds, of nearly equally many subjects.
        seed: seed of the order.

    Raises:
        DataError: fewer subjects than folds.
    """
    known, index = np.unique(subjects, return_inverse=True)
    if len(known) < num_folds:
        raise DataError(f"{len(known)} subjects for {num_folds} folds; give fewer folds, or more subjects")
    order = torch.randperm(len(known), generator=addressed_generator(seed, "folds")).numpy()
    fold = np.empty(len(known), np.int64)
    fold[order] = np.arange(len(known)) % num_folds
    return fold[index]


class Outcomes:
    """Cross-validated readouts of every outcome in a table.

    Args:
        config: table and readout.
    """

    needs = frozenset({"vectors"})

    def __init__(self, config: OutcomesConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, seed: int) -> list[Measure]:
        """Return R² and root mean squared error of continuous outcomes, accuracy and 1-off of ordinal ones.

        Rows without an outcome are left out of it, and counted in a note.

        Raises:
            UsageError: no table, or a column of grades that it does not have.
            DataError: a row names no vector, an outcome does not vary, a grade is no whole number, or there
                are fewer subjects than folds.
        """
        vectors: Vectors = subject.part("vectors")
        config = self.config
        if not config.table:
            raise UsageError("outcomes: no table; give one with --set outcomes.table=FILE.csv")
        table = read_table(
            Path(config.table).expanduser(), id_column=config.id, subject_column=config.subject
        )
        for name in config.ordinal:
            if name not in table.outcomes:
                raise UsageError(f"ordinal has {name!r}; {config.table} has {', '.join(table.outcomes)}")
        features = _matched(vectors, table, config)
        measures = []
        for name, values in table.outcomes.items():
            known = np.isfinite(values)
            if not known.all():
                subject.note(f"outcomes: {(~known).sum():,} rows have no {name}, and are left out of it")
            if len(np.unique(values[known])) < 2:
                raise DataError(f"{config.table}: {name} has one value; there is nothing to read out")
            chosen = _Readout(
                name=name,
                features=features[torch.from_numpy(known)],
                values=values[known],
                subjects=table.subjects[known],
                folds=subject_folds(table.subjects[known], config.folds, seed),
            )
            measures += chosen.ordinal(config, seed) if name in config.ordinal else chosen.continuous(seed)
        return measures


def _matched(vectors: Vectors, table: Table, config: OutcomesConfig) -> Tensor:
    """Return the vectors of a table's rows, `(N, D)`."""
    place = {name: index for index, name in enumerate(vectors.names)}
    if strangers := [name for name in table.ids if name not in place]:
        raise DataError(
            f"{config.table}: no vector is called {strangers[0]!r}, the {config.id} of a row "
            f"({len(strangers):,} rows have none); the vectors are called {', '.join(vectors.names[:3])} …"
        )
    return vectors.read()[[place[name] for name in table.ids]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Readout:
    """One outcome of N rows with their features `(N, D)`, subjects and folds."""

    name: str
    features: Tensor
    values: NDArray[np.float64]
    subjects: NDArray[np.int64]
    folds: NDArray[np.int64]

    def continuous(self, seed: int) -> list[Measure]:
        """Return R² and root mean squared error of ridge regression."""
        targets = torch.from_numpy(self.values)

        def fitted(train: NDArray[np.bool_]) -> Callable[[Tensor], NDArray[np.float64]]:
            num_inner = min(INNER_FOLDS, len(np.unique(self.subjects[train])))
            if num_inner < 2:
                raise DataError(f"{self.name}: a fold learns from one subject; give fewer folds")
            inner = subject_folds(self.subjects[train], num_inner, seed) == 0
            rows = torch.from_numpy(train)
            found = linear_regression(
                self.features[rows], targets[rows, None], held_out=torch.from_numpy(inner)
            )
            return lambda features: found.predict(features)[:, 0].numpy()

        errors = torch.from_numpy((self._predicted(fitted) - self.values) ** 2)
        sums = self._sums(errors, targets, targets.square(), torch.ones_like(targets))

        def r_squared(counts: Tensor) -> Tensor:
            error, total, squares, number = sums @ counts.T
            explained: Tensor = 1 - error / (squares - total.square() / number)
            return explained

        def root(counts: Tensor) -> Tensor:
            error, _, _, number = sums @ counts.T
            mean: Tensor = error / number
            return mean.sqrt()

        return [self._measure("outcome_r2", r_squared, seed), self._measure("outcome_rmse", root, seed)]

    def ordinal(self, config: OutcomesConfig, seed: int) -> list[Measure]:
        """Return accuracy and the share within one grade of multinomial logistic regression."""
        need("readouts")
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if (self.values != np.round(self.values)).any():
            raise DataError(f"{self.name} is ordinal, and has values between whole numbers")
        if len(np.unique(self.values)) > MOST_GRADES:
            raise DataError(f"{self.name} is ordinal, and has more than {MOST_GRADES} grades")

        def fitted(train: NDArray[np.bool_]) -> Callable[[Tensor], NDArray[np.float64]]:
            grades = self.values[train]
            if len(np.unique(grades)) < 2:
                raise DataError(
                    f"{self.name}: the rows that a fold learns from have one grade; give fewer folds"
                )
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=config.inverse_penalty, max_iter=2000)
            ).fit(self.features[torch.from_numpy(train)].numpy(), grades)
            return lambda features: np.asarray(model.predict(features.numpy()), np.float64)

        grades = np.unique(self.values)
        own, predicted = (np.searchsorted(grades, one) for one in (self.values, self._predicted(fitted)))
        off = torch.from_numpy(np.abs(predicted - own))
        return [
            self._measure(
                name, mean_over_images(*self._sums((off <= most).double(), torch.ones_like(off))), seed
            )
            for name, most in (("outcome_top1", 0), ("outcome_one_off", 1))
        ]

    def _predicted(
        self, fitted: Callable[[NDArray[np.bool_]], Callable[[Tensor], NDArray[np.float64]]]
    ) -> NDArray[np.float64]:
        """Return the prediction of every row by the readout that was fitted without its fold, `(N,)`."""
        found = np.empty_like(self.values)
        for fold in np.unique(self.folds):
            held = self.folds == fold
            found[held] = fitted(~held)(self.features[torch.from_numpy(held)])
        return found

    def _sums(self, *values: Tensor) -> Tensor:
        """Return the sums over each subject's rows of values `(N,)`, `(len, S)`."""
        known, index = np.unique(self.subjects, return_inverse=True)
        sums = torch.zeros(len(values), len(known), dtype=torch.float64)
        return sums.index_add_(1, torch.from_numpy(index), torch.stack(values).double())

    def _measure(self, name: str, statistic: Statistic, seed: int) -> Measure:
        people = len(np.unique(self.subjects))
        on = f"{len(self.values):,} rows of {people:,} subjects, {self.folds.max() + 1} folds"
        return bootstrap_measure(name, statistic, people, seed=seed, on=on, group=self.name)


ENTRY = Entry(
    name="outcomes",
    summary="cross-validated readouts of a table of outcomes: R² of ridge regression, accuracy of grades",
    settings=OutcomesConfig,
    needs=Outcomes.needs,
    build=Outcomes,
    on_request=True,
)
