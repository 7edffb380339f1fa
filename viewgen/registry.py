"""The registry: components that can be chosen by name, for every noun of a run.

There is one `Registry` per noun: view sources, objectives, diagnostics, data sets, generators, estimators of
mutual information. Built-in names are a table of modules, imported on request. An installed plug-in adds
names by entry points, which need no import by the user; `Registry.register` adds a name from a script.

A plug-in's ``pyproject.toml``, for a module `my_views` with an entry called `ENTRY`::

    [project.entry-points."viewgen.views"]
    swirl = "my_views:ENTRY"
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from viewgen.errors import UsageError, ViewgenError, nearest_name
from viewgen.recipes import recipe
from viewgen.settings import Settings

__all__ = ["Choice", "Entry", "Registry"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A component that can be chosen by name.

    Attributes:
        name: name on the command line.
        summary: one line of help.
        settings: class of its settings.
        build: function that builds the component; its arguments depend on the noun.
        needs: requirements, for example networks by kind.
        on_request: True if it is used only where it is named, because it takes long or asks for a file.
    """

    name: str
    summary: str
    settings: type[Settings]
    build: Callable[..., Any]
    needs: frozenset[str] = frozenset()
    on_request: bool = False


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Choice(Generic[E]):
    """An entry with its settings.

    Attributes:
        entry: the chosen entry.
        settings: resolved settings, an instance of the entry's settings class.
    """

    entry: E
    settings: Any

    @property
    def name(self) -> str:
        """Name of the entry."""
        return self.entry.name

    def record(self) -> dict[str, Any]:
        """Return JSON values that identify the choice."""
        return {"name": self.name, "settings": self.settings.record()}

    def build(self, *arguments: Any, **named: Any) -> Any:
        """Return the component built from the settings and the arguments of the noun."""
        return self.entry.build(self.settings, *arguments, **named)


_QUERY = re.compile(r"\?(\w+=[^?&]*(?:&\w+=[^?&]*)*)$")


class Registry(Generic[E]):
    """Entries of one noun by name.

    Args:
        noun: name of an entry in messages, in the singular.
        group: entry-point group of installed plug-ins.
        modules: name → module of a built-in entry, which holds the entry as `ENTRY`, or ``"module:NAME"``.
    """

    def __init__(self, noun: str, group: str, modules: Mapping[str, str]) -> None:
        self.noun, self.group = noun, group
        self._modules = dict(modules)
        self._registered: dict[str, E] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All names: built-in ones in the table's order, then installed and registered ones."""
        return tuple(dict.fromkeys([*self._modules, *self._installed, *self._registered]))

    @property
    def built_in(self) -> tuple[str, ...]:
        """Names of the built-in entries."""
        return tuple(self._modules)

    def module(self, name: str) -> str:
        """Return the module of a built-in name."""
        return self._modules[name]

    def origin(self, name: str) -> str:
        """Return the origin of a name: ``"built-in"``, ``"registered"``, or the package that adds it."""
        if name in self._registered:
            return "registered"
        if name in self._modules:
            return "built-in"
        return _package(self._installed[name])

    def __contains__(self, name: object) -> bool:
        return name in self._modules or name in self._installed or name in self._registered

    def register(self, entry: E) -> E:
        """Add an entry from a script or notebook, and return it.

        Raises:
            UsageError: the name is taken.
        """
        if entry.name in self:
            raise UsageError(f"there is a {self.noun} named {entry.name!r} already; choose another name")
        self._registered[entry.name] = entry
        return entry

    def entry(self, name: str) -> E:
        """Return the entry called `name`.

        Raises:
            UsageError: there is none; the message names the nearest.
            ViewgenError: it belongs to a plug-in that cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._modules:
            module, _, attribute = self._modules[name].partition(":")
            found: E = getattr(import_module(module), attribute or "ENTRY")
            return found
        if name in self._installed:
            return self._load(self._installed[name])
        raise UsageError(
            f"no {self.noun} {name!r}{nearest_name(name, self.names)} (known: {', '.join(self.names)})"
        )

    def resolve(
        self,
        name: str,
        dataset: str,
        given: Mapping[str, Any],
        preset: Mapping[str, Any] | None = None,
    ) -> Choice[E]:
        """Return the entry with its settings: defaults, then the data set's recipe, then given values.

        Args:
            name: name of the entry.
            dataset: name of the data set, whose recipe has a table of the entry's name.
            given: setting → value, merged from the configuration file and the command line.
            preset: values in the place of the recipe's.

        Raises:
            UsageError: no such entry or setting, an impossible value, or a given setting without effect.
        """
        entry = self.entry(name)
        for unknown in given.keys() - entry.settings.model_fields.keys():
            users = [other for other in self.names if unknown in self.entry(other).settings.model_fields]
            if users:
                raise UsageError(
                    f"{unknown} is a setting of {', '.join(users)}; {self.noun} {name!r} ignores it"
                )
        settings = entry.settings(**{**(recipe(dataset, name) if preset is None else preset), **given})
        settings.refuse_ignored(given)
        return Choice(entry, settings)

    def parsed(self, text: str) -> tuple[str, dict[str, Any]]:
        """Return name and given settings of ``NAME``, ``NAME:VALUE`` or ``NAME?setting=value&…``.

        The value behind the colon is that of the first setting. Values are JSON, or else text.

        Raises:
            UsageError: there is no such entry, or it takes nothing after a colon.
        """
        base = re.split("[:?]", text, maxsplit=1)[0]
        entry, rest = self.entry(base), text[len(base) :]
        fields = entry.settings.model_fields
        given: dict[str, str] = {}
        query = _QUERY.search(rest)
        pairs = [pair.partition("=") for pair in query[1].split("&")] if query else []
        # behind a colon a question mark may belong to the value, a path for example
        if query and (query.start() == 0 or all(key in fields for key, _, _ in pairs)):
            given = {key: value for key, _, value in pairs}
            rest = rest[: query.start()]
        if argument := rest[1:]:
            if not fields:
                raise UsageError(f"{self.noun} {base!r} takes nothing after a colon, got {text}")
            given[next(iter(fields))] = argument
        return base, {
            key: _value(fields[key].annotation if key in fields else str, one) for key, one in given.items()
        }

    def read(self, record: Mapping[str, Any]) -> Choice[E]:
        """Return the choice recorded by `Choice.record`."""
        entry = self.entry(record["name"])
        return Choice(entry, entry.settings.from_record(record["settings"]))

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def _load(self, point: EntryPoint) -> E:
        package = _package(point)
        try:
            found = point.load()
        except Exception as error:
            raise ViewgenError(
                f"{self.noun} {point.name!r} of the installed package {package} cannot be imported: "
                f"{type(error).__name__}: {error}; mend or uninstall {package}"
            ) from error
        if not isinstance(found, Entry) or found.name != point.name:
            raise ViewgenError(
                f"the installed package {package} names {point.value!r} as {self.noun} {point.name!r}; "
                f"expected an entry of that name, got {found!r}"
            )
        return found  # type: ignore[return-value]


def _value(annotation: Any, text: str) -> Any:
    if annotation is str:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
