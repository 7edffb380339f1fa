"""The page templates: escaped values, errors for undefined names, readable numbers."""

import functools
import math
from importlib import resources
from typing import Any

__all__ = ["message_page", "read_static", "render"]


def render(template: str, **context: Any) -> str:
    """Render a page; every value is escaped unless the template marks it as markup of this package."""
    page: str = _environment().get_template(template).render(**context)
    return page


def message_page(title: str, text: str, *, root: str = "", again: bool = False, login: bool = False) -> str:
    """Return a page with one message.

    Args:
        title: heading.
        text: text of the message.
        root: path to the gallery's root, as on the other pages.
        again: reload the page after a few seconds.
        login: show the form that asks for the token.
    """
    return render("message.html", title=title, text=text, root=root, again=again, login=login)


@functools.cache
def read_static() -> dict[str, bytes]:
    """Return the files that all pages use, by name; no other files are served."""
    folder = resources.files(__package__).joinpath("static")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@functools.cache
def _environment() -> Any:
    import jinja2  # of the extra "gallery"

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "signed": lambda value: f"{value:+.2f}".replace("-", "−"),
        "fixed": lambda value: f"{value:.3f}",
        "short": lambda value: f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}",
        "number": lambda value: "" if value is None or not math.isfinite(value) else f"{value:.6g}",
        "duration": _duration,
    }
    return environment


def _duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
