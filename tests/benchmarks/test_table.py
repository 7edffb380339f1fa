"""The page of results: what is read from the result files, and what is said of targets."""

import json
import tomllib

import pytest
import table


def document(**ratios):
    return {
        "machine": "2 × CPU, Python 3, torch 1",
        "date": "2026-01-02",
        "script_seconds": 7,
        "ratios": ratios,
    }


@pytest.fixture
def results():
    slow = {
        "median": 12.345, "low": 9.0, "high": 150.0, "quality": "a | b",
        "peak_bytes": {"old": 2_500_000_000, "new": 30_000_000},
    }  # fmt: skip
    search = document(**{"step: old / new": slow, "search: one / two": {"median": 2, "low": 1, "high": 3}})
    search["searches"] = {
        name: {
            "seconds": 3.0,
            "updates_per_image": 5,
            "views_in_tolerance": 0.995,
            "spread_share_of_bound": 0.9,
        }
        for name in ("one", "two")
    }
    start = document(**{"start: a / b": {"median": 3, "low": 3, "high": 3}})
    start |= {"seconds": {"a": 0.25}, "machine": "2 × CPU, Python 3, click 8", "texts": {"why": "It waits."}}
    return {"search": search, "start_up": start}


TARGETS = {
    "target": [
        {"says": "Fast", "row": "search/step: old / new", "at_least": 10},
        {
            "says": "… and faster", "row": "search/search: one / two", "at_least": 20,
            "limit": "It has no wings.", "found": "start_up/why", "cites": ["start_up/start: a / b"],
        },
        {"says": "Quick", "row": "start_up/start: a / b", "seconds": "a", "at_most": 0.4},
        {"says": "Never tried", "row": "search/flight", "at_least": 1},
    ],
    "gpu": [{"what": "it", "target": "9 /s", "row": "search/step: old / new", "command": "run"}],
}  # fmt: skip


def test_targets_are_judged_by_the_median_or_by_the_seconds(results):
    judged = [table.measured(target, results) for target in TARGETS["target"]]
    assert judged == [("12.3\u00a0(9–150)", True), ("2\u00a0(1–3)", False), ("0.25 s", True), None]


def test_a_missed_target_says_what_limits_it_and_a_met_one_does_not(results):
    text = table.target_table(TARGETS["target"], results)
    assert "| … and faster | 2\u00a0(1–3) | **no** |" in text
    assert text.count("\n- ") == 1
    assert "- and faster: It has no wings. It waits. start: a / b: 3\u00a0(3–3)." in text
    assert "| Never tried | not measured | – |" in text


def test_a_row_holds_ratio_target_memory_quality_and_the_gpu(results):
    text = table.ratio_table(results, TARGETS["target"], TARGETS["gpu"], ["search"])
    first = next(line for line in text.splitlines() if line.startswith("| step"))
    cells = ["step: old / new", "12.3\u00a0(9–150)", "≥ 10", "old 2.5\u00a0GB<br>new 30\u00a0MB", "a / b"]
    assert first == f"| {' | '.join(cells)} | not measured |"
    assert "| `benchmarks/search.py`, 2026-01-02 |" in text
    assert "| `benchmarks/start_up.py`, run apart, 2026-01-02 |" in text
    second = next(line for line in text.splitlines() if line.startswith("| search"))
    assert "one: 99.5% of views within 0.05 of ε₁, spread 90% of the bound<br>two: " in second
    assert {line.count("|") for line in text.splitlines()} == {7}


def test_results_of_another_default_search_say_so():
    found = {"end_to_end": document(**{"a / b": {"median": 3, "low": 3, "high": 3}})}
    target = {"says": "Fast", "row": "end_to_end/a / b", "at_least": 2}
    for date, told in (("2026-11-28", True), ("2026-11-29", False)):
        found["end_to_end"]["date"] = date
        targets = table.target_table([target], found)
        assert ("W-boundary" in targets, "| yes |" in targets) == (told, not told)
        assert ("W-boundary" in table.ratio_table(found, [], [], ["end_to_end"])) == told


def test_qualities_kept_apart_stand_in_their_row():
    found = {"quality": {"search": {"a": {"steps": 4.0, "views_near": 0.98765}}}}
    assert table.quality("search of digits", {}, found) == "a: steps 4, views near 0.988"
    assert table.quality("step", {}, found) == "–"


def test_a_row_is_completed_by_what_other_scripts_measured(results):
    results["start_up"]["beside"] = {
        "search/search: one / two": {"peak_bytes": {"one": 7_000_000}},
        "search/step: old / new": {"quality": "unheard"},
    }
    text = table.ratio_table(results, [], [], [])
    assert "| search: one / two | 2\u00a0(1–3) | – | one 7\u00a0MB |" in text
    assert "unheard" not in text


def test_the_page_names_machine_date_and_time(results):
    text = table.page(results, TARGETS, ["start_up"])
    assert "2 × CPU, Python 3, torch 1, click 8. Date: 2026-01-02." in text
    assert "| `benchmarks/start_up.py` | 7 |" in text
    assert "| all | 7 |" in text
    assert "one: 99.5\u00a0% of views" in text
    assert "| it | 9 /s | not measured | `run` |" in text


def test_the_json_holds_every_ratio_and_what_became_of_the_targets(results):
    found = json.loads(json.dumps(table.collected(results, TARGETS)))
    assert found["ratios"]["search: step: old / new"]["median"] == 12.345
    assert [target["met"] for target in found["targets"]] == [True, False, True, None]
    assert found["targets_of_one_h100"][0]["measured"] is None


def test_results_come_in_the_order_of_the_page_and_pages_of_their_own_stay_away(tmp_path):
    for name in ("start_up", "all", "inversion", "search", "another"):
        (tmp_path / f"{name}.json").write_text(json.dumps(document()))
    (tmp_path / "recorded.json").write_text("{}")
    assert list(table.load_results(tmp_path)) == ["search", "start_up", "another"]


def test_the_committed_page_is_made_of_the_committed_results():
    results = table.load_results(table.HERE / "results")
    targets = tomllib.loads((table.HERE / "targets.toml").read_text("utf-8"))
    assert (table.DOCS / "benchmarks.md").read_text("utf-8") == table.page(
        results, targets, table.in_one_go()
    )
    for target in targets["target"]:
        assert target["row"].partition("/")[0] not in results or table.measured(target, results), target
