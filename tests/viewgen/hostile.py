"""Documents changed to do harm, and the limits of what reading them may take."""

import copy
import json
import os
import resource
import time
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from viewgen.errors import ViewgenError

__all__ = ["EXAMPLES", "HOSTILE", "LIMITS", "Bounded", "mutated", "nested", "text_of", "typed"]

SECONDS, MEGABYTES = 2.0, 300


def nested(depth: int) -> Any:
    """Return brackets in brackets."""
    document: Any = []
    for _ in range(depth):
        document = [document]
    return document


# what a field may hold that it should not
HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, "", "x", "\x1b[2J", "\ud800", "1" * 5000),
    *(10**9, 10**15, 2**31, 2**63, 2**64, -(2**63), 10**400, [], {}, [1], [[]], {"": {}}, [10**15] * 3),
    *([1] * 500, {"a": None}, nested(60), nested(200), ["x"], "../../etc/passwd", "/dev/zero", "nan"),
]


def paths_of(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of every value within a document."""
    found = [path]
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            found += paths_of(value, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """Return a document with one to three hostile changes."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths_of(found)))
        value = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return value
            continue
        place = found
        for key in path[:-1]:
            place = place[key]
        change = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
        if change == "replace":
            place[path[-1]] = value
        elif change == "drop":
            del place[path[-1]]
        elif isinstance(place, dict):
            place[draw(st.sampled_from(["extra", "__class__", "spec", ""]))] = value
        else:
            place.append(value)
    return found


def text_of(document: Any) -> bytes:
    """Return JSON text, lone halves of characters included."""
    return json.dumps(document).encode()


EXAMPLES = int(os.environ.get("VIEWGEN_EXAMPLES", "60"))
LIMITS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Bounded:
    """Fails if what it holds takes more time or memory than reading a file may."""

    def __enter__(self) -> None:
        self.time = time.process_time()
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __exit__(self, *_: object) -> None:
        assert time.process_time() - self.time < SECONDS
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.peak
        assert grown < MEGABYTES * 1024, f"{grown / 1024:.0f} MB"


def typed(act):
    """Run; whatever it raises is an error of viewgen's."""
    with Bounded():
        try:
            return act()
        except ViewgenError as error:
            return error
