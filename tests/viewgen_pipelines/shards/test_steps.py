"""Bad samples are found and named; the rest of a shard is made as if they were not there."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from viewgen.errors import DataError, StorageError
from viewgen_pipelines.shards.steps import ShardError, assemble, run_finding_bad_samples, shard_stats


def step_that_fails_on(bad, error=ValueError, calls=None):
    def step(rows):
        if calls is not None:
            calls.append(len(rows))
        if hit := sorted(set(rows.tolist()) & set(bad)):
            raise error(f"bad {hit}")
        return {"value": rows * 10}

    return step


@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=7), st.integers(0, 1000))
def test_every_good_row_is_done_once_and_every_bad_one_named(num_rows, bad, first):
    rows = np.arange(first, first + num_rows)
    bad = {first + index for index in bad if index < num_rows}
    if len(bad) == num_rows:
        with pytest.raises(ShardError, match="bad"):
            run_finding_bad_samples(step_that_fails_on(bad), rows)
        return
    parts, failures = run_finding_bad_samples(step_that_fails_on(bad), rows)
    done = np.concatenate([part for part, _ in parts])
    assert done.tolist() == [row for row in rows.tolist() if row not in bad], "in order"
    assert np.concatenate([outputs["value"] for _, outputs in parts]).tolist() == (done * 10).tolist()
    assert set(failures) == bad
    assert all(reason == f"ValueError: bad [{row}]" for row, reason in failures.items())


def test_a_good_shard_takes_one_call_and_one_bad_sample_a_few():
    calls = []
    run_finding_bad_samples(step_that_fails_on((), calls=calls), np.arange(256))
    assert calls == [256]
    calls.clear()
    run_finding_bad_samples(step_that_fails_on({100}, calls=calls), np.arange(256))
    assert len(calls) <= 2 * 8 + 1


def test_a_method_that_fails_on_everything_is_given_up_early():
    calls = []
    with pytest.raises(ShardError, match="every sample tried fails"):
        run_finding_bad_samples(step_that_fails_on(range(512), calls=calls), np.arange(512))
    assert len(calls) < 40


@pytest.mark.parametrize("error", [StorageError, MemoryError])
def test_the_surroundings_are_no_samples_fault(error):
    with pytest.raises(error):
        run_finding_bad_samples(step_that_fails_on({3}, error), np.arange(8))


def test_running_out_of_device_memory_is_answered_with_less_and_blames_no_sample():
    def fits(limit):
        def step(rows):
            if len(rows) > limit:
                raise torch.OutOfMemoryError("64 GiB")
            return {"value": rows}

        return step

    parts, failures = run_finding_bad_samples(fits(3), np.arange(8))
    assert failures == {}
    assert np.concatenate([rows for rows, _ in parts]).tolist() == list(range(8))
    with pytest.raises(torch.OutOfMemoryError):
        run_finding_bad_samples(fits(0), np.arange(8))


def test_no_rows_are_no_work():
    assert run_finding_bad_samples(step_that_fails_on(()), np.arange(0)) == ([], {})


def outputs_for(spec, rows, status=1):
    B, V = len(rows), spec.num_views
    return {
        "views": np.full((B, V, 3, spec.height, spec.width), 9, np.uint8),
        "distance": np.full((B, V), 0.25, np.float32),
        "steps": np.full(B, 4, np.int32),
        "inversion_error": np.zeros(B, np.float32),
        "status": np.full(B, status, np.uint8),
        "mean_pairwise": np.full(B, 0.5, np.float32),
    }


def labels_of(rows):
    return {"source_index": np.asarray(rows), "label": np.asarray(rows) % 10}


def test_rows_without_output_are_failed_zeros_with_true_labels(make_spec):
    spec = make_spec()
    rows = np.asarray(spec.shard_rows(2))
    parts = [(rows[[0, 3]], outputs_for(spec, rows[[0, 3]]))]
    arrays = assemble(spec, 2, labels_of(rows), parts)
    assert arrays["status"].tolist() == [1, 3, 3, 1, 3]
    assert arrays["views"].max(axis=(1, 2, 3, 4)).tolist() == [9, 0, 0, 9, 0]
    assert np.isnan(arrays["distance"][1]).all()
    assert arrays["steps"].tolist() == [4, -1, -1, 4, -1]
    assert arrays["source_index"].tolist() == rows.tolist()
    assert arrays["label"].tolist() == (rows % 10).tolist()
    stats = shard_stats(spec, arrays, parts)
    counts = stats.pop("mean_pairwise_counts")
    assert stats == {"num_ok": 2, "num_not_converged": 0, "num_failed": 3, "mean_pairwise": 0.5}
    assert (sum(counts), counts[25]) == (2, 2), "both images lie in the bin from 0.50 to 0.52"


def test_a_sample_that_the_method_marks_failed_has_no_views(make_spec):
    spec = make_spec()
    rows = np.asarray(spec.shard_rows(0))
    parts = [(rows, outputs_for(spec, rows, status=3))]
    arrays = assemble(spec, 0, labels_of(rows), parts)
    assert arrays["views"].max() == 0
    assert "mean_pairwise" not in shard_stats(spec, arrays, parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": None}, "returned no 'distance'"),
        (
            {"views": np.zeros((8, 1, 3, 4, 4), np.uint8)},
            r"returned 'views' \(8, 1, 3, 4, 4\), expected \(8, 2",
        ),
        ({"status": np.zeros(7, np.uint8)}, "returned 'status'"),
    ],
)
def test_outputs_of_another_shape_are_refused(make_spec, change, message):
    spec = make_spec()
    rows = np.asarray(spec.shard_rows(0))
    outputs = {key: value for key, value in (outputs_for(spec, rows) | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        assemble(spec, 0, labels_of(rows), [(rows, outputs)])
