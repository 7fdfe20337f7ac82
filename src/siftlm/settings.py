"""Settings as frozen dataclasses: made, changed, compared, printed, saved and loaded by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import numpy as np

from siftlm.errors import InvalidInput, UnknownName, setting

Kind = TypeVar("Kind", bound="Settings")
# What cannot change, and is written as it is.
PLAIN_TYPES = frozenset({type(None), bool, int, float, str})


class Settings:
    """What `siftlm.Search`, `siftlm.Tuning` and the rules of a selection have in common.

    A subclass is a frozen dataclass without eq and repr, whose ``__post_init__`` calls this one first.

    A field with its default value leaves the choice to what has a lower precedence: the settings of a `LocalModel`, a
    recipe, a calibration. This is so for ``Tuning(passes=1)`` as well, since 1 is the default; a default value that is
    meant to win over these is given by name, ``passes=1``.

    Lists, dicts and arrays are copied when settings are made and when they are written, and numbers become Python's.
    Settings with equal values are equal and have one hash, whether a value is a list or an array.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str] = "setting"
    """The noun in the message about an unknown name."""

    def __new__(cls, *_: Any, **values: Any) -> Any:
        """An unknown name is an error that lists the known ones."""
        known = cls.__dataclass_fields__
        for name in values:
            if name not in known or not known[name].init:
                raise UnknownName(cls.kind, name, cls.names())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in list(vars(self)):
            value = getattr(self, name)
            if type(value) not in PLAIN_TYPES and value is not getattr(type(self), name, None):
                object.__setattr__(self, name, _copied(value))

    @classmethod
    def names(cls) -> list[str]:
        """The names of all settings."""
        return [one.name for one in fields(cls) if one.init]

    @classmethod
    def checked(cls: type[Kind], name: str, value: object) -> Kind:
        """The value of the argument ``name``; an error where it is of another type."""
        if not isinstance(value, cls):
            raise InvalidInput(f"{setting(name)} must be {cls.__name__}(…), got {value!r:.60}")
        return value

    @classmethod
    def chosen_in(cls, name: str, value: object) -> dict[str, Any]:
        """`chosen` of the argument ``name``, nothing where it is None; an error where it is of another type."""
        return {} if value is None else cls.checked(name, value).chosen()

    def with_(self: Kind, changes: Mapping[str, Any]) -> Kind:
        """These settings with some changed; an unknown name is an error that lists the known."""
        if not isinstance(changes, Mapping):
            raise InvalidInput(f"a {type(self).__name__} is made of a dict of settings by name, got {changes!r:.60}")
        if not all(isinstance(name, str) for name in changes):
            raise InvalidInput(f"the names of a {self.kind} must be str, got {list(changes)!r:.60}")
        return type(self)(**{name: getattr(self, name) for name in self.names()} | dict(changes))

    def chosen(self) -> dict[str, Any]:
        """The settings that differ from their defaults, by name."""
        own = {one.name: one.default for one in fields(self) if one.init}
        values = {name: getattr(self, name) for name in own}
        return {name: one for name, one in values.items() if one is not own[name] and not _same(one, own[name])}

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, for ``json.dumps``."""
        values = {name: getattr(self, name) for name in self.names()}
        return {
            name: value
            if type(value) in PLAIN_TYPES or value is getattr(type(self), name)
            else _copied(value, as_lists=True)
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls: type[Kind], saved: Mapping[str, Any]) -> Kind:
        """The settings that `to_dict` wrote; what is missing has its default."""
        return cls().with_(saved)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in self.names())

    def __hash__(self) -> int:
        return hash((type(self), *self.chosen()))  # names alone: values may be arrays

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.chosen().items())})"


def _copied(value: Any, *, as_lists: bool = False) -> Any:
    """A copy that shares nothing that can change with ``value``; numbers and arrays of other kinds become Python's and
    numpy's, or with ``as_lists`` what JSON can hold."""
    if isinstance(value, Real) and type(value) not in PLAIN_TYPES:
        try:
            return int(value) if isinstance(value, Integral) else float(value)
        except OverflowError:  # which the check of the setting reports
            return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _copied(one, as_lists=as_lists) for key, one in value.items()}
    if isinstance(value, (list, tuple, range)):
        copies = [one if type(one) in PLAIN_TYPES else _copied(one, as_lists=as_lists) for one in value]
        return tuple(copies) if isinstance(value, tuple) else copies
    if not isinstance(value, np.ndarray) and hasattr(value, "__array__") and not isinstance(value, type):
        try:
            value = np.asarray(value)
        except (ValueError, TypeError, RuntimeError):  # which the check of the setting reports
            return value
    if isinstance(value, np.ndarray):
        return value.tolist() if as_lists else value.copy()
    return value


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    # True repeats without end, and 1 once.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
