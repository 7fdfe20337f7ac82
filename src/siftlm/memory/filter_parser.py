"""The parser from the string spelling of a `siftlm.memory.filters` expression to the dict spelling."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from siftlm.errors import InvalidInput, setting

MAX_FILTER_CHARACTERS = 1_000_000
# Far deeper than a filter may be nested, and far below the depth of Python's stack.
_MAX_PARSER_DEPTH = 60
_SHOWN_CHARACTERS = 30

RESERVED_WORDS = frozenset(["and", "or", "not", "in", "contains", "starts", "ends", "exists", "true", "false", "null"])
BARE_KEY = re.compile(r"[\w$:/#@-]+")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_STEP_PATTERN = rf"(?:{_QUOTED}|{BARE_KEY.pattern})"
_FIELD = re.compile(rf"{_STEP_PATTERN}(?:\.{_STEP_PATTERN})*", re.DOTALL)
_STRING = re.compile(rf"{_QUOTED}|'(?:[^'\\]|\\.)*'", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])", re.ASCII)
_SIGN = re.compile(r"!=|<=|>=|=|<|>")
_SPACE = re.compile(r"\s*")


def parse_text(text: str) -> dict[str, Any]:
    """The dict that means the same; empty for an empty string.

    >>> parse_text("year >= 2000 and not exists draft")
    {'and': [{'year': {'>=': 2000}}, {'not': {'draft': {'exists': True}}}]}
    """
    if len(text) > MAX_FILTER_CHARACTERS:
        raise InvalidInput(
            f"{setting('where')} has {len(text):,} characters; at most {MAX_FILTER_CHARACTERS:,} are read"
        )
    return _FilterParser(text).read()


class _FilterParser:
    """Recursive descent: a method for each rule, each leaving `_at` behind what it read and the spaces after it."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._take(_SPACE)

    def read(self) -> dict[str, Any]:
        if self._at == len(self._text):
            return {}
        parsed = self._either()
        if self._at < len(self._text):
            self._fail("expected 'and', 'or' or the end")
        return parsed

    def _either(self) -> dict[str, Any]:
        parts = [self._all()]
        while self._word("or"):
            parts.append(self._all())
        return {"or": parts} if len(parts) > 1 else parts[0]

    def _all(self) -> dict[str, Any]:
        parts = [self._one()]
        while self._word("and"):
            parts.append(self._one())
        return {"and": parts} if len(parts) > 1 else parts[0]

    def _one(self) -> dict[str, Any]:
        self._depth += 1
        if self._depth > _MAX_PARSER_DEPTH:
            self._fail("nested too deeply")
        try:
            if self._word("not"):
                return {"not": self._one()}
            if self._word("exists"):
                return {self._field(): {"exists": True}}
            if self._sign("("):
                inner = self._either()
                self._expect(")")
                return inner
            return self._test()
        finally:
            self._depth -= 1

    def _test(self) -> dict[str, Any]:
        field = self._field()
        if self._word("not"):
            if not self._word("in"):
                self._fail("expected 'in' after 'not'")
            return {field: {"not-in": self._list()}}
        if self._word("in"):
            return {field: {"in": self._list()}}
        for word in ("contains", "starts", "ends"):
            if self._word(word):
                return {field: {word: self._value()}}
        sign = self._take(_SIGN)
        if sign is None:
            self._fail("expected one of = != < <= > >= in, not in, contains, starts, ends")
        return {field: {sign: self._value()}}

    def _field(self) -> str:
        word = BARE_KEY.match(self._text, self._at)
        if word and word[0].lower() in RESERVED_WORDS:
            self._fail(f'expected a field; if one is called {word[0]}, write "{word[0]}"')
        field = self._take(_FIELD)
        if field is None:
            self._fail("expected a field")
        return field

    def _list(self) -> list[Any]:
        self._expect("[")
        values: list[Any] = []
        while not self._sign("]"):
            if values:
                self._expect(",")
            values.append(self._value())
        return values

    def _value(self) -> Any:
        began = self._at
        string = self._take(_STRING)
        if string is not None:
            return self._string(string, began)
        number = self._take(_NUMBER)
        if number is not None:
            return int(number) if number.lstrip("-").isdigit() and len(number) < 300 else float(number)
        if self._word("true"):
            return True
        if self._word("false"):
            return False
        return self._no_value()

    def _string(self, string: str, began: int) -> str:
        try:
            return str(json.loads(_with_double_quotes(string), strict=False))
        except ValueError:
            self._fail("a backslash in this text begins no escape that is known; write two of them", began)

    def _no_value(self) -> NoReturn:
        word = BARE_KEY.match(self._text, self._at)
        if word and word[0].lower() == "null":
            self._fail("nothing equals null; use 'exists field' or 'not exists field'")
        if word:
            self._fail(f'text needs quotes: "{word[0]}"')
        if self._text[self._at : self._at + 1] in ('"', "'"):
            self._fail("this quote is never closed")
        self._fail("expected a value: text in quotes, a number, true or false")

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        token = pattern.match(self._text, self._at)
        if token is None:
            return None
        self._at = token.end()
        if pattern is not _SPACE:
            self._take(_SPACE)
        return token[0]

    def _word(self, word: str) -> bool:
        token = BARE_KEY.match(self._text, self._at)
        return bool(token and token[0].lower() == word and self._take(BARE_KEY))

    def _sign(self, sign: str) -> bool:
        return self._text.startswith(sign, self._at) and self._take(re.compile(re.escape(sign))) is not None

    def _expect(self, sign: str) -> None:
        if not self._sign(sign):
            self._fail(f"expected {sign!r}")

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        first = max(0, at - _SHOWN_CHARACTERS)
        line = re.sub(r"\s", " ", self._text[first : at + _SHOWN_CHARACTERS])
        raise InvalidInput(f"{setting('where')}, column {at + 1}: {problem}\n  {line}\n  {' ' * (at - first)}^")


def _with_double_quotes(string: str) -> str:
    if string[0] == '"':
        return string
    changed = {"\\'": "'", '"': '\\"'}
    return '"' + re.sub(r'\\.|"', lambda part: changed.get(part[0], part[0]), string[1:-1], flags=re.DOTALL) + '"'
