"""The report says how far the views are from what was asked for, and why."""

import dataclasses

import numpy as np
import pytest

from viewgen.store import (
    CacheReader,
    ShardCommit,
    commit_shard,
    create_cache,
    list_commits,
    open_storage,
    write_shard,
)
from viewgen_pipelines.report import make_result, report_lines
from viewgen_pipelines.shards.driver import Stage, StageResult

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture
def finished(tmp_path, make_spec, shard_arrays):
    """21 images with 2 views, ε₁ 0.3, ε₂ 0.5: shard 2 given up, row 3 failed, row 4 not converged."""
    spec = make_spec(config={"epsilon_boundary": 0.3, "epsilon_uniformity": 0.5})
    storage = open_storage(str(tmp_path / "c.zarr"))
    create_cache(storage, spec)
    for shard_id in (0, 1):
        arrays = shard_arrays(spec, shard_id)
        arrays["distance"][:] = 0.3
        if shard_id == 0:
            arrays["status"][3:5] = (3, 2)
            arrays["distance"][3] = np.nan
            arrays["distance"][4] = (0.1, 0.3)
        else:
            arrays["distance"][7] = (0.36, 0.34)
        readable = arrays["status"] != 3
        commit = ShardCommit(
            shard_id=shard_id,
            identity=spec.identity,
            objects=write_shard(storage, spec, shard_id, arrays),
            status=arrays["status"].tobytes(),
            failures={3: "poisoned"} if shard_id == 0 else {},
            stats={
                "num_ok": int((arrays["status"] == 1).sum()),
                "num_not_converged": int((arrays["status"] == 2).sum()),
                "mean_pairwise": 0.2 + 0.1 * shard_id,
                "anchor_distance": 0.1,
                "num_anchors_beyond": shard_id,
            },
        )
        assert readable.sum() == commit.stats["num_ok"] + commit.stats["num_not_converged"]
        commit_shard(storage, commit)
    stage = Stage(title="wsearch", url=storage.url, spec=spec, method=None, model_paths={})
    result = StageResult(
        commits=list_commits(storage, spec),
        quarantined={2: "crashed in attempt 3: Fatal Python error"},
        repaired=[],
        num_new_images=16,
        seconds=4.0,
    )
    return stage, result, CacheReader(storage.url)


def test_numbers(finished):
    stage, result, reader = finished
    summary = make_result(stage, result, reader, seconds=5.0)
    assert (summary.num_images, summary.num_views, summary.epsilon_boundary) == (21, 2, 0.3)
    assert summary.converged_share == pytest.approx(14 / 21)
    assert summary.mean_pairwise == pytest.approx((7 * 0.2 + 8 * 0.3) / 15)
    assert summary.views_per_second == 8.0
    assert summary.quarantined == [
        {"shard": 0, "row": 3, "reason": "poisoned"},
        {"shard": 2, "rows": [16, 20], "reason": "crashed in attempt 3: Fatal Python error"},
    ]
    assert not summary.complete
    assert dataclasses.replace(summary, quarantined=[]).complete


def test_lines(finished):
    stage, result, reader = finished
    summary = make_result(stage, result, reader, seconds=5.0)
    text = "\n".join(report_lines(stage, result, summary, reader))
    for part in (
        "digits train, wsearch: 15 of 21 images × 2 views",
        "converged 14, not converged 1, missing 6",
        "(ε₁ 0.3); 2 of 30 views miss it by more than 0.05: 1 in images that did not converge, 1 in others",
        "mean pairwise distance 0.253 (ε₂ 0.5; at most 0.600 is possible at ε₁ 0.3)",
        "0.100 from image to reconstruction, beyond ε₁ in 1 of 15 images",
        "8.0 views per second, 5.0 s in all",
        "missing: row 3: poisoned",
        "missing: shard 2 (rows 16 to 20): crashed in attempt 3",
        "larger --max-attempts",
    ):
        assert part in text
