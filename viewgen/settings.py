"""Settings of a component: frozen, checked, described, and recorded such that old records stay valid.

A component's settings are one `Settings` class whose fields are made by `setting`. The fields define the
command line's flags, ``--set NAME=VALUE``, configuration files, `viewgen list settings` and the JSON schema.

`Settings.record` is written beside a cache or a run. It contains every field of the first format, and those
later fields whose value differs from the meaning of their absence. A new field at its default therefore
changes no identity, and `Settings.from_record` reads the records of earlier versions.
"""

import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from viewgen.errors import CorruptDataError, UsageError, nearest_name

__all__ = ["Settings", "facts", "setting"]


def setting(
    default: Any,
    description: str,
    *,
    since: int = 1,
    absent: Any = PydanticUndefined,
    flag: bool = False,
    **bounds: Any,
) -> Any:
    """Return a field of a `Settings` class.

    Args:
        default: default value.
        description: noun phrase for help, reference and schema, with a unit where there is one.
        since: first format version of caches and runs with this field; 1 for the fields of 0.1.0.
        absent: value implied by a record without the field; by default `default`, unless that has changed.
        flag: add a command-line flag of the field's name, besides ``--set``.
        bounds: pydantic's ``gt``, ``ge``, ``lt``, ``le``, ``min_length``, ``max_length``.
    """
    told: dict[str, Any] = {"since": since, "flag": flag}
    if absent is not PydanticUndefined:
        told["absent"] = absent
    return Field(default, description=description, json_schema_extra={"viewgen": told}, **bounds)


class Settings(BaseModel):
    """Base of all settings.

    Raises:
        UsageError: an unknown name, a value of another type or outside its bounds; the message names the
            component (`title`), what came and what was expected.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=False,
        protected_namespaces=(),
    )
    title: ClassVar[str] = "the settings"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(_explain(type(self), error)) from None

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, values: Any) -> Any:
        """Convert lists, the sequences of JSON and TOML, to tuples."""
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {
            name: _as_tuple(value) if name in fields and _is_tuple(fields[name].annotation) else value
            for name, value in values.items()
        }

    def replace(self, **changes: Any) -> Self:
        """Return settings with some values changed and checked."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(values | changes))

    def ignored(self) -> dict[str, str]:
        """Return the settings without effect beside the others' values, name → reason."""
        return {}

    def refuse_ignored(self, given: Collection[str]) -> None:
        """Check that each of the given settings has an effect.

        Raises:
            UsageError: one has none.
        """
        for name, reason in self.ignored().items():
            if name in given:
                raise UsageError(
                    f"{self.title}: {name} is given and has no effect, because {reason}; leave it out, or "
                    "change that"
                )

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON values."""
        return self.model_dump(mode="json")

    def record(self) -> dict[str, Any]:
        """Return the identity of these settings: JSON values without later fields at their absent value."""
        found = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            since, absent = _history(field)
            if since == 1 or value != absent:
                found[name] = value.record() if isinstance(value, Settings) else self._json(name)
        return found

    @classmethod
    def from_record(cls, document: Mapping[str, Any]) -> Self:
        """Return the settings from the result of `record` in this version or an earlier one.

        Raises:
            CorruptDataError: a field is unknown, or a value is invalid.
        """
        values = dict(document)
        for name, field in cls.model_fields.items():
            since, absent = _history(field)
            if name not in values and since > 1:
                values[name] = absent
            elif name in values and isinstance(values[name], Mapping) and _is_settings(field.annotation):
                values[name] = typing.cast(Any, field.annotation).from_record(values[name])
        try:
            return cls(**values)
        except UsageError as error:
            raise CorruptDataError(
                f"{error}; the record is damaged, or a newer version of viewgen wrote it"
            ) from error

    def _json(self, name: str) -> Any:
        return self.model_dump(mode="json", include={name})[name]


def facts(field: FieldInfo) -> dict[str, Any]:
    """Return the facts of a field that `setting` adds to pydantic's: ``since``, ``flag``, ``absent``."""
    extra: Any = field.json_schema_extra or {}
    default = field.get_default(call_default_factory=True)
    return {"since": 1, "flag": False, "absent": default, **extra.get("viewgen", {})}


def _history(field: FieldInfo) -> tuple[int, Any]:
    found = facts(field)
    return found["since"], found["absent"]


def _is_tuple(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_is_tuple(part) for part in typing.get_args(annotation))
    return annotation is tuple or typing.get_origin(annotation) is tuple


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(part) for part in value) if isinstance(value, list | tuple) else value


def _explain(cls: type[Settings], error: ValidationError) -> str:
    """Return one sentence per problem: the given and the expected value."""
    problems: list[str] = []
    for problem in error.errors(include_url=False):
        where = _where(cls, problem["loc"])
        if problem["type"] == "extra_forbidden":
            problems.append(f"no setting {where!r}{nearest_name(where, cls.model_fields)}")
        elif problem["type"] == "value_error":
            found = problem["ctx"]["error"]
            # a component's own settings have said who they are
            problems.append(
                f"{where}: {found}" if where and not isinstance(found, UsageError) else str(found)
            )
        else:
            expected = problem["msg"].removeprefix("Input should be ")
            near = ""
            if problem["type"] == "literal_error" and isinstance(problem["input"], str):
                near = nearest_name(problem["input"], _choices(cls, problem["loc"]))
            told = f"{where} is {problem['input']!r}{near}; expected "
            if problems and problems[-1].startswith(told):
                problems[-1] += f" or {expected}"  # another member of the same union
            else:
                problems.append(told + expected)
    return f"{cls.title}: " + "; ".join(problems)


def _where(cls: Any, location: tuple[Any, ...]) -> str:
    """Return the dotted name of a value, without pydantic's names of a union's members."""
    names = []
    for part in location:
        names.append(str(part))
        field = getattr(cls, "model_fields", {}).get(part)
        cls = None if field is None else field.annotation
        if typing.get_origin(cls) in (typing.Union, types.UnionType):
            break
    return ".".join(names)


def _choices(cls: Any, location: tuple[Any, ...]) -> tuple[str, ...]:
    for part in location:
        field = getattr(cls, "model_fields", {}).get(part)
        cls = None if field is None else field.annotation
    return tuple(choice for choice in typing.get_args(cls) if isinstance(choice, str))
