"""A page as a person reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.memory.reading.textfile import extract_page


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Head</h1>\n  <p>One\n two.</p><p>Three.", "Head\n\nOne two.\n\nThree."),
        ("a<b>b</b>c <i> d</i>", "abc d"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<ul><li>a</li><li>b</li></ul>c", "- a\n- b\n\nc"),
        ("<table><tr><th>a<th>b<tr><td>1</td> <td>2</td></table>", "a\tb\n1\t2"),
        ("<pre>a\n  b\n</pre><p>c", "a\n  b\n\n\nc"),
        ("x&lt;y &eacute; &#8364;", "x<y é €"),
        ("<p>a<script>var x = '<p>no</p>';</script>b<style>p{}</style></p>", "ab"),
        ("<nav>no<nav>no</nav>no</nav>yes<footer>no</footer>", "yes"),
        ('<div role="navigation">no<div>no</div></div>yes<span hidden>no</span>', "yes"),
        ("<svg><title>no</title><path d=''/></svg>yes", "yes"),
        ("<!-- no -->yes<!DOCTYPE html>", "yes"),
        ("<nav>never closed <p>all there is", "never closed\n\nall there is"),
        ("<p hidden>kept, since it may be left open", "kept, since it may be left open"),
        ("<nav/><p>a<br />b", "a\nb"),
        ("", ""),
    ],
)
def test_text(html, text):
    assert extract_page(html).text == text


def test_title():
    assert extract_page("<html><head><title> A\n &amp; B </title></head><body>x").title == "A & B"
    assert extract_page("x").title is None


@given(
    st.lists(
        st.sampled_from(["<p>", "</p>", "<nav>", "</nav>", "<pre>", "</div>", "<li>", "word", " ", "<br>", "&lt;"])
    )
)
def test_no_page_is_refused_and_none_invents_text(pieces):
    text = extract_page("".join(pieces)).text
    assert text == text.strip()
    assert text.count("word") <= pieces.count("word")
    assert not set(text) - set("word <-\n")
