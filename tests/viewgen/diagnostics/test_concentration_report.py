"""What a concentration tells beside its numbers: directions, the document behind the plots; its memory."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from constructed_caches import IMAGES, LABELS, copies, dataset_of, subject_of

from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.concentration.class_views import graph_bytes
from viewgen.diagnostics.concentration.curve import class_curve, delta_of_share
from viewgen.diagnostics.concentration.plot import _title
from viewgen.diagnostics.measure import Measure, Subject
from viewgen.views.compositions import expert_values
from viewgen.views.expert import ExpertConfig

pytestmark = pytest.mark.usefixtures("no_flushing")

FEW = {"num_per_class": 6, "num_views": 2, "num_deltas": 4, "num_pooled": 20, "shares": (0.5,)}


def expert_subject(**expert) -> Subject:
    dataset = dataset_of(IMAGES, LABELS)
    return Subject({"train": lambda: dataset, "expert": lambda: ExpertConfig(**expert)}, name="bars")


def measures_of(subject: Subject, **settings) -> list[Measure]:
    return DIAGNOSTICS.resolve("concentration", "bars", FEW | settings).build().measure(subject, 0)


def test_each_number_has_its_direction_and_is_certified_or_estimated():
    rows = measures_of(expert_subject(), per_class=True)
    both = "certified here, estimated beyond"
    remarks = {(row.name, row.group): row.on.partition("; ")[2] for row in rows}
    assert remarks == {
        **dict.fromkeys(
            [("area", group) for group in ("expert", "expert, 1 of 2 views", "across", "down")],
            f"at most; interval {both}",
        ),
        ("area", "images alone"): f"interval {both}",
        ("delta_max", "expert"): f"at least, {both}",
        **{(name, "expert"): f"at most, {both}" for name in ("delta[σ = 0.5]", "delta_rms[σ = 0.5]")},
        **{(f"sigma[δ = {part} δ_max]", "expert"): f"at least, {both}" for part in (0.25, 0.5, 0.75)},
        **{(f"{name}_pair_area", ""): "at most, estimated" for name in ("within", "between")},
        ("pair_area_ratio", ""): "estimated",
    }


def test_the_curves_say_which_images_and_views_they_are_of():
    for subject, expected in (
        (expert_subject(**expert_values("ad:0.25")), ("expert", "ad:0.25")),
        (expert_subject(crop_scale=(0.3, 0.4)), ("expert", None)),
        (subject_of(copies(IMAGES)), ("wsearch", None)),
    ):
        subject.files = {}
        areas = {row.name: row for row in measures_of(subject)}
        document = json.loads(subject.files["curves.json"])
        assert (document["dataset"], document["split"]) == ("bars", "train")
        assert (document["views"], document["augment"]) == expected
        assert document["pair_areas"] == {
            name: {"value": areas[name].value, "low": areas[name].low, "high": areas[name].high}
            for name in ("within_pair_area", "between_pair_area", "pair_area_ratio")
        }
        title = f"bars, {expected[0]}" + (f" {expected[1]}" if expected[1] else "")
        assert _title(document) == title
    assert _title({"views": "expert"}) == "expert"


def test_main_parts_take_no_more_memory_than_is_checked():
    size = 1500
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(size, 5)).astype(np.float32))
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    delta = np.linspace(0, float(distance.max()), 2)
    tracemalloc.start()
    try:
        curve = class_curve("a", distance, delta, exact_up_to=0)
        delta_of_share(curve, distance, delta, 0.9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the distances are torch's and not traced
    assert distance.numpy().nbytes + peak < graph_bytes(size)
