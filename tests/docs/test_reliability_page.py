"""The page on reliability names tests that exist, and every case of the promise."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/reliability.md").read_text("utf-8")


def rows() -> list[list[str]]:
    """Return the cells of the table of cases."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_case_is_there_with_promise_test_and_result() -> None:
    assert [row[0] for row in rows() if row[0] != "–"] == [str(number) for number in range(1, 30)]
    for row in rows():
        assert len(row) == 5, row
        assert all(row), row


def test_every_test_that_is_named_is_there() -> None:
    """A test belongs to the file that is named before it; an ellipsis stands for the rest of its name."""
    files = {path.relative_to(TESTS).as_posix(): path.read_text("utf-8") for path in TESTS.rglob("*.py")}
    for number, _, _, tests, _ in rows():
        chosen: list[str] = []
        for name in re.findall(r"`([^`]+)`", tests):
            if name.endswith(("/", ".py")):
                ends = [file for file in files if f"/tests/{file}".endswith(f"/{name}")]
                chosen = [file for file in files if name in file] if name.endswith("/") else ends
                assert chosen, f"case {number}: there is no {name}"
            elif name.startswith("test_"):
                start = f"def {name[:-1]}" if name.endswith("…") else f"def {name}("
                assert any(start in files[file] for file in chosen), (
                    f"case {number}: {name} is not in {chosen}"
                )
