"""One test of a `siftlm.memory.where` expression, as a condition for SQLite 3.37 and later."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NUMBERS = ("integer", "real")
_EASY_KEY = re.compile("[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Sql:
    """A condition, never NULL, and what to bind to its question marks, in order."""

    condition: str
    parameters: list[Any]


def joined(word: str, parts: list[Sql]) -> Sql:
    """All of them between parentheses."""
    condition = f" {word} ".join(part.condition for part in parts)
    return Sql(f"({condition})", [one for part in parts for one in part.parameters])


def negated(sql: Sql) -> Sql:
    """The opposite."""
    return Sql(f"(NOT {sql.condition})", sql.parameters)


def ask_id(operator: str, wanted: Any, column: str) -> Sql:
    """A test of a TEXT column, such that an index on it is of use."""
    if operator == "exists":
        return Sql(f"({column} IS NOT NULL)", [])
    check = _checks(operator, wanted, Sql(column, [])).get("text")
    return Sql(f"({column} IS NOT NULL AND {check.condition})", check.parameters) if check else Sql("(0)", [])


def ask_field(path: tuple[str, ...], operator: str, wanted: Any, meta: str) -> Sql:
    """A test of what is at a path in a column of JSON objects."""
    if all(_EASY_KEY.fullmatch(key) for key in path):
        place = ["$" + "".join(f'."{key}"' for key in path)]
        kind, value = Sql(f"json_type({meta}, ?)", place), Sql(f"json_extract({meta}, ?)", place)
        if operator == "exists":
            return Sql(f"(COALESCE({kind.condition}, 'null') <> 'null')", place)
        return _any(operator, wanted, kind, value)
    return _ask_step_by_step(path, operator, wanted, meta)


def _ask_step_by_step(path: tuple[str, ...], operator: str, wanted: Any, meta: str) -> Sql:
    # SQLite's own paths cannot hold every key: no quotes, no empty ones, and escapes are compared as they are
    # written. So we go down from object to object, and into objects only: a string may look like JSON, too.
    steps = [f"json_each({meta}) AS where_0"]
    for depth in range(1, len(path)):
        outer = f"where_{depth - 1}"
        steps.append(f"json_each(CASE {outer}.type WHEN 'object' THEN {outer}.value END) AS where_{depth}")
    keys = " AND ".join(f"where_{depth}.key = ?" for depth in range(len(path)))
    last = f"where_{len(path) - 1}"
    if operator == "exists":
        test = Sql(f"{last}.type <> 'null'", [])
    else:
        test = _any(operator, wanted, Sql(f"{last}.type", []), Sql(f"{last}.value", []))
    condition = f"EXISTS (SELECT 1 FROM {', '.join(steps)} WHERE {keys} AND {test.condition})"
    return Sql(condition, [*path, *test.parameters])


def _any(operator: str, wanted: Any, kind: Sql, value: Sql) -> Sql:
    """The value passes, or it is a list and an element of it does."""
    if wanted == ():
        return Sql("(0)", [])
    element = _by_type(Sql("where_item.type", []), _checks(operator, wanted, Sql("where_item.value", [])))
    elements = Sql(
        f"EXISTS (SELECT 1 FROM json_each({value.condition}) AS where_item WHERE {element.condition})",
        [*value.parameters, *element.parameters],
    )
    return _by_type(kind, {**_checks(operator, wanted, value), "array": elements})


def _by_type(kind: Sql, checks: Mapping[str, Sql]) -> Sql:
    cases = " ".join(f"WHEN '{name}' THEN {check.condition}" for name, check in checks.items())
    parameters = [one for check in checks.values() for one in check.parameters]
    return Sql(f"(CASE {kind.condition} {cases} ELSE 0 END)", [*kind.parameters, *parameters])


def _checks(operator: str, wanted: Any, value: Sql) -> dict[str, Sql]:
    """What to ask of the value, by the type that SQLite finds it to have; other types fail."""

    def ask(template: str, *bound: Any) -> Sql:
        return Sql(template.format(value.condition), [*value.parameters, *bound])

    if isinstance(wanted, tuple):
        return _memberships(wanted, ask)
    if isinstance(wanted, bool):
        return {str(wanted).lower(): Sql("1", [])}
    if isinstance(wanted, str):
        return {"text": _text_check(operator, wanted, ask)}
    # A float is bound as text: SQLite must read it by the rules, and with the rounding, by which it reads the JSON.
    number, bound = ("?", wanted) if isinstance(wanted, int) else ("CAST(? AS REAL)", repr(wanted))
    return dict.fromkeys(NUMBERS, ask(f"{{}} {operator} {number}", bound))


def _text_check(operator: str, wanted: str, ask: Callable[..., Sql]) -> Sql:
    if operator == "contains":
        return ask("instr({}, ?) > 0", wanted)
    if operator in ("starts", "ends") and not wanted:
        return Sql("1", [])
    if operator == "starts":
        return ask("substr({}, 1, ?) = ?", len(wanted), wanted)
    if operator == "ends":
        return ask("substr({}, ?) = ?", -len(wanted), wanted)
    return ask(f"{{}} {operator} ?", wanted)


def _memberships(wanted: tuple[Any, ...], ask: Callable[..., Sql]) -> dict[str, Sql]:
    # One parameter for all of them, as SQLite limits their number.
    checks: dict[str, Sql] = {}
    texts = [one for one in wanted if isinstance(one, str)]
    numbers = [one for one in wanted if isinstance(one, (int, float)) and not isinstance(one, bool)]
    for some, kinds in ((texts, ("text",)), (numbers, NUMBERS)):
        if some:
            among = ask("{} IN (SELECT value FROM json_each(?))", json.dumps(some, ensure_ascii=False))
            checks.update(dict.fromkeys(kinds, among))
    checks.update({str(one).lower(): Sql("1", []) for one in wanted if isinstance(one, bool)})
    return checks
