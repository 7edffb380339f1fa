"""What the commands print: text that cannot move the cursor, and holds no credentials.

Names of files, classes and runs come from others. Printed as they are, their control characters would set a
terminal's title, write to the clipboard or hide lines, and marks of direction would show a name backwards.
`boundary` wraps the standard streams of a command, so that whatever prints (a message, a log, a traceback, a
library) shows them escaped and without secrets. Only `console` writes to the terminal itself, for colours and
bars; it escapes the text between them.
"""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from viewgen.redaction import redacted

__all__ = [
    "Escaped",
    "boundary",
    "console",
    "escaped",
    "json_text",
    "plain",
    "program",
    "shortened",
    "unescaped",
]

# C0 without tab and line feed, DEL, C1; separators of lines; marks of direction; halves of a character
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


MOST_SHOWN, SHOWN = 500, 24


def shortened(value: Any) -> Any:
    """Return a value for people: a text of more than 500 characters, such as recorded weights, cut short."""
    if isinstance(value, str) and len(value) > MOST_SHOWN:
        digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
        return f"{value[:SHOWN]}… ({len(value):,} characters, sha256 {digest[:12]})"
    return value


def program() -> str:
    """Return how this command was called, as it can be typed again in the same shell."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("viewgen", "__main__.py"):
        return f"{shlex.quote(sys.executable)} -m viewgen"
    if called.name != "viewgen" or shutil.which("viewgen") == str(called.absolute()):
        return "viewgen"
    return shlex.quote(os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called))


def escaped(text: str) -> str:
    r"""Return a text with its control characters and marks of direction written out: ``\x1b``, ``\u202e``."""
    return _UNSAFE.sub(_code, text)


def plain(text: str) -> str:
    """Return a text that may be shown to anybody: escaped, and without secrets."""
    return escaped(redacted(text))


def json_text(text: str) -> str:
    """Return a JSON text with the same values, all of whose control characters are escaped."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _code(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class Escaped:
    """A text stream that writes `plain` texts to another.

    Attributes:
        unescaped_stream: the stream behind it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unescaped_stream = stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a {type(text).__name__} was written to a text stream")
        # a carriage return before a line feed ends a line
        shown = plain(text.replace("\r\n", "\n"))
        try:
            self.unescaped_stream.write(shown)
        except UnicodeEncodeError:
            encoding = self.unescaped_stream.encoding or "ascii"
            self.unescaped_stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError("the bytes of this stream are not for writing")
        return getattr(self.unescaped_stream, name)


def unescaped(stream: Any) -> Any:
    """Return the stream behind `Escaped` ones."""
    while (behind := getattr(stream, "unescaped_stream", None)) is not None:
        stream = behind
    return stream


@contextlib.contextmanager
def boundary() -> Iterator[None]:
    """Wrap standard output and standard error in `Escaped` streams."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Escaped(sys.stdout), Escaped(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False, file: TextIO | None = None, **settings: Any) -> Any:
    """Return a `rich.console.Console` that shows texts `plain`, without markup, emoji codes or highlighting.

    Args:
        stderr: True if it writes to standard error.
        file: stream to write to, instead of a standard one.
        settings: further arguments of the console.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class PlainConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            # before it is broken into lines, which could part a secret
            if isinstance(renderable, str):
                renderable = plain(renderable)
            elif isinstance(renderable, Text) and (shown := plain(renderable.plain)) != renderable.plain:
                renderable = Text(shown, style=renderable.style, overflow=renderable.overflow)
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else plain(segment.text)
                yield segment if text == segment.text else Segment(text, segment.style)

    stream = file or (sys.stderr if stderr else sys.stdout)
    defaults = {"markup": False, "emoji": False, "highlight": False}
    return PlainConsole(file=unescaped(stream), **(defaults | settings))
