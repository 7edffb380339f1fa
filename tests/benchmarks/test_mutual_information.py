"""The table of estimates beside the truth."""

import json

import mutual_information


def test_a_row_has_its_range_its_hits_and_the_means_of_what_is_read_beside():
    def seed(mine: float, other: float) -> dict:
        return {"mine": [mine, 0, 9], "nwj": [other, 0, 9], "infonce": [1.0, 0, 9], "smile": [2.0, 0, 9]}

    rows = {
        "gaussian 20 4.00": {"truth": 4.0, "seeds": [seed(4.39, 3.0), seed(3.59, 5.0)]},
        "uniform 1 0.05": {"truth": 0.05, "seeds": [seed(0.14, 0.0)]},
        "sign 4 1.00": {"truth": 1.0, "seeds": []},
    }
    _, _, *lines = mutual_information.table(rows).splitlines()
    assert lines == [
        "| gaussian | 20 | 4 | 3.59 … 4.39 | 1 of 2 | 4.00 | 1.00 | 2.00 |",
        "| uniform | 1 | 0.05 | 0.14 … 0.14 | 1 of 1 | 0.00 | 1.00 | 2.00 |",
    ]


def test_the_table_of_the_page_is_made_of_the_result():
    found = mutual_information.table(json.loads(mutual_information.RESULT.read_text("utf-8"))["rows"])
    page = mutual_information.RESULT.parents[2] / "docs" / "mutual-information.md"
    start, end = mutual_information.MARKS
    assert f"{start}\n\n{found}\n{end}" in page.read_text("utf-8")
