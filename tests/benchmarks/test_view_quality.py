"""The table of what views are worth: columns that some row has, intervals, rows of fewer images."""

import view_quality


def test_a_row_has_its_numbers_intervals_and_what_it_lacks():
    rows = {
        "W-search (newton)": {
            "num_images": 128, "label_kept": [0.9621, 0.944, 0.979], "distance": [0.30116],
            "code_rms": [0.02408], "passes": 14.375, "converged": 0.9921875,
            "distance under f": [0.21, 0.2, 0.22],
            "distance under other": [0.15, 0.14, 0.16], "survives under other": [0.714, 0.6, 0.8],
        },
        "expert": {"num_images": 32, "label_kept": [0.75, None, None], "distance": [0.1], "passes": 1.25},
    }  # fmt: skip
    lines = view_quality.table("digits", rows).splitlines()
    assert lines[0] == "### digits: 128 images × 8 views"
    assert lines[2] == "| | distance | label kept | rms in code space | converged | passes |"
    first, second = lines[4], lines[5]
    assert first.replace("\u00a0", "") == (
        "| W-search (newton) | 0.301 | 96.2% (94.4 to 97.9%) | 0.0241 | 99.2% | 14.4 |"
    )
    assert second.replace("\u00a0", "") == "| expert, 32 images | 0.1 | 75.0% | – | – | 1.2 |"
    assert lines[7] == "| | distance under f | under other | survives other |"
    assert lines[9].startswith("| W-search (newton) | 0.21 (0.2 to 0.22) | 0.15 (")
    assert len(lines) == 10


def test_the_recorded_rows_are_those_of_the_script():
    assert len({row.name for row in view_quality.ROWS}) == len(view_quality.ROWS)
    for row in view_quality.ROWS:
        assert set(row.datasets) <= view_quality.IMAGES.keys()
