"""Modules of TensorRT that were never built: every class and attribute of a genuine one, and behaviour where given.

`module(table, behaviours)` makes one from a table of `tables/`. A behaviour is a class whose methods and attributes
take the place of the genuine ones of the same name. What this version's table lacks is left out, so that `hasattr`
answers as the genuine module does; setting an attribute that cannot be set, or calling a method with a number of
arguments that it does not take, fails as it does there. What has no behaviour fails when it is used.
"""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import types
from collections.abc import Callable, Mapping
from typing import Any


class Member(enum.Enum):
    """A member of one of pybind11's enumerations: it has a name and a number, and is no number."""

    def __int__(self) -> int:
        return int(self.value)


def module(name: str, table: Mapping[str, Any], behaviours: Mapping[str, type]) -> types.ModuleType:
    """A module of everything in `table`.

    Raises:
        AssertionError: Behaviour for a class that this version does not have is left out; nothing else can be wrong.
    """
    made = types.ModuleType(name)
    vars(made).update(__version__=table["version"], __spec__=importlib.machinery.ModuleSpec(name, None))
    for title, attributes in table["classes"].items():
        setattr(made, title, project(title, attributes, behaviours.get(title)))
    for title, members in table["enums"].items():
        owner, _, inner = title.rpartition(".")
        kind = Member(inner, members)  # type: ignore[call-arg]
        home = getattr(made, owner) if owner else made
        type.__setattr__(home, inner, kind) if owner else setattr(home, inner, kind)
    for title in table["functions"]:
        setattr(made, title, _unknown(f"{name}.{title}"))
    return made


def project(title: str, attributes: Mapping[str, str], behaviour: type | None) -> type:
    """A class of exactly these public attributes, with the behaviour's where it has any."""
    own = {} if behaviour is None else dict(vars(behaviour))
    space: dict[str, Any] = {
        name: value
        for name, value in own.items()
        if name.startswith("_") and name not in ("__dict__", "__weakref__", "__qualname__", "__doc__")
    }
    for name, kind in attributes.items():
        what, *rest = kind.split()
        if name in own:
            value = own[name]
            assert isinstance(value, types.FunctionType) == (what == "m"), f"{title}.{name} is {kind!r}"
            space[name] = _counted(f"{title}.{name}", value, rest[0]) if what == "m" else value
        elif what == "m":
            space[name] = _unknown(f"{title}.{name}")
        else:
            space[name] = None if what == "rw" else property(_kept(title, name))

    def set_attribute(self: Any, name: str, value: Any) -> None:
        if not name.startswith("_"):
            if name not in attributes:
                raise AttributeError(f"{title!r} object has no attribute {name!r}")
            if attributes[name].split()[0] != "rw":
                raise AttributeError(f"can't set attribute {name!r} of {title!r}")
            if hasattr(self, "_on_set"):
                self._on_set(name, value)
        object.__setattr__(self, name, value)

    space["__setattr__"] = set_attribute
    return type(title, (), space)


def undeclared(behaviours: Mapping[str, type], tables: Mapping[str, Any]) -> list[str]:
    """Public attributes of behaviours that no version has: a fake that invents."""
    return [
        f"{title}.{name}"
        for title, behaviour in behaviours.items()
        for name in vars(behaviour)
        if not name.startswith("_") and not any(name in table["classes"].get(title, {}) for table in tables.values())
    ]


def _counted(title: str, function: Callable[..., Any], counts: str) -> Callable[..., Any]:
    least, most = counts.split("-")

    @functools.wraps(function)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        count = len(arguments) + len(named)
        if count < int(least) or (most != "*" and count > int(most)):
            raise TypeError(f"{title}(): incompatible function arguments: {count} instead of {counts}")
        return function(self, *arguments, **named)

    return call


def _kept(title: str, name: str) -> Callable[[Any], Any]:
    """Read what a behaviour has put into the object."""

    def read(self: Any) -> Any:
        assert name in vars(self), f"the fake has no behaviour for {title}.{name}"
        return vars(self)[name]

    return read


def _unknown(title: str) -> Callable[..., Any]:
    def fail(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(f"the fake has no behaviour for {title}")

    return fail
