"""A Dockerfile as a list of instructions."""

import re
from pathlib import Path


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a Dockerfile, comments dropped and continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word.upper(), arguments.strip())
        for word, _, arguments in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]
