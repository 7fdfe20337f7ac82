"""How a text is taken apart."""

from __future__ import annotations

import pytest

from siftlm.errors import InvalidInput, UnknownName
from siftlm.evaluation import Protocol

TEXT = "The train left at noon, and nobody was on it; that was a pity.\n"


@pytest.mark.parametrize("protocol", [Protocol("split"), Protocol("prefix", prefix=5), Protocol("prefix", prefix=40)])
def test_prompt_and_rest_are_the_text(protocol):
    parts = protocol.parts(TEXT)
    assert parts.prompt + parts.scored == TEXT
    assert parts.before == parts.prompt
    assert parts.scored[0].isspace()
    assert parts.scored.strip()
    assert parts.prompt.strip()
    if protocol.name == "prefix":
        assert protocol.prefix <= len(parts.prompt) < protocol.prefix + 10


def test_a_transductive_prompt_is_what_is_scored_and_nothing_is_read_before():
    parts = Protocol("transductive").parts(TEXT)
    assert (parts.prompt, parts.scored, parts.before) == (TEXT, TEXT, "")


@pytest.mark.parametrize(
    ("protocol", "text", "fits"),
    [
        (Protocol("split"), "word", False),
        (Protocol("split"), "two words", True),
        (Protocol("split"), "word   \n", False),
        (Protocol("prefix", prefix=500), TEXT, False),
        (Protocol("prefix", prefix=len(TEXT) - 2), TEXT, False),
        (Protocol("prefix", prefix=1), "a b", True),
        (Protocol("transductive"), "word", True),
    ],
)
def test_which_texts_are_long_enough(protocol, text, fits):
    assert protocol.fits(text) is fits


def test_points():
    assert Protocol().points == (1, 2, 5, 10, 20, 50)
    assert Protocol(n=7).points == (1, 2, 5, 7)
    assert Protocol(n=1).points == (1,)
    assert Protocol(n=9, at=(3, 9, 3)).points == (3, 9)


def test_what_is_written_down_is_what_matters():
    assert Protocol(prefix=7).to_dict() == Protocol(prefix=8).to_dict()
    assert Protocol("prefix", prefix=7).to_dict() != Protocol("prefix", prefix=8).to_dict()
    assert Protocol(n=5).to_dict() == Protocol(n=5, at=(1, 2)).to_dict()


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"name": "halves"}, UnknownName, "unknown protocol 'halves'"),
        ({"copies": "no"}, UnknownName, "unknown copies"),
        ({"n": 0}, InvalidInput, "n must be"),
        ({"n": 2.5}, InvalidInput, "n must be"),
        ({"n": 5, "at": (6,)}, InvalidInput, "at=6: there are only n=5 steps"),
        ({"at": (0,)}, InvalidInput, "each of at"),
        ({"prefix": -1}, InvalidInput, "prefix must be"),
    ],
)
def test_wrong_protocols(wrong, error, said):
    with pytest.raises(error, match=said):
        Protocol(**wrong)
