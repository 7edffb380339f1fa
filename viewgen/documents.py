"""Small JSON documents: read with limits, so that a damaged or hostile one costs neither time nor memory.

A document that viewgen writes is small, flat and made of numbers that 64 bits hold. Whatever is beyond these
limits is refused before anybody computes with it: a list of 10⁹ entries, a number of 400 digits, brackets in
brackets without end, a pipe under the name of a file.
"""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from viewgen.errors import CorruptDataError, UsageError
from viewgen.files import open_regular

__all__ = ["MOST_BYTES", "Document", "checked", "parse_json", "read_json", "read_object"]

MOST_BYTES = 4_000_000
"""Largest size of a document that one call reads."""

MOST_DEPTH = 48
LARGEST = 2**64


class Document(BaseModel):
    """Base of models that bound the fields of a document: JSON types, strictly; unknown fields pass."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


def read_json(path: str | Path, *, most_bytes: int = MOST_BYTES, finite: bool = False) -> Any:
    """Return the contents of a JSON file.

    Args:
        path: the file.
        most_bytes: size beyond which a file is refused.
        finite: refuse NaN and infinities.

    Raises:
        CorruptDataError: it is no JSON within the limits of `parse_json`, or no regular file.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(most_bytes + 1)
    return parse_json(data, str(path), most_bytes=most_bytes, finite=finite)


def read_object(path: str | Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Return the contents of a file that holds a JSON object; errors are those of `read_json`."""
    document = read_json(path, most_bytes=most_bytes)
    if not isinstance(document, dict):
        raise CorruptDataError(f"{path} holds a {type(document).__name__}, expected a JSON object")
    return document


def parse_json(
    data: bytes | str,
    place: str,
    *,
    most_bytes: int = MOST_BYTES,
    finite: bool = False,
    check_numbers: bool = True,
) -> Any:
    """Return the value of a JSON text.

    Args:
        data: the text.
        place: name of the document in messages.
        most_bytes: size beyond which a text is refused.
        finite: refuse NaN and infinities.
        check_numbers: refuse numbers outside of ±2⁶⁴; False where a model bounds those that count.

    Raises:
        CorruptDataError: it is no JSON, larger than `most_bytes`, nested deeper than 48 levels, or has a
            number outside of ±2⁶⁴.
    """
    if len(data) > most_bytes:
        raise CorruptDataError(f"{place} is larger than {most_bytes} bytes, so viewgen did not write it")
    # hooks take longer than reading does
    hooks: dict[str, Any] = {"parse_int": _whole} if check_numbers else {}
    if check_numbers and finite:
        hooks |= {"parse_float": _real, "parse_constant": _refused}
    try:
        document = json.loads(data, **hooks)
    except RecursionError:
        raise CorruptDataError(f"{place} is damaged: brackets within brackets, hundreds deep") from None
    except ValueError as error:
        raise CorruptDataError(f"{place} is damaged: {error}") from error
    if _brackets(data) > MOST_DEPTH and _depth(document) > MOST_DEPTH:
        raise CorruptDataError(f"{place} is damaged: nested more than {MOST_DEPTH} levels deep")
    return document


def _brackets(data: bytes | str) -> int:
    """Return the number of opening brackets, which the depth cannot exceed."""
    if isinstance(data, bytes):
        return data.count(b"[") + data.count(b"{")
    return data.count("[") + data.count("{")


def _whole(text: str) -> int:
    if len(text) > 20 or not -LARGEST <= (number := int(text)) <= LARGEST:
        raise ValueError(f"a number of {len(text)} digits, expected at most 2⁶⁴")
    return number


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _depth(document: Any) -> int:
    """Return the number of levels of lists and objects, without recursion; stops beyond `MOST_DEPTH`."""
    level, depth = [document], 0
    while depth <= MOST_DEPTH:
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return depth
        depth += 1
    return depth


def checked(kind: type[Document], document: Any) -> dict[str, Any]:
    """Return a JSON object whose fields have the types and bounds of `kind`; unknown fields pass.

    Raises:
        UsageError: it is no object, lacks a field, or has a value out of bounds; the message names the first.
    """
    try:
        kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:100] or "the document"
        shown = repr(first["input"])
        shown = shown if len(shown) <= 60 else shown[:60] + "…"
        raise UsageError(f"{where} is {shown}; {first['msg'].lower()}") from None
    found: dict[str, Any] = document
    return found
