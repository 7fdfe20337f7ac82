"""Settings as frozen dataclasses: made, changed, compared, printed, saved and loaded by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from siftlm.errors import InvalidInput, UnknownName, setting

Kind = TypeVar("Kind", bound="Settings")


class Settings:
    """What `siftlm.Search` and `siftlm.Tuning` have in common; a subclass is a frozen dataclass without eq and repr.

    A field that is left at its default leaves the choice to what has a lower precedence: a recipe, a calibration.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str] = "setting"
    """The noun in the message about an unknown name."""

    @classmethod
    def names(cls) -> list[str]:
        """The names of all settings."""
        return [one.name for one in fields(cls) if one.init]

    @classmethod
    def chosen_in(cls, name: str, value: object) -> dict[str, Any]:
        """`chosen` of the argument ``name``, nothing where it is None; an error where it is of another type."""
        if value is None:
            return {}
        if not isinstance(value, cls):
            raise InvalidInput(f"{setting(name)} must be a siftlm.{cls.__name__}, got {type(value).__name__}")
        return value.chosen()

    def with_(self: Kind, changes: Mapping[str, Any]) -> Kind:
        """These settings with some changed; an unknown name is an error that lists the known."""
        known = self.names()
        for name in changes:
            if name not in known:
                raise UnknownName(self.kind, name, known)
        return replace(self, **changes)

    def chosen(self) -> dict[str, Any]:
        """The settings that differ from their defaults, by name."""
        own = {one.name: one.default for one in fields(self) if one.init}
        return {name: value for name in own if not _same(value := getattr(self, name), own[name])}

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return {name: getattr(self, name) for name in self.names()}

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


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one is other or bool(one == other)
