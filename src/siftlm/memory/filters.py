r"""Filters, which say which documents a search or a deletion is about: small expressions over their metadata.

It is spelled as a dict in Python and as a string on a command line; `parse` reads both:

>>> in_python = parse({"source": "wiki", "year": {">=": 2000, "<": 2010}, "lang": ["en", "de"]})
>>> on_a_command_line = parse('source = "wiki" and (year >= 2000 and year < 2010) and lang in ["en", "de"]')
>>> in_python.parts == on_a_command_line.parts
True
>>> in_python.matches({"source": "wiki", "year": 2004, "lang": "de"})
True

**Operators** are ``= != < <= > >= in not-in contains starts ends exists`` (in strings ``not in``; and ``exists`` stands
before the field). In dicts a plain value means ``=``, a list means ``in``, and several keys must all hold. ``and`` and
``or`` (lists of dicts) and ``not`` (a dict) combine; in strings ``not`` binds closest, then ``and``, then ``or``.

**Fields** are keys, or paths such as ``author.name`` through nested objects; ``@id`` is the document's own id. A key
that contains a dot, is empty, begins with a quote, or is ``@id``, ``and``, ``or`` or ``not``, is written as a JSON
string: ``{'"and"': 1, 'author."full.name"': "x"}``. In strings, so is the name of an operator and any key with
characters beyond letters, digits and ``_ - $ : / # @``.

**Types are strict.** A string never equals a number, ``true`` is not 1, and comparing different types is false. A field
that holds a list matches when any element does. A field that is missing or null equals nothing; ``!=`` and ``not-in``
are the exact opposites of ``=`` and ``in``, so documents without the field do match those. Strings are compared by
code point and with regard to case. Integers beyond 64 bits count as floats.

Whatever a user wrote reaches SQLite as a bound parameter, names of fields included.
"""

from __future__ import annotations

import json
import operator as compare
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput, setting
from siftlm.memory import filter_parser
from siftlm.memory.filter_sql import SqlCondition, field_condition, id_condition, join_conditions, negate

MAX_CONDITIONS = 500
MAX_VALUES = 10_000
# The stack of SQLite's parser holds 100.
MAX_FILTER_DEPTH = 16
MAX_PATH_STEPS = 16

_NEGATED_OPERATORS = {"!=": "=", "not-in": "in"}
_ORDER_OPERATORS = ("<", "<=", ">", ">=")
_TEXT_OPERATORS = ("contains", "starts", "ends")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": compare.eq,
    "in": compare.eq,
    "<": compare.lt,
    "<=": compare.le,
    ">": compare.gt,
    ">=": compare.ge,
    "contains": compare.contains,
    "starts": str.startswith,
    "ends": str.endswith,
}
_QUOTED_KEY = r'"(?:[^"\\]|\\.)*"'
_PATH_STEP = re.compile(rf'({_QUOTED_KEY}|[^".][^.]*)(\.(?=.)|\Z)', re.DOTALL)


class Expression(ABC):
    """A filter, as `parse` returns it; printed, it is the string that means the same."""

    @abstractmethod
    def matches(self, meta: Mapping[str, Any], id: str | None = None) -> bool:  # noqa: A002
        """Whether a document with this metadata and id meets the filter."""

    @abstractmethod
    def sql(self, meta: str = "meta", id: str = "key") -> SqlCondition:  # noqa: A002
        """The filter for SQLite, over a column of JSON objects (NULL is an empty one) and a TEXT column of ids.

        The names of the columns come from the program, never from a user; qualify them where tables are joined.
        """


@dataclass(frozen=True)
class All(Expression):
    """Every part holds; without parts, every document meets it."""

    parts: tuple[Expression, ...] = ()

    def matches(self, meta: Mapping[str, Any], id: str | None = None) -> bool:  # noqa: A002
        return all(part.matches(meta, id) for part in self.parts)

    def sql(self, meta: str = "meta", id: str = "key") -> SqlCondition:  # noqa: A002
        return (
            join_conditions("AND", [part.sql(meta, id) for part in self.parts]) if self.parts else SqlCondition("1", [])
        )

    def __str__(self) -> str:
        return " and ".join(map(_enclosed, self.parts))


@dataclass(frozen=True)
class Either(Expression):
    """At least one part holds."""

    parts: tuple[Expression, ...]

    def matches(self, meta: Mapping[str, Any], id: str | None = None) -> bool:  # noqa: A002
        return any(part.matches(meta, id) for part in self.parts)

    def sql(self, meta: str = "meta", id: str = "key") -> SqlCondition:  # noqa: A002
        return join_conditions("OR", [part.sql(meta, id) for part in self.parts])

    def __str__(self) -> str:
        return " or ".join(map(_enclosed, self.parts))


@dataclass(frozen=True)
class Not(Expression):
    """The part does not hold."""

    part: Expression

    def matches(self, meta: Mapping[str, Any], id: str | None = None) -> bool:  # noqa: A002
        return not self.part.matches(meta, id)

    def sql(self, meta: str = "meta", id: str = "key") -> SqlCondition:  # noqa: A002
        return negate(self.part.sql(meta, id))

    def __str__(self) -> str:
        return f"not {_enclosed(self.part)}"


@dataclass(frozen=True)
class Condition(Expression):
    """One field against one value, or against several for ``in`` and ``not-in``."""

    path: tuple[str, ...]
    """The keys from the outside in; ``()`` is the document's own id."""
    operator: str
    value: Any
    """A string, an int of 64 bits, a float or a bool, or a tuple of them; ``True`` for ``exists``."""

    def matches(self, meta: Mapping[str, Any], id: str | None = None) -> bool:  # noqa: A002
        present = _look_up(meta, self.path) if self.path else id
        if self.operator == "exists":
            return present is not None
        check = _COMPARISONS[_NEGATED_OPERATORS.get(self.operator, self.operator)]
        some = any(
            _kind(value) == _kind(operand) and check(_narrow(value), operand)
            for value in (present if isinstance(present, (list, tuple)) else [present])
            for operand in (self.value if isinstance(self.value, tuple) else [self.value])
        )
        return some != (self.operator in _NEGATED_OPERATORS)

    def sql(self, meta: str = "meta", id: str = "key") -> SqlCondition:  # noqa: A002
        operator = _NEGATED_OPERATORS.get(self.operator, self.operator)
        if self.path:
            test = field_condition(self.path, operator, self.value, meta)
        else:
            test = id_condition(operator, self.value, id)
        return negate(test) if self.operator in _NEGATED_OPERATORS else test

    def __str__(self) -> str:
        path = ".".join(map(_quoted_step, self.path)) if self.path else "@id"
        if self.operator == "exists":
            return f"exists {path}"
        return f"{path} {self.operator.replace('-', ' ')} {json.dumps(self.value, ensure_ascii=False)}"


def parse(where: Mapping[str, Any] | str | Expression | None) -> Expression:
    """Read either spelling; every document meets ``None``, ``{}`` and an empty string.

    >>> print(parse({"tags": {"!=": "old"}, "or": [{"year": {">": 2000}}, {"not": {"year": {"exists": True}}}]}))
    tags != "old" and (year > 2000 or not exists year)
    >>> parse("year > 2000 and source wiki")
    Traceback (most recent call last):
    siftlm.errors.InvalidInput: where, column 24: expected one of = != < <= > >= in, not in, contains, starts, ends
      year > 2000 and source wiki
                             ^
    """
    if isinstance(where, Expression):
        return where
    if isinstance(where, str):
        where = filter_parser.parse_text(where)
    if where is None or (isinstance(where, dict) and not where):
        return All()
    expression = _of_dict(where, 1)
    conditions = sum(1 for _ in _conditions(expression))
    if conditions > MAX_CONDITIONS:
        raise InvalidInput(
            f"{setting('where')} has {conditions:,} conditions, more than {MAX_CONDITIONS}; use in for many values"
        )
    return expression


def _of_dict(where: Any, depth: int) -> Expression:
    if not isinstance(where, Mapping) or not where:
        raise InvalidInput(f"{setting('where')}: expected a dict such as {{'source': 'wiki'}}, not {_short(where)}")
    if depth > MAX_FILTER_DEPTH:
        raise InvalidInput(f"{setting('where')} is nested more than {MAX_FILTER_DEPTH} deep")
    return _all([_of_entry(key, value, depth) for key, value in where.items()])


def _of_entry(key: Any, value: Any, depth: int) -> Expression:
    if key == "not":
        return Not(_of_dict(value, depth + 1))
    if key in ("and", "or"):
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidInput(f"{setting('where')}: {key!r} needs a list of dicts, at least one, not {_short(value)}")
        parts = [_of_dict(part, depth + 1) for part in value]
        return _all(parts) if key == "and" or len(parts) == 1 else Either(tuple(parts))
    path = _path(key)
    if not isinstance(value, Mapping):
        return _condition(key, path, "in" if isinstance(value, (list, tuple)) else "=", value)
    if not value:
        raise InvalidInput(f"{setting('where')}: {key!r} needs an operator, such as {{{key!r}: {{'>=': 2000}}}}")
    return _all([_condition(key, path, operator, operand) for operator, operand in value.items()])


def _condition(key: str, path: tuple[str, ...], operator: Any, value: Any) -> Expression:
    if operator == "exists":
        if not isinstance(value, bool):
            raise InvalidInput(f"{setting('where')}: 'exists' of {key!r} is True or False, not {_short(value)}")
        there = Condition(path, "exists", True)
        return there if value else Not(there)
    if operator in ("in", "not-in"):
        if not isinstance(value, (list, tuple)) or len(value) > MAX_VALUES:
            raise InvalidInput(
                f"{setting('where')}: {operator!r} of {key!r} needs a list of at most {MAX_VALUES:,} values"
            )
        return Condition(path, operator, tuple(_scalar(key, one) for one in value))
    if operator not in (*_COMPARISONS, *_NEGATED_OPERATORS):
        known = " ".join([*_COMPARISONS, *_NEGATED_OPERATORS, "exists"])
        raise InvalidInput(
            f"{setting('where')}: {key!r} has the unknown operator {_short(operator)}; known are {known}. "
            f"For a nested field write {f'{key}.{operator}'!r}"
        )
    operand = _scalar(key, value)
    if operator in _TEXT_OPERATORS and not isinstance(operand, str):
        raise InvalidInput(f"{setting('where')}: {operator!r} of {key!r} needs a string, not {_short(value)}")
    if operator in _ORDER_OPERATORS and isinstance(operand, bool):
        raise InvalidInput(f"{setting('where')}: {operator!r} of {key!r} needs a number or a string, not {operand}")
    return Condition(path, operator, operand)


def _scalar(key: str, value: Any) -> Any:
    """A value in plain Python types that JSON and SQLite can both hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        raise InvalidInput(f"{setting('where')}: nothing equals null; ask for {{{key!r}: {{'exists': False}}}}")
    if isinstance(value, str):
        return _storable_text(str(value))
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        number = _narrow(value)
        if np.isfinite(number):
            return number if isinstance(number, int) else float(number)
    raise InvalidInput(
        f"{setting('where')}: {key!r} is compared with {_short(value)}; it must be a string, finite number or bool"
    )


def _path(key: Any) -> tuple[str, ...]:
    if not isinstance(key, str):
        raise InvalidInput(f"{setting('where')}: a field is a string, not {_short(key)}")
    if key == "@id":
        return ()
    path: list[str] = []
    at = 0
    while at < len(key) or not path:
        step = _PATH_STEP.match(key, at)
        if step is None:
            raise InvalidInput(
                f"{setting('where')}: {_short(key)} is no field; a key that is empty, holds a dot or begins with a "
                f"quote is written as a JSON string: {json.dumps(key, ensure_ascii=False)!r}"
            )
        path.append(_unquoted(step[1]))
        at = step.end()
    if len(path) > MAX_PATH_STEPS:
        raise InvalidInput(f"{setting('where')}: the field {_short(key)} is nested more than {MAX_PATH_STEPS} deep")
    return tuple(path)


def _unquoted(step: str) -> str:
    if not step.startswith('"'):
        return _storable_text(step)
    try:
        return _storable_text(str(json.loads(step, strict=False)))
    except ValueError as error:
        raise InvalidInput(f"{setting('where')}: in the field {_short(step)}: {error}") from None


def _storable_text(text: str) -> str:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidInput(
            f"{setting('where')}: {_short(text)} holds a NUL or half of a surrogate pair, which no store can hold"
        )
    return text


def _quoted_step(key: str) -> str:
    bare = filter_parser.BARE_KEY.fullmatch(key) and key.lower() not in filter_parser.RESERVED_WORDS and key != "@id"
    return key if bare else json.dumps(key, ensure_ascii=False)


def _all(parts: list[Expression]) -> Expression:
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _enclosed(part: Expression) -> str:
    return f"({part})" if isinstance(part, (All, Either)) else str(part)


def _conditions(expression: Expression) -> Iterator[Condition]:
    if isinstance(expression, Condition):
        yield expression
    elif isinstance(expression, Not):
        yield from _conditions(expression.part)
    elif isinstance(expression, (All, Either)):
        for part in expression.parts:
            yield from _conditions(part)


def _look_up(meta: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(meta, Mapping) or key not in meta:
            return None
        meta = meta[key]
    return meta


def _kind(value: Any) -> str | None:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "text" if isinstance(value, str) else None


def _narrow(value: Any) -> Any:
    """Integers that SQLite cannot hold become floats."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return value


def _short(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:  # an integer of thousands of digits
        shown = type(value).__name__
    return shown if len(shown) <= 60 else shown[:59] + "…"
