"""A metadata filter means the same in Python and in SQLite, whatever is in it and however it is spelled."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory.filters import MAX_CONDITIONS, MAX_FILTER_DEPTH, MAX_VALUES, All, Condition, Either, Not, parse

NASTY = [
    "'",
    '"',
    "`",
    "a.b",
    "$",
    "[0]",
    "%",
    "_",
    "é",
    "É",
    "e\u0301",
    "\n",
    "\\",
    "🙂",
    "",
    "a b",
    "--",
    "true",
    "1",
    "a",
]
KEYS = st.sampled_from(["a", "b", "year", "and", "or", "not", "in", "exists", "@id", "key", "value", "A", *NASTY])
# Few different values, so that some are equal.
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.sampled_from("aAbé%_'\"\\🙂"), max_size=3))
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.0, -0.0, 1.0, 0.1, 1e-300, 1e300, 0.1 + 0.2, 2**53, 2**53 + 1, float(2**53), 2**63 - 1]),
    st.sampled_from([-(2**63), 2**63, 2**64, -(2**70), 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
VALUES = st.recursive(
    st.one_of(st.none(), SCALARS, st.sampled_from(['{"a": 1}', "[1]", "{"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
METAS = st.dictionaries(KEYS, VALUES, max_size=4)
PATHS = st.one_of(st.just(()), st.lists(KEYS, min_size=1, max_size=3).map(tuple))


def conditions() -> st.SearchStrategy[Condition]:
    def condition(path: tuple[str, ...], operator: str) -> st.SearchStrategy[Condition]:
        if operator == "exists":
            return st.just(Condition(path, operator, True))
        if operator in ("in", "not-in"):
            return st.lists(SCALARS, max_size=4).map(lambda values: Condition(path, operator, narrow(tuple(values))))
        allowed = {"=": SCALARS, "!=": SCALARS, "contains": TEXTS, "starts": TEXTS, "ends": TEXTS}
        orders = st.one_of(TEXTS, NUMBERS)
        return allowed.get(operator, orders).map(lambda value: Condition(path, operator, narrow(value)))

    operators = ["=", "!=", "<", "<=", ">", ">=", "in", "not-in", "contains", "starts", "ends", "exists"]
    return st.tuples(PATHS, st.sampled_from(operators)).flatmap(lambda both: condition(*both))


def narrow(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(narrow, value))
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


EXPRESSIONS = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Either(tuple(parts))),
    ),
    max_leaves=5,
)


@contextmanager
def table(metas: list[dict[str, Any] | None], ids: list[str | None], ascii_only: bool) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE documents (row INTEGER, key TEXT, meta TEXT)")
    for row, (meta, name) in enumerate(zip(metas, ids, strict=True)):
        written = None if meta is None else json.dumps(meta, ensure_ascii=ascii_only)
        database.execute("INSERT INTO documents VALUES (?, ?, ?)", (row, name, written))
    yield database
    database.close()


def found(database: sqlite3.Connection, where: Any) -> list[int]:
    sql = parse(where).sql()
    query = f"SELECT row FROM documents WHERE {sql.condition} ORDER BY row"
    return [row for (row,) in database.execute(query, sql.parameters)]


IDS = st.one_of(st.none(), TEXTS, st.sampled_from(["1", "doc-7"]))


@given(st.lists(st.tuples(st.one_of(st.none(), METAS), IDS), max_size=5), EXPRESSIONS, st.booleans())
def test_sqlite_and_python_agree(rows, expression, ascii_only):
    metas, ids = [meta for meta, _ in rows], [name for _, name in rows]
    with table(metas, ids, ascii_only) as database:
        expected = [n for n, (meta, name) in enumerate(rows) if expression.matches(meta or {}, name)]
        assert found(database, expression) == expected


@given(st.data())
def test_they_agree_about_a_field_that_is_there(data):
    """As above, but with expressions made for the document: random ones seldom hit."""
    meta = data.draw(METAS.filter(bool))
    path, value = [], meta
    while isinstance(value, dict) and value:
        path.append(data.draw(st.sampled_from(sorted(value))))
        value = value[path[-1]]
    some = value[0] if isinstance(value, list) and value else value
    condition = data.draw(conditions())
    operator = condition.operator
    wanted = condition.value
    if isinstance(some, str) and operator in ("contains", "starts", "ends", "=", "<="):
        start = data.draw(st.integers(0, len(some)))
        wanted = some[start:] if operator == "ends" else some if operator in ("=", "<=") else some[:start]
    elif isinstance(some, (int, float)) and operator in ("=", "!="):
        wanted = narrow(some)
    expression = Condition(tuple(path), operator, wanted)
    with table([meta], [None], data.draw(st.booleans())) as database:
        assert (found(database, expression) == [0]) == expression.matches(meta)
        if operator == "=" and isinstance(some, (str, int, float)):
            assert expression.matches(meta) or isinstance(some, int) != isinstance(wanted, int)


@given(EXPRESSIONS)
def test_the_printed_string_reads_back(expression):
    assert repr(parse(str(expression))) == repr(expression)


@given(st.text(st.sampled_from("ab=<>!()[],.\"'\\ 1-e@notrixsd\n"), max_size=30))
def test_any_string_is_read_or_refused_with_a_place(text):
    problem = ""
    try:
        again = parse(text)
    except InvalidInput as error:
        problem = str(error)
    assert problem.startswith("where") if problem else repr(parse(str(again))) == repr(again)


DOCUMENTS = [
    {"source": "wiki", "year": 2004, "lang": "en", "tags": ["x", "y"], "author": {"name": "Ada", "a.b": 1}},
    {"source": "web", "year": 2010.5, "lang": "de", "draft": True, "tags": []},
    {"source": "web", "year": "2004", "draft": None, "100%": "50_%", "and": 1},
    None,
]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (None, [0, 1, 2, 3]),
        ({}, [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
        ({"source": "web"}, [1, 2]),
        ("year = 2004", [0]),
        ('year = "2004"', [2]),
        ("year >= 2000", [0, 1]),
        ('year >= "2"', [2]),
        ({"year": {">": 2004, "<=": 2010.5}}, [1]),
        ("draft = true", [1]),
        ("draft = 1", []),
        ("exists draft", [1]),
        ({"draft": {"exists": False}}, [0, 2, 3]),
        ('source != "web"', [0, 3]),
        ('not source = "web"', [0, 3]),
        ('lang not in ["en"]', [1, 2, 3]),
        ({"lang": ["en", "de"]}, [0, 1]),
        ({"lang": []}, []),
        ('tags = "x"', [0]),
        ('tags != "x"', [1, 2, 3]),
        ("exists tags", [0, 1]),
        ('author.name starts "A"', [0]),
        ('author.name starts "a"', []),
        ('author."a.b" = 1', [0]),
        ({'author."a.b"': 1}, [0]),
        ({"author.a.b": 1}, []),
        ('"100%" ends "_%"', [2]),
        ("\"100%\" contains '0%'", []),
        ({"100%": {"contains": "%"}}, [2]),
        ('"and" = 1 AND NOT exists lang', [2]),
        ('@id = "d1"', [1]),
        ({"@id": ["d0", "d2", 3]}, [0, 2]),
        ({"@id": 1}, []),
        ("not exists @id", [3]),
        ('source = "wiki" or source = "web" and year > 1', [0, 1]),
        ('(source = "wiki" or source = "web") and not year > 1', [2]),
        ({"or": [{"source": "wiki"}, {"not": {"year": {"exists": True}}}], "lang": "en"}, [0]),
        ({"year": np.int64(2004), "source": np.str_("wiki")}, [0]),
    ],
)
def test_what_is_meant(where, rows):
    with table(DOCUMENTS, ["d0", "d1", "d2", None], False) as database:
        assert found(database, where) == rows
    expression = parse(where)
    names = ["d0", "d1", "d2", None]
    assert [n for n in range(4) if expression.matches(DOCUMENTS[n] or {}, names[n])] == rows


@pytest.mark.parametrize(
    "evil", ["'; DROP TABLE documents; --", '" OR 1=1 --', "') OR ('1'='1", "a' OR 'a'='a", '$."a"', "x\\' OR 1", "?1"]
)
def test_nothing_that_is_given_becomes_sql(evil):
    with table([{"a": "b"}, {"a": evil}, {evil: 1}], ["1", evil, None], False) as database:
        assert found(database, {"a": evil}) == [1]
        assert found(database, {"a": [evil, evil + "x"]}) == [1]
        assert found(database, {"@id": evil}) == [1]
        assert found(database, {json.dumps(evil): 1}) == [2]
        assert found(database, f"a = {json.dumps(evil)} or {json.dumps(evil)} = 1") == [1, 2]
        assert found(database, {"a": {"contains": evil}}) == [1]
        for where in ({"a": evil}, {json.dumps(evil): 1}, {"@id": evil}, {f"x.{json.dumps(evil)}": {"exists": True}}):
            assert evil not in parse(where).sql().condition.replace("?", "") or evil == "?1"
        assert database.execute("SELECT count(*) FROM documents").fetchone() == (3,)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("source wiki", "column 8: expected one of = "),
        ("source = wiki", 'text needs quotes: "wiki"'),
        ("source = ", "column 10: expected a value"),
        ('source = "wiki', "column 10: this quote is never closed"),
        ('source = "C:\\dir"', "column 10: a backslash"),
        ("year > 1 year < 3", "column 10: expected 'and', 'or' or the end"),
        ("(year > 1", "column 10: expected '\\)'"),
        ("year in 3", "column 9: expected '\\['"),
        ("year in [3 4]", "column 12: expected ','"),
        ("and = 3", 'column 1: expected a field; if one is called and, write "and"'),
        ("a not = 3", "column 7: expected 'in'"),
        ("a = null", "use 'exists field'"),
        ("a = 1e999", "finite number"),
        ("a = " + "9" * 5000, "finite number"),
        ("(" * 5000, "column 61: nested too deeply"),
        ("not " * 5000, "nested too deeply"),
        ("a < true", "needs a number or a string"),
        ({"a": None}, "nothing equals null"),
        ({"a": {"b": 1}}, "For a nested field write 'a.b'"),
        ({"a": {}}, "needs an operator"),
        ({"a": {"contains": 3}}, "needs a string"),
        ({"a": {"exists": 1}}, "True or False"),
        ({"a": {"in": "x"}}, "needs a list"),
        ({"a": float("nan")}, "finite number"),
        ({"a": 10**5000}, "finite number"),
        ({"a": {"=": [1]}}, "must be a string"),
        ({"a": "x\0"}, "NUL"),
        ({"\ud800": 1}, "surrogate"),
        ({"": 1}, "is no field; .* '\"\"'"),
        ({"a.": 1}, "is no field"),
        ({'"a': 1}, "is no field"),
        ({3: 1}, "a field is a string"),
        ({"not": {}}, "expected a dict"),
        ({"or": []}, "at least one"),
        ({"and": {"a": 1}}, "list of dicts"),
        (["a"], "expected a dict"),
        ({"a": [1] * (MAX_VALUES + 1)}, "at most 10,000"),
        ({"or": [{"a": 1}] * (MAX_CONDITIONS + 1)}, "has 501 conditions"),
        ({".".join("a" * 17): 1}, "more than 16 deep"),
        ("a" * 2_000_000, "2,000,000 characters"),
    ],
)
def test_what_is_wrong_is_said(where, message):
    with pytest.raises(InvalidInput, match=message):
        parse(where)


def test_the_hint_stands_under_the_mistake():
    with pytest.raises(InvalidInput) as caught:
        parse('first = "' + "x" * 200 + '"\nand second like "y"')
    line, hint = str(caught.value).splitlines()[1:]
    assert line[hint.index("^") :].startswith('like "y"')


def test_the_largest_and_deepest_that_are_read_are_also_run():
    deep: dict[str, Any] = {"ü.x": [1, "a", 2.5, True]}
    for level in range(MAX_FILTER_DEPTH - 1):
        deep = {"not": deep} if level % 2 else {"or": [{"a": 1}, deep]}
    longest = {".".join(["ü"] * 16): {"!=": 2.5}}
    with table(DOCUMENTS, ["d0", "d1", "d2", None], False) as database:
        for where in (deep, longest, {"a": list(range(MAX_VALUES))}, {"é": ["x"] * MAX_VALUES}):
            expected = [n for n, meta in enumerate(DOCUMENTS) if parse(where).matches(meta or {})]
            assert found(database, where) == expected
        for word in ("and", "or"):
            assert found(database, {word: [{f"ü{n}": {"!=": n}} for n in range(MAX_CONDITIONS)]}) == [0, 1, 2, 3]
    with pytest.raises(InvalidInput, match="nested"):
        parse({"not": {"not": deep}})


def test_an_index_on_the_ids_is_used():
    with table(DOCUMENTS, ["d0", "d1", "d2", None], False) as database:
        database.execute("CREATE INDEX by_key ON documents (key)")
        for where in ({"@id": "d1"}, {"@id": ["d1", "d2"]}):
            sql = parse(where).sql()
            plan = database.execute(f"EXPLAIN QUERY PLAN SELECT * FROM documents WHERE {sql.condition}", sql.parameters)
            assert any("by_key" in row[-1] for row in plan)


def test_columns_can_be_qualified():
    with table(DOCUMENTS, ["d0", "d1", "d2", None], False) as database:
        sql = parse('"ü" = 1 or lang = "de" or @id = "d2"').sql("d.meta", "d.key")
        query = f"SELECT d.row FROM documents AS d, documents AS e WHERE e.row = 0 AND {sql.condition} ORDER BY d.row"
        assert database.execute(query, sql.parameters).fetchall() == [(1,), (2,)]
