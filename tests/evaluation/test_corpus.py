"""Which texts are drawn: fairly, always the same, and told apart."""

from __future__ import annotations

import json

import pytest

from siftlm.errors import InvalidInput, SiftlmError, UnknownName
from siftlm.evaluation import read
from siftlm.evaluation.corpus import SkippedRecords

SENTENCE = "a sentence that is long enough to be taken, and a bit of more for the cut"


def corpus(domains=("prose", "code"), each=40):
    return [
        {"text": f"{domain} {number}: {SENTENCE}", "meta": {"pile_set_name": domain}}
        for number in range(each)
        for domain in domains
    ]


def ids(texts, domain=None):
    return [one.id for one in texts if domain in (None, one.domain)]


def test_a_larger_sample_holds_the_smaller_one():
    small, large = read(corpus(), per_domain=12), read(corpus(), per_domain=24)
    assert (len(small), len(large)) == (24, 48)
    for domain in ("prose", "code"):
        assert ids(large, domain)[:12] == ids(small, domain)
    assert ids(read(corpus(), per_domain=12, seed=1), "code") != ids(small, "code")


def test_what_is_skipped_is_the_smaller_sample():
    first, rest = read(corpus(), per_domain=12), read(corpus(), per_domain=12, skip=12)
    assert len(rest) == 24
    assert sorted(ids(first) + ids(rest)) == sorted(ids(read(corpus(), per_domain=24)))
    with pytest.raises(InvalidInput, match="skip=40 leaves nothing: the largest domain has 40 texts"):
        read(corpus(), skip=40)


def test_a_sample_does_not_depend_on_other_domains_nor_on_the_order():
    alone = ids(read(corpus(("code",)), per_domain=12))
    assert ids(read(corpus(("mail", "code", "law")), per_domain=12), "code") == alone
    assert ids(read(corpus(("mail", "code")), per_domain=12, domains=["code"])) == alone
    assert ids(read(corpus(("code",))[::-1], per_domain=12)) == alone


def test_a_sample_does_not_depend_on_how_much_of_each_text_is_kept():
    whole, cut = read(corpus(), per_domain=5), read(corpus(), per_domain=5, longest=50)
    assert [one.text[:10] for one in whole] == [one.text[:10] for one in cut]
    assert all(len(one.text) <= 50 for one in cut)
    # What is cut off is cut off at a white space.
    assert all(full.text[len(part.text)].isspace() for full, part in zip(whole, cut, strict=True))


def test_texts_that_are_there_twice_count_once_and_in_each_domain():
    twice = [*corpus(each=3), *corpus(each=3)]
    assert ids(read(twice)) == ids(read(corpus(each=3)))
    both = [{"text": SENTENCE, "meta": {"domain": name}} for name in "ab"]
    first, second = read(both)
    assert (first.text, first.domain, second.domain) == (second.text, "a", "b")
    assert first.id != second.id
    same = [{"text": f"{SENTENCE} {tail}"} for tail in ("one", "two")]
    assert len(read(same, longest=len(SENTENCE))) == 1
    assert read(same, longest=len(SENTENCE)) == read(same[::-1], longest=len(SENTENCE))


def test_the_domain_is_looked_for_and_may_be_named():
    rows = [{"text": SENTENCE, "kind": "x", "subset": "y", "meta": {"pile_set_name": None}}]
    assert [one.domain for one in read(rows)] == ["y"]
    assert [one.domain for one in read(rows, domain="kind")] == ["x"]
    assert [one.domain for one in read([{"text": SENTENCE}])] == ["no domain"]
    empty = [{"text": f"{SENTENCE} {name!r}", "meta": {"domain": name}} for name in ("", " ", None, "x", 0)]
    assert sorted(one.domain for one in read(empty)) == ["0", "no domain", "no domain", "no domain", "x"]
    assert [one.domain for one in read(empty[:1], domain="domain")] == ["no domain"]
    with pytest.raises(InvalidInput, match="no field 'topic' that names its domain; it has"):
        read(rows, domain="topic")


def test_files_of_any_kind(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"body": row["text"], **row["meta"]}) + "\n" for row in corpus(each=2)))
    assert ids(read(str(path), text="body")) == ids(read(corpus(each=2)))


@pytest.mark.slow
def test_the_sample_has_three_domains_and_nests():
    small, large = read("sample", per_domain=12, longest=400), read("sample", per_domain=24, longest=400)
    assert [sum(one.domain == kind for one in small) for kind in ("code", "prose", "mathematics")] == [12, 12, 12]
    for kind in ("code", "prose", "mathematics"):
        assert ids(large, kind)[:12] == ids(small, kind)
    rest = read("sample", per_domain=12, skip=12, longest=400)
    assert ids(rest) == [one for one in ids(large) if one not in ids(small)], "what was chosen on is left out"


def test_bytes_are_those_of_utf_8():
    assert read([{"text": "é夜" * 30}])[0].bytes == 150


@pytest.mark.parametrize(
    ("rows", "settings", "error", "said"),
    [
        ([], {}, InvalidInput, "holds no text of 40 characters"),
        ([{"text": "short"}], {}, InvalidInput, "holds no text of 40 characters"),
        ([{"text": " " * 99}], {"shortest": 0}, InvalidInput, "holds no text of 0"),
        ([{"text": SENTENCE}], {"longest": 10}, InvalidInput, "holds no text"),
        (corpus(), {"domains": ["cod"]}, UnknownName, "unknown domain 'cod'; did you mean 'code'"),
        (corpus(), {"per_domain": 0}, InvalidInput, "per_domain must be"),
        (corpus(), {"longest": 1.5}, InvalidInput, "longest must be"),
        (corpus(), {"shortest": -1}, InvalidInput, "shortest must be"),
        (corpus(), {"seed": "x"}, InvalidInput, "seed must be"),
        ([{"body": SENTENCE}], {}, SiftlmError, "text"),
        ("nowhere.jsonl", {}, SiftlmError, "nowhere"),
        (7, {}, SiftlmError, "not one int"),
    ],
)
def test_bad_corpora(rows, settings, error, said):
    with pytest.raises(error, match=said):
        read(rows, **settings)


def test_what_no_text_is_made_of_is_counted():
    missed = SkippedRecords()
    rows = [*corpus(each=2), {"text": "short"}, {"text": "short too"}, {"text": 3}]
    assert len(read(rows, left_out=missed)) == 4
    assert (missed.unreadable, missed.short) == (1, 2)
    assert missed.sentence().startswith("left out of the corpus: 1 could not be read (")
    assert missed.sentence().endswith("; 2 have fewer than 40 characters")
    assert (SkippedRecords().sentence(), SkippedRecords(short=1).sentence(9)) == (
        "",
        "left out of the corpus: 1 has fewer than 9 characters",
    )
    with pytest.raises(InvalidInput, match="1 could not be read"):
        read([{"text": 3}])
