"""The newest zarr-python, in an interpreter of its own, as contenders of `cache_reads.py`.

An interpreter older than the newest zarr-python supports gets an older one; a user of today may have another.

    python3.13 -m venv /tmp/newest && /tmp/newest/bin/pip install zarr zarrs
    python benchmarks/cache_reads.py --zarr-python /tmp/newest/bin/python
"""

import json
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ElsewhereZarr", "elsewhere"]

# name → class path of the codec pipeline; the empty one is zarr-python's default
PIPELINES = {
    "default": "",
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
SERVER = Path(__file__).with_name("zarr_server.py")
_Array = np.ndarray[Any, Any]


class ElsewhereZarr:
    """A process that reads one array.

    Args:
        python: its interpreter.
        path: folder of the array.
        pipeline: class path of the codec pipeline, or an empty text.

    Raises:
        RuntimeError: the interpreter lacks zarr or the pipeline.
    """

    def __init__(self, python: str, path: Path, pipeline: str) -> None:
        self._process = subprocess.Popen(
            [python, str(SERVER), str(path), pipeline],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip().splitlines()[-1:]
            self.close()
            raise RuntimeError(f"{self._process.args} ended: {' '.join(said)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **task: Any) -> dict[str, Any]:
        """Send a task and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def values(self, **task: Any) -> _Array:
        """Return what a task reads, by a file, whose time does not count."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "values.npy"
            self.ask(**task, out=str(file))
            found: _Array = np.load(file)
        return found

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._process.wait(30)


class _Read:
    """A contender: reads rows there, and gives the values where they are asked for."""

    def __init__(self, process: ElsewhereZarr, task: Callable[[_Array], dict[str, Any]]) -> None:
        self.process, self.task = process, task

    def __call__(self, rows: _Array) -> None:
        self.process.ask(**self.task(rows))

    def values(self, rows: _Array) -> _Array:
        return self.process.values(**self.task(rows))


def elsewhere(python: str, path: Path, shard_images: int) -> dict[str, dict[str, _Read]]:
    """Return task → contender → function that reads rows, for the pipelines that can; say which cannot.

    Args:
        python: the interpreter.
        path: folder of the array.
        shard_images: images of a shard.
    """
    found: dict[str, dict[str, _Read]] = {"batch of 256": {}, "whole shard": {}}
    for name, pipeline in PIPELINES.items():
        try:
            process = ElsewhereZarr(python, path, pipeline)
            process.ask(rows=[0, 1])
        except RuntimeError as error:
            print(f"zarr-python, {name}, is left out: {error}")
            continue
        title = f"zarr-python {process.versions['zarr']}, {name}"

        def shard(rows: _Array) -> dict[str, Any]:
            first = int(rows[0]) // shard_images * shard_images
            return {"first": first, "last": first + shard_images}

        found["batch of 256"][title] = _Read(process, lambda rows: {"rows": rows.tolist()})
        found["whole shard"][title] = _Read(process, shard)
    return found
