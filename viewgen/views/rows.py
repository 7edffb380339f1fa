"""Operations on some rows of a batch, chosen on the CPU."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["change_rows"]


def change_rows(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return a batch with some rows changed; the given batch is kept.

    Args:
        x: batch, `(B, ...)`.
        chosen: rows to change, bool `(B,)`, on the CPU.
        change: rows of the batch `(R, ...)`, their positions `(R,)` on the CPU → new rows `(R, ...)`.
    """
    positions = chosen.nonzero()[:, 0]
    if not len(positions):
        return x
    rows = positions.to(x.device)
    return x.index_copy(0, rows, change(x.index_select(0, rows), positions))
