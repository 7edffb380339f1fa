"""Configuration files: settings in TOML or YAML, as dotted names."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from viewgen.errors import MissingFileError, UsageError

__all__ = ["dotted", "read_config", "toml_text", "toml_value"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read_config(path: str | Path, name: str) -> dict[str, Any]:
    """Return the settings in a TOML or YAML file; tables become dotted names.

    Args:
        path: the file.
        name: name of the file in messages, such as ``"--config FILE"``.

    Raises:
        MissingFileError: there is no such file.
        UsageError: it cannot be read, or holds no table.
    """
    try:
        text = Path(path).read_text("utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(f"{name}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from error
    try:
        if Path(path).suffix.lower() in (".yaml", ".yml"):
            import yaml

            document = yaml.safe_load(text)
        else:
            document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise UsageError(f"{name} cannot be read: {error}") from error
    if document is None:  # of YAML: nothing but comments
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"{name} holds {type(document).__name__}; expected a table of settings")
    return dict(dotted(document))


def dotted(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the dotted names of the values in nested tables, with the values."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def toml_text(tables: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested tables as a TOML document: of a table its values, then its tables.

    Args:
        tables: name → value, table, or list of tables; no value is None.
        prefix: dotted name of the table, with a dot behind it.
    """
    lines, parts = [], []
    for name, value in tables.items():
        key = name if _BARE_KEY.fullmatch(name) else _string(name)
        several = isinstance(value, list | tuple) and value and all(isinstance(one, dict) for one in value)
        if isinstance(value, dict):
            parts.append(f"[{prefix}{key}]\n{toml_text(value, f'{prefix}{key}.')}")
        elif several:
            parts += [f"[[{prefix}{key}]]\n{toml_text(one, f'{prefix}{key}.')}" for one in value]
        else:
            lines.append(f"{key} = {toml_value(value)}")
    return "\n".join(["\n".join(lines) + "\n" if lines else "", *parts]).lstrip("\n")


def toml_value(value: Any) -> str:
    """Return a value of a TOML document, or of JSON, as TOML; tables in lists are written inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(name)} = {toml_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
