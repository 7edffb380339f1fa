"""Notebooks of the documentation: run without Jupyter, and as pages of Markdown.

python docs/scripts/notebook.py docs/notebook.ipynb    # runs it in this folder and keeps its outputs
"""

import ast
import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import matplotlib

__all__ = ["pictures", "run", "to_markdown"]

Notebook = dict[str, Any]


def run(notebook: Notebook) -> Notebook:
    """Run the cells in turn, as Jupyter would, and put what they print, draw and return in their outputs.

    A cell of one line that begins with ``!`` is a command for a shell; it stays as it is.
    """
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"], 1):
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and not text.startswith("!"):
            cell["outputs"] = list(_outputs(text, f"cell {number}", namespace))
    return notebook


def _outputs(text: str, name: str, namespace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import matplotlib.pyplot as plt

    body = ast.parse(text).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    result = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body=body, type_ignores=[]), name, "exec"), namespace)
        if last is not None:
            result = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(True)}
    for figure in map(plt.figure, plt.get_fignums()):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=72, bbox_inches="tight")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        yield {"output_type": "display_data", "data": {"image/png": encoded}, "metadata": {}}
    plt.close("all")
    if result is not None:
        yield {
            "output_type": "execute_result",
            "data": {"text/plain": [repr(result)], **_page_of(result)},
            "execution_count": None,
            "metadata": {},
        }


def _page_of(result: Any) -> dict[str, list[str]]:
    """Return what Jupyter shows in the place of the text, of objects that have it."""
    page = getattr(result, "_repr_html_", None)
    return {} if page is None else {"text/html": [page()]}


def pictures(notebook: Notebook) -> Iterator[tuple[str, bytes]]:
    """Yield name and PNG of every picture among the outputs, in order."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if encoded := output.get("data", {}).get("image/png"):
                data = base64.b64decode(encoded)
                yield f"notebook-{hashlib.sha256(data).hexdigest()[:8]}.png", data


def to_markdown(notebook: Notebook) -> str:
    """Return the page: cells, and below each its outputs; pictures are named as by `pictures`."""
    names = iter([name for name, _ in pictures(notebook)])
    parts: list[str] = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        command = text.startswith("!")
        parts.append(_fenced(text.removeprefix("!"), "console" if command else "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![What the cell above draws]({next(names)})")
            elif "text/html" in data:
                parts.append("".join(data["text/html"]).replace("\n\n", "\n"))
            else:
                parts.append(_fenced("".join(output.get("text") or data["text/plain"]), "text"))
    return "\n\n".join(parts) + "\n"


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
def main(path: Path) -> None:
    """Run a notebook and write it with its outputs."""
    notebook = run(json.loads(path.read_text("utf-8")))
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
