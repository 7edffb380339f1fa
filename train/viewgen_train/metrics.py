"""Metrics of a training over its steps: ``metrics.csv``."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from viewgen.errors import CorruptDataError
from viewgen.files import write_atomically

__all__ = ["Metrics"]


class Metrics:
    """CSV file of metrics per step; a resumed run removes the rows after its checkpoint.

    Args:
        path: the file.
        first_step: first step of this run; rows from it on are left out.

    Raises:
        CorruptDataError: the file is no table of metrics.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        kept: list[dict[str, str]] = []
        if path.exists():
            try:
                with open(path, newline="") as file:
                    reader = csv.DictReader(file)
                    self.columns = list(reader.fieldnames or [])
                    kept = [row for row in reader if row["step"].isdigit() and int(row["step"]) < first_step]
            except (ValueError, LookupError, AttributeError, csv.Error) as error:
                raise CorruptDataError(
                    f"{path} is no table of metrics ({error!r}); restore it, or delete it: the rows "
                    f"before step {first_step} are lost then"
                ) from error
        self.rows: list[Mapping[str, Any]] = list(kept)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row."""
        self.columns += [name for name in ("step", *values) if name not in self.columns]
        self.rows.append({"step": step, **{name: f"{value:.6g}" for name, value in values.items()}})

    def write(self) -> None:
        """Write the file."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, text.getvalue().encode(), sole_writer=True)

    def digest(self) -> str:
        """Return the hexadecimal sha256 digest of the rows."""
        rows = [
            {str(name): str(value) for name, value in row.items() if value not in ("", None)}
            for row in self.rows
        ]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def check(self, digest: str | None) -> None:
        """Compare the rows with the digest in the checkpoint; one of 0.1.0 has none.

        Raises:
            CorruptDataError: they differ. A missing file passes.
        """
        if digest is not None and self.path.exists() and self.digest() != digest:
            raise CorruptDataError(
                f"{self.path} differs from what was written up to the checkpoint (sha256 of its rows); "
                "restore it, or delete it: the rows before the checkpoint are lost then"
            )
