"""Progress of downloads and decoding, on standard error: a bar on a terminal, a line elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]


@contextmanager
def progress(description: str, total: int, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with how much of `total` (images, or bytes) is done so far."""
    if not sys.stderr.isatty():
        print(
            f"{description} ({f'{total / 1e6:.1f} MB' if in_bytes else f'{total:,} images'})", file=sys.stderr
        )
        yield lambda _: None
        return
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    class Rate(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            return Text(f"{task.speed or 0:,.0f}/s")

    bytes_columns = (bars.DownloadColumn(), bars.TransferSpeedColumn())
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        *(bytes_columns if in_bytes else (bars.MofNCompleteColumn(), Rate())),
        bars.TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    ) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)
