"""A page of blocks, written as Markdown and as HTML: the same table in both."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Block", "Heading", "Items", "Paragraph", "Picture", "TableBlock", "html_text", "markdown_text"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
code { background: #f2f2f2; padding: .1rem .3rem; }
@media (prefers-color-scheme: dark) { body { background: #16181d; color: #ddd; } code { background: #262a31; }
  th, td { border-color: #444; } }
"""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; `level` 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph, or a line of code."""

    text: str
    code: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class TableBlock:
    """A table; all columns but the first are numbers."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture beside the page, with its description."""

    file: str
    text: str


Block = Heading | Paragraph | Items | TableBlock | Picture


def markdown_text(blocks: Sequence[Block]) -> str:
    """Return the blocks as Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Paragraph():
            return f"```console\n{block.text}\n```" if block.code else block.text
        case Items():
            return "\n".join(f"- {line}" for line in block.lines)
        case Picture():
            return f"![{block.text}]({block.file})"
        case TableBlock():
            lines = [block.titles, ["---", *["---:"] * (len(block.titles) - 1)], *block.rows]
            return "\n".join("| " + " | ".join(_cell(one) for one in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def html_text(blocks: Sequence[Block], title: str) -> str:
    """Return the blocks as one HTML page that needs nothing but its pictures."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n"
        "</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
        case Paragraph():
            text = html.escape(block.text)
            return f"<pre><code>{text}</code></pre>" if block.code else f"<p>{text}</p>"
        case Items():
            return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in block.lines) + "</ul>"
        case Picture():
            file, text = html.escape(block.file, quote=True), html.escape(block.text, quote=True)
            return f'<figure><img src="{file}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        case TableBlock():
            head = "".join(f"<th>{html.escape(one)}</th>" for one in block.titles)
            rows = "".join(
                "<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>\n"
                for row in block.rows
            )
            return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>"
