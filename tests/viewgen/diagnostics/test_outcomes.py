"""Tables of outcomes: known models, grades, folds by subject, missing values, and damage."""

import numpy as np
import pytest
import torch

from viewgen.diagnostics import outcomes
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.outcomes import Outcomes, OutcomesConfig, read_table, subject_folds
from viewgen.diagnostics.subjects import SubjectArguments, subject_kind
from viewgen.diagnostics.vectors import Vectors, read_vectors
from viewgen.errors import CorruptDataError, DataError, UsageError

NUM, DIM = 1500, 6


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).standard_normal((NUM, DIM)).astype(np.float32)


def write(path, columns):
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def measured(features, seed=0, **settings):
    vectors = Vectors(names=tuple(map(str, range(len(features)))), read=lambda: torch.from_numpy(features))
    subject = Subject({"vectors": lambda: vectors})
    found = Outcomes(OutcomesConfig(**settings)).measure(subject, seed)
    return {(one.name, one.group): one for one in found}, subject.notes


def test_a_linear_model_has_its_r2_and_grades_their_accuracy(features, tmp_path):
    random = np.random.default_rng(1)
    signal = features @ np.array([1.0, -1, 0.5, 0, 0, 0]) / 1.5
    volume = signal + 0.5 * random.standard_normal(NUM)
    volume[:7] = np.nan
    grade = np.clip(np.round(1.5 + 1.2 * signal), 0, 4).astype(int)
    table = {
        # rows in another order than the vectors
        "id": np.arange(NUM)[::-1], "volume": volume[::-1], "noise": random.standard_normal(NUM),
        "grade": grade[::-1],
    }  # fmt: skip
    found, notes = measured(features, table=write(tmp_path / "t.csv", table), ordinal=("grade",))
    assert found["outcome_r2", "volume"].value == pytest.approx(1 / 1.25, abs=0.02)
    assert found["outcome_rmse", "volume"].value == pytest.approx(0.5, abs=0.03)
    assert found["outcome_r2", "noise"].value == pytest.approx(0, abs=0.02)
    right, near = found["outcome_top1", "grade"], found["outcome_one_off", "grade"]
    assert right.value > 0.8
    assert near.value > 0.99
    assert right.low < right.value < right.high
    assert notes == ["outcomes: 7 rows have no volume, and are left out of it"]


def test_grades_are_counted_by_their_order(features, tmp_path, monkeypatch):
    """Predictions 0, 1, 2 and 3 grades off, of grades with gaps."""
    grades, place = np.array([0, 10, 20, 40]), np.arange(NUM) % 4
    table = write(tmp_path / "t.csv", {"id": np.arange(NUM), "grade": grades[np.sort(place)]})
    monkeypatch.setattr(
        outcomes._Readout, "_predicted", lambda self, fitted: np.full_like(self.values, grades[0])
    )
    found, _ = measured(features, table=table, ordinal=("grade",))
    assert found["outcome_top1", "grade"].value == pytest.approx(0.25, abs=0.001)
    assert found["outcome_one_off", "grade"].value == pytest.approx(0.5, abs=0.001)


def test_a_subject_lies_in_one_fold_and_is_never_learned_from(tmp_path, monkeypatch):
    subjects = np.random.default_rng(2).integers(0, 40, 400)
    folds = subject_folds(subjects, 5, 0)
    assert all(len({*folds[subjects == one]}) == 1 for one in range(40))
    assert np.bincount(folds).min() > 0
    sizes = [len({*subjects[folds == fold]}) for fold in range(5)]
    assert sizes == [8] * 5
    # features that tell the subject, and an outcome of the subject alone: nothing is learned of others
    features = np.eye(40, dtype=np.float32)[subjects]
    outcome = np.random.default_rng(3).standard_normal(40)[subjects]
    columns = {"id": np.arange(400), "person": subjects, "outcome": outcome}
    table = write(tmp_path / "t.csv", columns)
    inner, own = [], outcomes.linear_regression

    def regression(features, targets, *, held_out):
        inner.append((features.argmax(dim=1), held_out))
        return own(features, targets, held_out=held_out)

    with monkeypatch.context() as patch:
        patch.setattr(outcomes, "linear_regression", regression)
        by_subject, _ = measured(features, table=table, subject="person")
    # neither are the subjects that the penalty is chosen by
    assert len(inner) == 5
    assert all(not {*who[held].tolist()} & {*who[~held].tolist()} for who, held in inner)
    assert by_subject["outcome_r2", "outcome"].value < 0.1
    by_row, _ = measured(
        features, table=write(tmp_path / "rows.csv", {k: columns[k] for k in ("id", "outcome")})
    )
    assert by_row["outcome_r2", "outcome"].value > 0.9
    assert by_subject["outcome_r2", "outcome"].on == "400 rows of 40 subjects, 5 folds"


def test_tables_that_cannot_be_read_out(features, tmp_path):
    path = tmp_path / "t.csv"

    def refused(kind, message, columns, **settings):
        with pytest.raises(kind, match=message):
            measured(features[:8], table=write(path, columns), **settings)

    ids = np.arange(8)
    refused(DataError, "y has one value", {"id": ids, "y": [1] * 8})
    refused(DataError, "8 subjects for 9 folds", {"id": ids, "y": ids}, folds=9)
    refused(DataError, "id '3' occurs twice", {"id": [0, 1, 2, 3, 3, 4, 5, 6], "y": ids})
    refused(DataError, "line 3: id is empty", {"id": [0, "", 2, 3, 4, 5, 6, 7], "y": ids})
    refused(DataError, "no vector is called '8'", {"id": ids + 1, "y": ids})
    refused(DataError, "has no column 'person'", {"id": ids, "y": ids}, subject="person")
    refused(DataError, "line 2: y is 'high'; expected a number", {"id": ids, "y": ["high"] * 8})
    refused(DataError, "line 2: y is 'inf'", {"id": ids, "y": ["inf"] * 8})
    refused(DataError, "values between whole numbers", {"id": ids, "y": ids / 2}, ordinal=("y",))
    refused(UsageError, "ordinal has 'z'", {"id": ids, "y": ids}, ordinal=("z",))
    path.write_text("id,y\n")
    with pytest.raises(DataError, match="no rows"):
        read_table(path)
    with pytest.raises(UsageError, match="no table"):
        measured(features)
    with pytest.raises(FileNotFoundError, match=r"none.csv cannot be read"):
        measured(features, table=str(tmp_path / "none.csv"))


def test_a_file_of_vectors_is_a_subject(features, tmp_path):
    path = tmp_path / "subjects.npz"
    np.savez(path, features=features[:20], id=[f"p{number}" for number in range(20)])
    assert subject_kind(str(path)) == "vectors"
    subject = SubjectArguments(kind="vectors", subject=str(path)).open()
    table = write(tmp_path / "t.csv", {"id": [f"p{number}" for number in range(20)], "y": features[:20, 0]})
    (r2, _) = Outcomes(OutcomesConfig(table=table)).measure(subject, 0)
    assert r2.value > 0.9
    np.savez(path, features=features[:20])
    with pytest.raises(DataError, match="lacks id"):
        read_vectors(path)
    np.savez(path, features=features[:20], id=["a"] * 20)
    with pytest.raises(DataError, match="'a' occurs twice"):
        read_vectors(path)
    np.savez(path, features=features[:20], id=np.arange(19))
    with pytest.raises(DataError, match=r"expected \(N, D\) and \(N,\)"):
        read_vectors(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CorruptDataError, match=r"is no \.npz file"):
        read_vectors(path)
