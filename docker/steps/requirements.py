"""Print the requirements of a pyproject.toml and of some extras: ``requirements.py FILE [EXTRA...]``."""

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict[str, object], extras: list[str]) -> list[str]:
    """Return the project's requirements and its extras', extras of itself resolved."""
    table = project.get("optional-dependencies", {})
    assert isinstance(table, dict)
    found = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in extras:
        if extra not in table:
            raise SystemExit(f"pyproject.toml has no extra {extra!r}; it has {', '.join(table)}")
        for requirement in table[extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
            found += requirements(project, own[1].split(",")) if own else [requirement]
    return sorted(set(found))


if __name__ == "__main__":
    document = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))
    print("\n".join(requirements(document["project"], sys.argv[2:])))
