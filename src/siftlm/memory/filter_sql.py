"""One test of a `siftlm.memory.filters` expression, as a condition for SQLite 3.37 and later."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NUMBER_TYPES = ("integer", "real")
_EASY_KEY = re.compile("[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class SqlCondition:
    """A condition, never NULL, and the values of its question marks, in order."""

    condition: str
    parameters: list[Any]


def join_conditions(word: str, parts: list[SqlCondition]) -> SqlCondition:
    """The conditions between parentheses, joined by ``word``."""
    condition = f" {word} ".join(part.condition for part in parts)
    return SqlCondition(f"({condition})", [one for part in parts for one in part.parameters])


def negate(sql: SqlCondition) -> SqlCondition:
    """The opposite condition."""
    return SqlCondition(f"(NOT {sql.condition})", sql.parameters)


def id_condition(operator: str, operand: Any, column: str) -> SqlCondition:
    """A test of a TEXT column that can use an index on it."""
    if operator == "exists":
        return SqlCondition(f"({column} IS NOT NULL)", [])
    check = _checks(operator, operand, SqlCondition(column, [])).get("text")
    return (
        SqlCondition(f"({column} IS NOT NULL AND {check.condition})", check.parameters)
        if check
        else SqlCondition("(0)", [])
    )


def field_condition(path: tuple[str, ...], operator: str, operand: Any, meta: str) -> SqlCondition:
    """A test of the value at a path in a column of JSON objects."""
    if all(_EASY_KEY.fullmatch(key) for key in path):
        place = ["$" + "".join(f'."{key}"' for key in path)]
        kind, value = SqlCondition(f"json_type({meta}, ?)", place), SqlCondition(f"json_extract({meta}, ?)", place)
        if operator == "exists":
            return SqlCondition(f"(COALESCE({kind.condition}, 'null') <> 'null')", place)
        return _any(operator, operand, kind, value)
    return _nested_condition(path, operator, operand, meta)


def _nested_condition(path: tuple[str, ...], operator: str, operand: Any, meta: str) -> SqlCondition:
    # SQLite's own paths cannot hold every key: no quotes, no empty ones, and escapes are compared as they are
    # written. So we go down from object to object, and into objects only: a string may look like JSON, too.
    steps = [f"json_each({meta}) AS where_0"]
    for depth in range(1, len(path)):
        outer = f"where_{depth - 1}"
        steps.append(f"json_each(CASE {outer}.type WHEN 'object' THEN {outer}.value END) AS where_{depth}")
    keys = " AND ".join(f"where_{depth}.key = ?" for depth in range(len(path)))
    last = f"where_{len(path) - 1}"
    if operator == "exists":
        test = SqlCondition(f"{last}.type <> 'null'", [])
    else:
        test = _any(operator, operand, SqlCondition(f"{last}.type", []), SqlCondition(f"{last}.value", []))
    condition = f"EXISTS (SELECT 1 FROM {', '.join(steps)} WHERE {keys} AND {test.condition})"
    return SqlCondition(condition, [*path, *test.parameters])


def _any(operator: str, operand: Any, kind: SqlCondition, value: SqlCondition) -> SqlCondition:
    """The value passes, or it is a list and an element of it does."""
    if operand == ():
        return SqlCondition("(0)", [])
    element = _by_type(
        SqlCondition("where_item.type", []), _checks(operator, operand, SqlCondition("where_item.value", []))
    )
    elements = SqlCondition(
        f"EXISTS (SELECT 1 FROM json_each({value.condition}) AS where_item WHERE {element.condition})",
        [*value.parameters, *element.parameters],
    )
    return _by_type(kind, {**_checks(operator, operand, value), "array": elements})


def _by_type(kind: SqlCondition, checks: Mapping[str, SqlCondition]) -> SqlCondition:
    cases = " ".join(f"WHEN '{name}' THEN {check.condition}" for name, check in checks.items())
    parameters = [one for check in checks.values() for one in check.parameters]
    return SqlCondition(f"(CASE {kind.condition} {cases} ELSE 0 END)", [*kind.parameters, *parameters])


def _checks(operator: str, operand: Any, value: SqlCondition) -> dict[str, SqlCondition]:
    """The check of the value for each type that SQLite may report; other types fail."""

    def ask(template: str, *bound: Any) -> SqlCondition:
        return SqlCondition(template.format(value.condition), [*value.parameters, *bound])

    if isinstance(operand, tuple):
        return _memberships(operand, ask)
    if isinstance(operand, bool):
        return {str(operand).lower(): SqlCondition("1", [])}
    if isinstance(operand, str):
        return {"text": _text_check(operator, operand, ask)}
    # A float is bound as text: SQLite must read it by the rules, and with the rounding, by which it reads the JSON.
    number, bound = ("?", operand) if isinstance(operand, int) else ("CAST(? AS REAL)", repr(operand))
    return dict.fromkeys(NUMBER_TYPES, ask(f"{{}} {operator} {number}", bound))


def _text_check(operator: str, operand: str, ask: Callable[..., SqlCondition]) -> SqlCondition:
    if operator == "contains":
        return ask("instr({}, ?) > 0", operand)
    if operator in ("starts", "ends") and not operand:
        return SqlCondition("1", [])
    if operator == "starts":
        return ask("substr({}, 1, ?) = ?", len(operand), operand)
    if operator == "ends":
        return ask("substr({}, ?) = ?", -len(operand), operand)
    return ask(f"{{}} {operator} ?", operand)


def _memberships(operand: tuple[Any, ...], ask: Callable[..., SqlCondition]) -> dict[str, SqlCondition]:
    # One parameter for all of them, as SQLite limits their number.
    checks: dict[str, SqlCondition] = {}
    texts = [one for one in operand if isinstance(one, str)]
    numbers = [one for one in operand if isinstance(one, (int, float)) and not isinstance(one, bool)]
    for some, kinds in ((texts, ("text",)), (numbers, NUMBER_TYPES)):
        if some:
            among = ask("{} IN (SELECT value FROM json_each(?))", json.dumps(some, ensure_ascii=False))
            checks.update(dict.fromkeys(kinds, among))
    checks.update({str(one).lower(): SqlCondition("1", []) for one in operand if isinstance(one, bool)})
    return checks
