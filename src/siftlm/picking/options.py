"""The settings of a method's own in a choice: values, fields of the records, and fields of the targets."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.errors import BadRecord, Conflict, InvalidInput, setting
from siftlm.memory.reading.fields import look_up
from siftlm.picking.pools import PoolBlock
from siftlm.picking.records import instead, number_in
from siftlm.selection import Method
from siftlm.selection.select import check_options
from siftlm.types import BoolArray, IntArray


@dataclass(frozen=True)
class MethodOptions:
    """The options of a method, sorted by where their values come from."""

    method: Method
    plain: Mapping[str, Any]
    """Option -> its value."""
    fields: Mapping[str, str]
    """Option with one value per candidate -> the field of the records that has it."""
    columns: Mapping[str, Any]
    """The same -> its values for all records of the pool."""
    target_field: tuple[str, str] | None = None
    """(option, field) of labels that the targets' records have."""

    @classmethod
    def of(cls, method: Method, options: Any) -> MethodOptions:
        """The options that a setting describes, their names checked."""
        if options is None:
            options = {}
        if not isinstance(options, Mapping):
            raise InvalidInput(f"{setting('options')} must be a mapping of names to values, got {options!r:.60}")
        check_options(method, options)
        plain, fields, columns, target_field = {}, {}, {}, None
        for name, value in options.items():
            own = name in (*method.numbers, *method.labels)
            if own and isinstance(value, str):
                fields[name] = value
            elif own and value is not None and not callable(value):
                columns[name] = value
            elif name in method.target_labels and isinstance(value, str):
                target_field = (name, value)
            else:
                plain[name] = value
        made = cls(method, plain, fields, columns, target_field)
        made.identity(())
        return made

    def identity(self, labels: Sequence[object]) -> dict[str, Any]:
        """Equal for options that give the same picks; JSON. ``labels``: those of the targets."""
        values: dict[str, Any] = {name: {"field": field} for name, field in self.fields.items()}
        for name, value in {**self.plain, **self.columns}.items():
            try:
                text = json.dumps(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
            except (TypeError, ValueError):
                raise InvalidInput(
                    f"{setting('options')}: {name!r} must be a number, a word, or a list of these, not "
                    f"{type(value).__name__}; siftlm.select takes anything else"
                ) from None
            values[name] = json.loads(text) if name in self.plain else _digest(text)
        if self.target_field is not None:
            values[self.target_field[0]] = _digest(json.dumps(list(labels), default=str))
        return values

    def values_of(self, block: PoolBlock, places: Sequence[int], bad: str) -> list[list[Any]]:
        """Of each of these records, the value of every field; None where it has none and may be left out."""
        return [
            [_value(block, at, name, field, bad, self.method) for name, field in self.fields.items()] for at in places
        ]

    def resolved(
        self, values: Sequence[Sequence[Any]], numbers: IntArray, records: int, labels: Sequence[object]
    ) -> tuple[dict[str, Any], BoolArray]:
        """The keyword arguments of the method, and which candidates have all values that it needs.

        ``values`` of the fields, and ``numbers`` of the candidates among the ``records`` of the pool.
        """
        found, complete = dict(self.plain), np.ones(len(numbers), dtype=np.bool_)
        for at, name in enumerate(self.fields):
            own = [row[at] for row in values]
            complete &= np.array([value is not None for value in own], dtype=np.bool_)
            found[name] = self._filled(name, own)
        for name, given in self.columns.items():
            if not hasattr(given, "__len__") or len(given) != records:
                size = f"{len(given):,} values" if hasattr(given, "__len__") else repr(given)
                raise InvalidInput(
                    f"{setting('options')}: {name!r} must be a field or have a value for each of the {records:,} "
                    f"records, got {size:.60}"
                )
            found[name] = self._filled(name, [given[number] for number in numbers.tolist()])
        if self.target_field is not None:
            found[self.target_field[0]] = list(labels)
        return found, complete

    def _filled(self, name: str, values: Sequence[Any]) -> Any:
        """Values for the method, with 0 or no label where there is none: such a candidate is not picked."""
        if name in self.method.numbers:
            return np.array([0.0 if value is None else value for value in values])
        return [[] if value is None else value for value in values]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _value(block: PoolBlock, at: int, name: str, field: str, bad: str, method: Method) -> Any:
    """What a record has in a field: a number that the method can use, or a label or a list of labels."""
    record = block.records[at]
    value: Any = look_up(record, field, None) if isinstance(record, Mapping) else None
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    number = name in method.numbers
    if number:
        found = number_in(value)
        if math.isfinite(found) and (found >= 0 or name not in method.nonnegative):
            return found
    elif _is_label(value) or (isinstance(value, (list, tuple)) and all(_is_label(one) for one in value)):
        return value
    if bad != "fail":
        return None
    must = "a label or a list of labels"
    if number:
        must = "a finite number ≥ 0" if name in method.nonnegative else "a finite number"
    raise BadRecord(
        f"{block.sources[at]}: {field!r} (option {name}) {instead(record, field, must)}; "
        f"{setting('bad', 'skip')} leaves such records out"
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def target_label(record: Any, field: str, source: str) -> object:
    """The label of a target."""
    value = look_up(record, field, None) if isinstance(record, Mapping) else None
    if not _is_label(value):
        raise BadRecord(f"{source}: {field!r} {instead(record, field, 'the label of this target')}")
    return value


def check_method(method: Method, *, quality: Any, budget: Any, quota: Any) -> None:
    """Raise where a method cannot choose records, or not within these limits."""
    if method.reads != "vectors":
        raise Conflict(f"{setting('method', method.name)} reads a classifier's outputs, not records; use 'sift'")
    if method.whole and method.repeats:
        raise Conflict(
            f"{setting('method', method.name)} picks a record several times, and a training set has it once; use 'sift'"
        )
    given = {"quality": quality, "budget": budget, "quota": quota}
    factors = [name for name in ("quality", "budget") if given[name] is not None]
    if method.signed and factors:
        raise Conflict(
            f"method {method.name!r} may have negative gains: leave out {setting(factors[0])}, which would be a factor "
            "on them"
        )
    between = [name for name, value in given.items() if value is not None]
    if method.whole and between:
        raise Conflict(
            f"method {method.name!r} decides on all picks at once: leave out {setting(between[0])}, which acts between "
            "picks"
        )
