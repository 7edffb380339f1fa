"""The table of what views are worth: columns that some row has, intervals, rows made as the script asks."""

import click
import pytest
import view_quality


def test_a_row_has_its_numbers_intervals_and_what_it_lacks():
    scale = {
        f"kernel_distance[{space}] of {what}": [0.01, 0.005, 0.02]
        for space in ("viewgen encoder", "patches")
        for what in ("reconstructions", "shuffled pixels")
    }
    rows = {
        "W-search (newton)": {
            "label_kept": [0.9621, 0.944, 0.979], "distance": [0.30116, 0.3, 0.302],
            "code_rms": [0.02408], "passes": 14.375, "converged": 0.9921875,
            "classifier_accuracy": [0.995, 0.992, 0.998], **scale,
        },
        "expert": {"label_kept": [0.75, None, None], "distance": [0.1], "passes": 1.25},
    }  # fmt: skip
    lines = view_quality.table("digits", rows).replace("\u00a0", "").splitlines()
    assert lines[0] == "### digits: 128 images × 8 views"
    assert lines[2] == "| | distance | label kept | rms in code space | converged | passes |"
    assert lines[4] == (
        "| W-search (newton) | 0.301 (0.3 to 0.302) | 96.2% (94.4 to 97.9%) | 0.0241 | 99.2% | 14.4 |"
    )
    assert lines[5] == "| expert | 0.1 | 75.0% | – | – | 1.2 |"
    assert lines[7] == (
        "For scale, kernel distance in f: 0.01 (0.005 to 0.02) of the reconstructions, 0.01 of shuffled "
        "pixels; kernel distance in patches: 0.01 (0.005 to 0.02) of the reconstructions, 0.01 of shuffled "
        "pixels. The classifier reads 99.5% (99.2 to 99.8%) of the real images right."
    )
    assert len(lines) == 8


def test_the_rows_are_those_of_the_comparison_on_both_data_sets():
    assert len({row.name for row in view_quality.ROWS}) == len(view_quality.ROWS)
    for row in view_quality.METHODS:
        assert set(row.datasets) == view_quality.IMAGES.keys()
    first = view_quality.ROWS[0]
    wanted = view_quality.asked("digits", first)
    assert wanted["settings"] == {}
    assert wanted != view_quality.asked("fashion-mnist", first), "the numbers of images differ"
    assert wanted != view_quality.asked("digits", view_quality.ROWS[1])


def test_the_matched_strength_meets_the_distance_along_a_bent_curve():
    tried = []

    def distance(sigma: float) -> float:
        tried.append(sigma)
        return sigma**0.7 / (1 + sigma)

    sigma = view_quality.matched(distance, 0.3)
    assert distance(sigma) == pytest.approx(0.3, rel=5e-3)
    assert len(tried) < 8
    with pytest.raises(click.ClickException, match="no σ"):
        view_quality.matched(lambda sigma: 0.1, 0.3)
