"""Reports and scores of a cache, damaged or made to harm: told as far as they are whole."""

import json
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewgen.store import open_storage, summarise_cache
from viewgen.store.quality import _digest, read_scores, write_report, write_scores
from viewgen.testing.caches import small_spec, write_random_cache
from viewgen_pipelines.quality import ViewQuality, quality_lines

sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile import LIMITS, mutated, text_of, typed

SCORES = "quality/scores"
GROUP, ARRAY = f"{SCORES}/zarr.json", f"{SCORES}/margin/zarr.json"


@pytest.fixture(scope="module")
def measured():
    """A cache with a report and scores, and the documents of both."""
    url = f"memory://{uuid.uuid4().hex}"
    storage, spec = open_storage(url), small_spec()
    write_random_cache(storage, spec)
    row = {
        "diagnostic": "distinct",
        "seed": 0,
        "name": "distinct_views",
        "value": 1.5,
        "low": 1.0,
        "high": 2.0,
    }
    write_report(storage, spec, {"measures": [row], "verdict": ["half of them repeat"], "notes": ["none"]})
    write_scores(storage, spec, {"margin": np.ones((spec.num_images, spec.num_views), np.float32)})
    return url, {path: storage.read(path) for path in ("quality/report.json", GROUP, ARRAY)}


@LIMITS
@given(data=st.data())
def test_a_report_or_scores_with_hostile_values(measured, data):
    """What was measured of a cache: told as far as it is whole, scores with their name if not."""
    url, originals = measured
    path = data.draw(st.sampled_from(sorted(originals)))
    document = data.draw(mutated(json.loads(originals[path])))
    storage = open_storage(url)
    storage.write(path, text_of(document))
    if path == ARRAY and data.draw(st.booleans()):  # by somebody who can compute a digest
        group = json.loads(originals[GROUP])
        objects = {part: storage.read(f"{SCORES}/{part}") for part in ("margin/zarr.json", "margin/c/0/0")}
        group["attributes"]["viewgen"]["sha256"] = _digest(objects)
        storage.write(GROUP, text_of(group))
    try:
        summary = typed(lambda: summarise_cache(url))
        assert isinstance(summary, dict)
        if summary["quality"] is not None:
            quality_lines(ViewQuality.from_json(summary["quality"]))
        scores = typed(lambda: read_scores(storage, small_spec()))
        assert isinstance(scores, dict) or scores.exit_code == 5
    finally:
        for written, contents in originals.items():
            storage.write(written, contents)
