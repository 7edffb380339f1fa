"""Reads an array with the zarr-python of another interpreter, told what by lines on its standard input.

Started by `zarr_elsewhere.py`; needs zarr and numpy alone. A line is JSON: ``{"rows": [...]}`` for an
orthogonal selection of rows, ``{"first": A, "last": B}`` for neighbours, with ``"out": FILE`` to write the
values there. The answer is a line with the seconds.
"""

import json
import sys
import time

import numpy as np
import zarr


def main(path: str, pipeline: str) -> None:
    """Answer lines until the end of the input."""
    if pipeline:
        zarr.config.set({"codec_pipeline.path": pipeline})
    array = zarr.open_array(path, mode="r")
    print(json.dumps({"zarr": zarr.__version__, "numpy": np.__version__}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        start = time.perf_counter()
        if "rows" in task:
            values = array.get_orthogonal_selection((np.asarray(task["rows"]),))
        else:
            values = array[task["first"] : task["last"]]
        seconds = time.perf_counter() - start
        if task.get("out"):
            np.save(task["out"], np.asarray(values))
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
