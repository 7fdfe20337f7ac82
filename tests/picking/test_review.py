"""A review: its figures against a direct reading of the formulas, its verdicts and files, and going on after a stop."""

from __future__ import annotations

import json
import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from picking.conftest import read, write
from siftlm import review
from siftlm.errors import BadRecord, Conflict, InvalidInput, UnknownName
from siftlm.picking import signals as rules
from siftlm.picking.exchanges import exchange_of, with_answer
from siftlm.picking.models import prompt_text
from siftlm.types import Likelihood

pytest.importorskip("torch")

PAIRS = [{"question": f"What is {a} plus {b}?", "answer": str(a + b)} for a in range(3) for b in range(4)]
MIXED = [
    *PAIRS,
    {"question": "What is 9 plus 9?", "answer": "the moon is a banana that sleeps"},
    {"messages": [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes, with milk."}]},
    {"prompt": "The cat sleeps ", "completion": "where it is warm."},
    {"instruction": "Add.", "input": "2 and 2", "output": "4"},
    "A plain text about rivers and hills.",
    {"question": "And why?"},
]
QUICK = {"samples": 2, "max_new_tokens": 6}


class Speller:
    """A model without weights: a token is a word, and a word costs its letters. It answers what it was told to."""

    def __init__(self, answers=("yes",), name="speller"):
        self.name, self.model = name, SimpleNamespace()
        self.tokenizer = SimpleNamespace(chat_template=None)
        self.answers, self.read, self.drawn, self.interrupt_after = answers, [], 0, None

    def current_fingerprint(self):
        return self.name

    def likelihoods(self, pairs):
        self.read += [text for text, _ in pairs]
        if self.interrupt_after is not None and len(self.read) > self.interrupt_after:
            self.interrupt_after = None
            raise KeyboardInterrupt
        return [Likelihood(float(len(t.replace(" ", ""))), len(t.split()), len(t.encode())) for t, _ in pairs]

    def generate_many(self, prompts, *, max_new_tokens, temperature, seed):
        self.drawn += len(prompts)
        return [SimpleNamespace(text=self.answers[seed % len(self.answers)]) for _ in prompts]


@pytest.fixture(scope="module")
def tiny():
    from siftlm import Controller

    return Controller("siftlm-tiny")


# --- figures


def test_every_signal_is_what_its_formula_says(tiny):
    from siftlm.embedding import embedder

    records = MIXED[9:]
    found = review(records, model=tiny, signals=rules.SIGNALS, seed=3, **QUICK)
    made = embedder("static")

    def unit(text):
        vector = made.embed([text])[0].astype(float)
        return vector / np.linalg.norm(vector)

    exchanges = [exchange_of(record, "here") for record in records]
    vectors = [unit(one.text) for one in exchanges]
    for at, (one, finding) in enumerate(zip(exchanges, found.findings, strict=True)):
        near = sorted((float(vectors[at] @ other) for place, other in enumerate(vectors) if place != at))[-2:]
        assert finding.signals["similarity"] == pytest.approx(sum(near) / 2, abs=1e-5)
        yes = [
            [
                tiny.likelihood(word, after=f"{one.text}\n\n{question} Answer yes or no:").nats
                for word in (" yes", " no")
            ]
            for question in (
                "Is the text above clear and easy to follow?",
                "Does the text above say everything that is needed?",
                "Is everything in the text above true?",
            )
        ]
        shares = [math.exp(-y) / (math.exp(-y) + math.exp(-n)) for y, n in yes]
        assert finding.signals["quality"] == pytest.approx(sum(shares) / 3, rel=1e-4)
        if not one.answer:
            assert "confidence" not in finding.signals
            assert ("loss" in finding.signals) == (one.answer is None)
            continue
        loss = tiny.likelihood(one.answer, after=one.prompt).nats_per_token
        assert finding.signals["loss"] == pytest.approx(loss, rel=1e-4)
        drawn = [
            tiny.generate(one.prompt, max_new_tokens=6, temperature=1.0, seed=seed).text.strip() for seed in (3, 4)
        ]
        agreement = [max(0.0, float(unit(one.answer) @ unit(text))) if text else 0.0 for text in drawn]
        same = [text == one.answer for text in drawn]
        consistency = 0.8 * sum(agreement) / 2 + 0.2 * sum(same) / 2
        assert finding.signals["consistency"] == pytest.approx(consistency, abs=1e-4)
        assert finding.signals["reflection"] == pytest.approx(math.exp(-loss), rel=1e-4)
        assert finding.signals["confidence"] == pytest.approx(0.7 * consistency + 0.3 * math.exp(-loss), abs=1e-4)


def test_the_loss_after_training_is_that_of_a_model_that_learned_the_pool(tiny):
    found = review(PAIRS, model=tiny, signals="complexity", seed=5)
    exchanges = [exchange_of(record, "here") for record in PAIRS]
    before = tiny.likelihood("4", after="x").nats
    with tiny.tuning() as tuner:
        order = np.random.default_rng(5).permutation(len(PAIRS))
        tuner.learn([exchanges[at].prompt + exchanges[at].answer for at in order])
        after = [tiny.likelihood(one.answer, after=one.prompt).nats_per_token for one in exchanges]
    np.testing.assert_allclose([one.signals["loss_after"] for one in found.findings], after, rtol=1e-4)
    assert tiny.likelihood("4", after="x").nats == before


def test_another_model_is_the_one_after_training(tiny, tmp_path):
    pytest.importorskip("peft")
    from siftlm import Controller

    lora = Controller("siftlm-tiny", engine="lora")
    with lora.tuning(rate=5e-3, passes=3) as tuner:
        tuner.learn([record["question"] + "\n" + record["answer"] for record in PAIRS])
        folder = lora.save_adapter(tmp_path / "adapter")
        after = [lora.likelihood(r["answer"], after=r["question"] + "\n").nats_per_token for r in PAIRS]
    found = review(PAIRS, model=tiny, tuned=folder, signals="complexity")
    np.testing.assert_allclose([one.signals["loss_after"] for one in found.findings], after, rtol=1e-3)
    for same in (tiny, "siftlm-tiny"):
        with pytest.raises(Conflict, match="is the base model itself"):
            review(PAIRS, model=tiny, tuned=same, signals="complexity")


figures = st.one_of(st.just(math.nan), st.floats(0, 1, width=32))


@settings(max_examples=examples(60))
@given(
    st.lists(st.tuples(st.booleans(), *[figures] * 6), min_size=1, max_size=12),
    st.sampled_from(["median", 0.4]),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_verdicts_are_those_of_the_rules_read_one_by_one(rows, confidence, deviations):
    answered, *columns = (np.array(column) for column in zip(*rows, strict=True))
    measures = rules.Measures(answered, *(column.astype(float) for column in columns))
    how = rules.Rules(confidence, deviations, 0.8)

    def known(values):
        return [float(value) for value in values if not math.isnan(value)]

    def cut(values, sign):
        own = known(values)
        return statistics.fmean(own) + sign * deviations * statistics.pstdev(own) if own else math.nan

    sure, loss, after, similarity, quality, preferred = (column.astype(float) for column in columns)
    least = confidence if confidence != "median" else statistics.median(known(sure)) if known(sure) else math.nan
    for at, decision in enumerate(rules.decide(measures, how)):
        near = 1e-9  # on a threshold rounding decides
        wanted = []
        doubt = sure[at] < least
        if doubt:
            wanted.append(rules.UNSURE)
        if preferred[at] >= 0.8:
            wanted.append(rules.BETTER_ANSWER)
        cuts = [cut(loss, 1), cut(after, 1), cut(similarity, -1), cut(quality, -1)]
        values = [loss[at], after[at], similarity[at], quality[at]]
        if any(abs(value - edge) < near for value, edge in zip(values, cuts, strict=True)):
            continue
        if loss[at] > cuts[0] and after[at] > cuts[1]:
            wanted.append(rules.TOO_HARD)
        if similarity[at] < cuts[2]:
            wanted.append(rules.SPARSE)
        if quality[at] < cuts[3]:
            wanted.append(rules.POOR)
        if not answered[at]:
            assert decision.verdict == "drop"
            assert decision.reasons[0] == rules.NO_ANSWER
        elif doubt and rules.BETTER_ANSWER not in wanted:
            assert decision == rules.Decision("drop", (rules.UNSURE,))
        else:
            assert decision == rules.Decision("refine" if wanted else "keep", tuple(wanted))


def test_records_that_are_all_alike_are_kept():
    found = review(
        ["the same words"] * 7, model=Speller(), signals=["complexity", "diversity"], tuned=Speller(name="b")
    )
    assert found.counts == {"keep": 7, "refine": 0, "drop": 0}


# --- records


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"question": "q", "answer": "a", "id": 1}, "q", "a"),
        ({"prompt": "q ", "completion": "a"}, "q", "a"),
        ({"instruction": "do", "input": "this", "output": "a"}, "do\nthis", "a"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", "a"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "q", "a"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                       {"role": "assistant", "content": "a"}]}, "s\nq", "a"),
        ({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
         "q", "a"),
    ],
)  # fmt: skip
def test_answers_are_found_and_replaced_in_every_form(record, question, answer):
    before = json.dumps(record)
    found = exchange_of(record, "here")
    assert (found.question, found.answer) == (question, answer)
    new = with_answer(record, "other")
    again = exchange_of(new, "here")
    assert (again.question, again.answer) == (question, "other")
    assert list(new) == list(record)
    assert json.dumps(record) == before


def test_fields_of_any_name_are_question_and_answer():
    rows = [{"frage": f"Was ist {n}?", "antwort": str(n)} for n in range(4)]
    found = review(rows, text=["frage", "antwort"], answer="antwort", model=Speller(["3"]), signals="confidence")
    assert found.counts["drop"] < 4
    assert found[3].signals["consistency"] == 1.0
    with pytest.raises(InvalidInput, match="answer='reply' must be one of the fields in text"):
        review(rows, text=["frage", "antwort"], answer="reply", model=Speller())


def test_what_has_no_answer_is_dropped_and_plain_texts_are_not_doubted():
    found = review(MIXED, model=Speller(), signals="confidence")
    assert [one.verdict for one in found.findings][-2:] == ["keep", "drop"]
    assert found[-1].reasons == ("no answer: it asks and has no answer",)
    assert found[-2].signals == {}


# --- callbacks


def digits(question, answer):
    return {"form": float(answer.isdigit()), "length": 1.0 if len(answer) < 8 else 0.0}


def test_a_judge_drops_scores_and_replaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pool.jsonl", MIXED[:13])
    model = Speller(["18", "no idea at all"])
    found = review(
        "pool.jsonl", model=model, signals=["confidence", "quality"], judge=digits, samples=2, out="out.jsonl"
    )
    banana = found[12]
    assert (banana.verdict, banana.candidate) == ("refine", "18")
    assert banana.causes[0:2] == ("low confidence", "a better answer")
    assert banana.refined == [{"question": "What is 9 plus 9?", "answer": "18"}]
    assert (banana.signals["form"], banana.signals["quality"], found[0].signals["quality"]) == (0.0, 0.0, 1.0)
    assert banana.signals["preferred"] == 1.0
    [row] = [row for row in read(tmp_path / "out.jsonl") if row["question"] == "What is 9 plus 9?"]
    assert row["answer"] == "18"
    assert row["siftlm"]["refined"] is True
    assert row["siftlm"]["source"] == "pool.jsonl:13"


def test_a_function_says_what_agrees():
    seen = []

    def agreement(question, answer, other):
        seen.append((question, answer, other))
        return 1.0 if answer == "5" else 0.25

    found = review(PAIRS, model=Speller(["9"]), signals="confidence", agreement=agreement, samples=3)
    assert [one.signals["consistency"] for one in found.findings if one.number == 11] == [pytest.approx(0.8)]
    assert found[0].signals["consistency"] == pytest.approx(0.2)
    assert len(seen) == 3 * len(PAIRS)
    assert seen[0] == ("What is 0 plus 0?", "0", "9")


def test_refinement_gets_the_record_with_its_neighbours_and_may_give_several(tmp_path):
    seen = []

    def refine(record, finding):
        seen.append((record, finding.causes, finding.similar))
        return [record, {"text": "rivers are longer than hills are high"}] if isinstance(record, str) else None

    found = review(MIXED, signals="diversity", embedder="hashing", refine=refine)
    assert any(record == "A plain text about rivers and hills." for record, *_ in seen)
    assert all(causes == ("few records like it",) and len(similar) == 2 for _, causes, similar in seen)
    pytest.importorskip("pyarrow")
    assert found.write(tmp_path / "out.parquet") == [tmp_path / "out.parquet"]
    found.write(tmp_path / "out.jsonl", dropped=tmp_path / "dropped.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert len(rows) == found.counts["keep"] + found.counts["refine"] + 1
    assert "rivers are longer than hills are high" in [row.get("text") for row in rows]
    assert [row["siftlm"]["verdict"] for row in read(tmp_path / "dropped.jsonl")] == ["drop"]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"judge": lambda *_: 7}, r"judge returned 7 for item 1; a score is a number from 0 to 1"),
        ({"judge": lambda *_: {}}, r"judge returned no score for item 1"),
        ({"judge": lambda *_: "good"}, r"judge returned 'good' for item 1"),
        ({"agreement": lambda *_: float("nan")}, r"agreement returned nan for item 1"),
        ({"judge": lambda *_: 1 / 0}, r"judge failed for item 1: ZeroDivisionError: division by zero"),
        ({"agreement": lambda *_: [][1]}, r"agreement failed for item 1: IndexError"),
        ({"refine": lambda record, _: record["x"], "signals": "diversity"}, r"refine failed for item \d+: "),
        ({"judge": "gpt"}, r"judge must be a function, got 'gpt'"),
        ({"refine": lambda *_: 3, "signals": "diversity"}, r"refine returned 3 for item \d+; it returns a record"),
        ({"refine": lambda *_: {"text": object()}, "signals": "diversity"}, r"refine returned a record .* JSON"),
    ],
)
def test_callbacks_that_return_nonsense_are_named(settings_, message):
    with pytest.raises(InvalidInput, match=message):
        review(MIXED, **{"model": Speller(), "signals": "confidence", **settings_})


def test_a_chat_model_is_asked_by_its_template():
    class Template:
        chat_template, bos_token = "…", "<s>"

        def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
            assert (tokenize, add_generation_prompt) == (False, True)
            if any(one["role"] == "system" for one in messages):
                raise ValueError("no system here")
            return "<s>" + "".join(f"[{one['role']}] {one['content']} " for one in messages) + "[assistant] "

    model = SimpleNamespace(tokenizer=Template())
    asked = exchange_of({"question": "Tea?", "answer": "Yes."}, "here")
    assert prompt_text(model, asked) == "[user] Tea? [assistant] "
    system = exchange_of({"system": "Be kind.", "question": "Tea?", "answer": "Yes."}, "here")
    assert prompt_text(model, system) == "Be kind.\nTea?\n"
    model.tokenizer.chat_template = None
    assert prompt_text(model, asked) == "Tea?\n"


def test_only_the_last_answer_of_a_conversation_is_looked_at():
    turns = [("user", "a?"), ("assistant", "b."), ("user", "c?"), ("assistant", "d.")]
    found = exchange_of({"messages": [{"role": role, "content": content} for role, content in turns]}, "here")
    assert (found.question, found.answer) == ("a?\nb.\nc?", "d.")


@pytest.mark.parametrize("names", [("messages", "role", "content"), ("conversations", "from", "value")])
def test_a_conversation_may_end_on_a_message_of_the_user(names):
    form, role, content = names
    turns = [("user", "a?"), ("assistant", "b."), ("user", "c?"), ("assistant", "d."), ("user", "Thanks!")]
    record = {form: [{role: who, content: what} for who, what in turns]}
    found = exchange_of(record, "here")
    assert (found.question, found.answer) == ("a?\nb.\nc?", "d.")
    new = with_answer(record, "e.")
    assert [one[content] for one in new[form]] == ["a?", "b.", "c?", "e.", "Thanks!"]


def test_an_object_is_no_answer():
    for answer, kind in ((5, "5"), ({"a": 1}, "an object")):
        with pytest.raises(BadRecord, match=rf"item 1: 'answer' is {kind}, not text or messages"):
            review([{"question": "q", "answer": answer}], model=Speller(), signals="confidence")


# --- settings


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"signals": "confidense"}, "unknown signal 'confidense'; did you mean 'confidence'"),
        ({"signals": []}, "signals names none"),
        ({"confidence": "mean"}, "confidence must be a number from 0 to 1, or 'median', got 'mean'"),
        ({"confidence": 2}, "confidence must be a number"),
        ({"deviations": 0}, "deviations must be a number > 0"),
        ({"better": 0.4}, "better must be a number > 0.5"),
        ({"samples": 0}, "samples must be a whole number ≥ 1"),
        ({"signals": "diversity", "judge": digits}, "neither is wanted"),
        ({"signals": "quality", "judge": digits, "tuned": "gpt2"}, "tuned is for the signal 'complexity'"),
        ({"model": 3}, "model must be the name of a model or a siftlm.Controller, got 3"),
        ({"tuning": {"rate": 1}}, "tuning must be a siftlm.Tuning"),
        ({"out": 3}, "out must be the name of a file, got 3"),
        ({"text": 3}, "text must be a field or a list of fields, got 3"),
        ({"field": ""}, "field is empty"),
        ({"out": "a.txt"}, "out='a.txt': records are written to"),
    ],
)
def test_wrong_settings_are_named(settings_, message):
    with pytest.raises(InvalidInput, match=message):
        review(MIXED, **{"model": Speller(), **settings_})


def test_an_unknown_model_is_named():
    with pytest.raises(InvalidInput, match="no-such-folder"):
        review(PAIRS, model="./no-such-folder")


def test_files_that_cannot_be_reviewed_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InvalidInput, match=r"empty.jsonl.*no usable record|empty"):
        review("empty.jsonl", signals="diversity")
    (tmp_path / "bad.jsonl").write_text(
        '{"question": "q", "answer": "a"}\nnonsense\n{"messages": [{"role": "x", "content": "y"}]}\n'
    )
    with pytest.raises(BadRecord, match=r"bad.jsonl:2"):
        review("bad.jsonl", model=Speller(), signals="confidence")
    found = review("bad.jsonl", model=Speller(), signals="confidence", bad="skip")
    assert (len(found), found.unusable) == (2, 1)
    assert found[1].verdict == "keep"
    (tmp_path / "roles.jsonl").write_text('{"messages": [{"role": "x", "content": "y"}]}\n')
    with pytest.raises(BadRecord, match=r"roles.jsonl:1: a message has the role 'x'.*bad='skip'"):
        review("roles.jsonl", model=Speller(), signals="confidence")
    with pytest.raises(Conflict, match="is read as well"):
        review("bad.jsonl", signals="diversity", out="bad.jsonl")
    with pytest.raises(InvalidInput, match="name another"):
        found.write("a.jsonl", dropped="a.jsonl")


def test_what_pick_wrote_is_refused_before_any_model_runs(tmp_path, monkeypatch):
    from siftlm import pick

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pool.jsonl", PAIRS)
    pick("pool.jsonl", ["What is 2 plus 2?"], 4, out="chosen.jsonl")
    model = Speller()
    how = {"model": model, "signals": "confidence", "samples": 1, "out": "out.jsonl"}
    with pytest.raises(Conflict, match=r"chosen.jsonl:1: the record has a field 'siftlm' already; field names another"):
        review("chosen.jsonl", **how)
    assert (model.read, model.drawn) == ([], 0)
    review("chosen.jsonl", **how, field="review")
    [row, *_] = read(tmp_path / "out.jsonl")
    assert (row["siftlm"]["source"][:11], row["review"]["source"][:13]) == ("pool.jsonl:", "chosen.jsonl:")
    model.read.clear()
    with pytest.raises(Conflict, match=r"chosen.jsonl:1: the record has a field 'siftlm' already"):
        review("chosen.jsonl", **how | {"samples": 2})
    assert model.drawn == 4


def test_one_record_is_kept():
    found = review(PAIRS[:1], model=Speller(), tuned=Speller(name="b"))
    assert found.counts == {"keep": 1, "refine": 0, "drop": 0}
    assert "similarity" not in found[0].signals
    assert found.report().to_html().startswith("<!doctype html>")


def test_a_memory_and_given_vectors_are_pools(tmp_path):
    from siftlm import Memory

    Memory.build(["tea is hot", "tea is cold", "lists are sorted"], tmp_path / "memory").close()
    found = review(str(tmp_path / "memory"), signals="diversity", neighbours=1)
    assert [one.verdict for one in found.findings] == ["keep", "keep", "refine"]
    vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = review(["a", "b", "c"], vectors=vectors, signals="diversity", neighbours=1)
    assert [one.verdict for one in found.findings] == ["keep", "keep", "refine"]


# --- going on


def test_a_review_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"q{n}", "answer": "word " * (1 + n % 5) + f"n{n}"} for n in range(70)]
    write(tmp_path / "pool.jsonl", rows)
    model, later = Speller(), Speller(name="tuned")
    model.interrupt_after = 40
    how = {"model": model, "tuned": later, "out": "out.jsonl"}
    with pytest.raises(KeyboardInterrupt):
        review("pool.jsonl", **how)
    done = {
        line["number"] for line in map(json.loads, (tmp_path / "out.jsonl.work/signals.jsonl").read_text().splitlines())
    }
    assert done == set(range(32))
    with open(tmp_path / "out.jsonl.work/signals.jsonl", "a") as file:
        file.write('{"stage": "base", "number": 32, "lo')  # cut short by a kill
    model.read.clear()
    found = review("pool.jsonl", **how)
    assert model.read == [row["answer"] for row in rows[32:]]
    assert len(later.read) == 70
    whole = review(rows, model=Speller(), tuned=Speller(name="tuned"))
    assert [(one.verdict, one.signals) for one in found.findings] == [
        (one.verdict, one.signals) for one in whole.findings
    ]
    content = (tmp_path / "out.jsonl").read_bytes()
    model.read.clear()
    later.read.clear()
    review("pool.jsonl", **how)
    assert (tmp_path / "out.jsonl").read_bytes() == content
    # Thresholds are free; what was measured otherwise is measured anew.
    looser = review("pool.jsonl", **how, deviations=3, confidence=0.0)
    assert looser.counts["keep"] > found.counts["keep"]
    assert model.read == later.read == []
    model.drawn = 0
    review("pool.jsonl", **how, samples=2)
    assert (model.read, model.drawn) == ([], 140)
    write(tmp_path / "pool.jsonl", rows[:50])
    with pytest.raises(Conflict, match="begun with another pool"):
        review("pool.jsonl", **how)
    assert len(review("pool.jsonl", **how, restart=True)) == 50


def test_other_signals_measure_only_what_is_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pool.jsonl", PAIRS)
    model, later = Speller(["1", "2"]), Speller(name="tuned")

    def judge(question, answer):
        return 0.5

    def again(*names, **more):
        """How many texts the model read, and how many it drew."""
        model.read, model.drawn = [], 0
        found = review("pool.jsonl", model=model, signals=names, samples=2, out="out.jsonl", **more)
        whole = review(PAIRS, model=Speller(["1", "2"]), signals=names, samples=2, **more)
        assert [(one.verdict, one.signals) for one in found.findings] == [
            (one.verdict, one.signals) for one in whole.findings
        ]
        return len(model.read), model.drawn

    size = len(PAIRS)
    assert again("confidence") == (size, 2 * size)
    assert again("confidence", "diversity") == (0, 0)
    assert again("diversity") == (0, 0)
    assert again("complexity", "confidence", tuned=later) == (0, 0)
    assert again("confidence", judge=judge) == (0, 2 * size)
    assert again("confidence", "quality", judge=judge) == (0, 0)
    assert again("confidence") == (0, 0)


def test_a_record_is_refined_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "pool.jsonl",
        [{"text": text} for text in ("tea is hot", "tea is cold", "tea is tea", "a list", "water", "moons")],
    )
    calls = []

    def refine(record, finding):
        calls.append(finding.number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"text": f"{record['text']}, at length"}

    how = {"signals": "diversity", "refine": refine, "out": "out.jsonl", "deviations": 0.1, "embedder": "hashing"}
    with pytest.raises(KeyboardInterrupt):
        review("pool.jsonl", **how)
    first = calls[0]
    found = review("pool.jsonl", **how)
    assert calls.count(first) == 1
    assert all(one.refined for one in found.findings if one.verdict == "refine")
    assert any(row["text"].endswith(", at length") for row in read(tmp_path / "out.jsonl"))


def test_the_folder_of_a_choice_is_no_folder_of_a_review(tmp_path, monkeypatch):
    from siftlm import pick

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pool.jsonl", PAIRS)
    pick("pool.jsonl", ["What is 2 plus 2?"], 2, out="out.jsonl")
    with pytest.raises(Conflict, match=r"begun with another command; restart=True begins anew"):
        review("pool.jsonl", signals="diversity", out="out.jsonl")


# --- the report


def test_the_report_shows_verdicts_signals_and_records(tmp_path):
    found = review(MIXED, model=Speller(["4", "5"]), tuned=Speller(name="b"), samples=2)
    files = found.report().write(tmp_path / "review")
    assert [file.name for file in files] == [
        "review.html", "review.md",
        *(f"review-{name}.svg" for name in ("confidence", "loss", "loss-after", "similarity", "plane")),
    ]  # fmt: skip
    text = (tmp_path / "review.md").read_text(encoding="utf-8")
    counts = found.counts
    assert f"keep {counts['keep']}, refine {counts['refine']}, drop {counts['drop']}" in text
    assert sum(counts.values()) == len(MIXED)
    for head in ("## Verdicts", "## Signals", "## The records to look at", "## In the plane"):
        assert head in text
    assert "And why? — no answer" in text
    assert "Measured by speller" in text
    page = (tmp_path / "review.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "<script" not in page


def test_unknown_settings_are_errors():
    with pytest.raises(UnknownName, match="unknown setting 'modle'; did you mean 'model'"):
        review(PAIRS, modle="gpt2", signals="diversity")
