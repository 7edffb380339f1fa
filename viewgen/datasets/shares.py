"""Splits by share: a part of each class's pictures is held out, the same part on every machine.

A picture's place in its class is the sha256 of its path below the data set's folder. The first
round(share · n) of n pictures of a class are its test pictures, the next its validation pictures. Neither
the order of a listing nor a seed has an influence.
"""

import hashlib
from collections import defaultdict
from pathlib import Path

__all__ = ["divide"]

File = tuple[Path, int]


def divide(files: list[File], root: Path, *, test: float, val: float) -> dict[str, list[File]]:
    """Return the files of the splits ``train``, ``test`` and ``val``, each in the order of `files`.

    A class keeps at least one picture in ``train``.

    Args:
        files: pictures with their labels.
        root: folder of the data set.
        test, val: shares of each class.
    """
    by_class: dict[int, list[File]] = defaultdict(list)
    for file in files:
        by_class[file[1]].append(file)
    split_of: dict[Path, str] = {}
    for members in by_class.values():
        ranked = sorted((_place(path, root), path) for path, _ in members)
        num_test = min(round(test * len(ranked)), len(ranked) - 1)
        num_val = min(round(val * len(ranked)), len(ranked) - 1 - num_test)
        for place, (_, path) in enumerate(ranked):
            split_of[path] = "test" if place < num_test else "val" if place < num_test + num_val else "train"
    found: dict[str, list[File]] = {"train": [], "test": [], "val": []}
    for file in files:
        found[split_of[file[0]]].append(file)
    return found


def _place(path: Path, root: Path) -> bytes:
    name = path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")
    return hashlib.sha256(name).digest()
