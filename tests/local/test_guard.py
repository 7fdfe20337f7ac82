"""The guard of ``use="auto"``: learned where it helps with texts that were held out, else the base model."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import many_texts
from siftlm import LocalModel, Memory
from siftlm.controller import Controller, Tuning
from siftlm.errors import InvalidInput
from siftlm.guard import HELD_OUT_PASSAGES
from siftlm.types import Likelihood, Step, Trace, UseChoice

# One pattern, in many words: what is learned from some of these helps with the others.
ALIKE = [f"the tide comes in at {hour} and the tide goes out at {hour + 6}." for hour in range(12)]
PROMPT = "the tide comes in at"
TEXT = "the tide comes in at 13 and the tide goes out at 19."
TEXTS = [TEXT, "the tide goes out at 2 and comes in at 8.", "at 6 the tide comes in, the tide."]
ENGINES = {"full": {"rank": None}, "lora": {"rank": 4}}
NONSENSE = [f"{one}{two}{one} {two}{two}{one} " * 5 for one in "ZQXJVK" for two in "#@%&!"]
HARM = {"rate": 1.0, "explode": 1e9, "method": "random", "k": None}
"""How to learn nonsense, with a rate that is too large and without the check that would call it a divergence."""


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("guard") / "memory") as memory:
        memory.add(ALIKE)
        yield memory


@pytest.fixture(scope="module")
def nonsense(tmp_path_factory):
    """Three texts of it are learned, and the nearest to the prompts, which are held out, are English."""
    with Memory.create(tmp_path_factory.mktemp("nonsense") / "memory") as memory:
        memory.add([*ALIKE[:4], *NONSENSE])
        yield memory


@pytest.fixture(scope="module")
def controllers():
    return {engine: many_texts.controller(engine=engine, **settings) for engine, settings in ENGINES.items()}


@pytest.fixture(params=ENGINES)
def local(request, controllers, memory):
    return LocalModel(controllers[request.param], memory, n=3, passes=2)


@pytest.fixture(params=ENGINES)
def harmed(request, controllers, nonsense):
    return LocalModel(controllers[request.param], nonsense, n=3, passes=2, **HARM)


@pytest.fixture
def lora(controllers, memory):
    return LocalModel(controllers["lora"], memory, n=3, passes=2)


def weights_of(local):
    return {name: tensor.clone() for name, tensor in local.controller.model.state_dict().items()}


def same_weights(local, before):
    after = local.controller.model.state_dict()
    return before.keys() == after.keys() and all((tensor == before[name]).all() for name, tensor in after.items())


def facts(trace):
    """All of a trace that neither clocks nor rounding decide."""
    choice = None if trace.choice is None else (trace.choice.use, trace.choice.held_out, list(trace.choice.estimates))
    return many_texts.facts(trace), choice


# --- what is chosen


def test_what_plainly_helps_is_learned(local):
    score = local.score(TEXT, use="auto")
    choice = score.trace.choice
    assert choice.use in ("weights", "both")
    assert choice.held_out == HELD_OUT_PASSAGES
    assert choice.estimates["weights"] < 98
    assert score.trace.kept == len(score.steps) == 6
    assert score.tuned < score.base
    only = local.score(TEXT, use="weights")
    if choice.use == "weights":
        assert score.tuned == pytest.approx(only.tuned, rel=1e-6)
    assert only.trace.choice is None


def test_what_plainly_harms_is_declined_and_the_base_model_answers(harmed):
    harmed.generate(PROMPT, max_new_tokens=2)  # an adapter is there from the first call on
    before = weights_of(harmed)
    base = harmed.controller.generate(PROMPT, max_new_tokens=12)
    answer = harmed.generate(PROMPT, max_new_tokens=12)
    assert (answer.trace.ended, answer.trace.kept, answer.trace.choice.use) == ("declined", 0, "none")
    assert len(answer.trace.steps) > 0
    assert (answer.text, answer.tokens) == (base.text, base.tokens)
    assert same_weights(harmed, before)
    score = harmed.score(TEXT, use="auto")
    assert (score.trace.ended, score.tuned) == ("declined", score.base)
    assert harmed.score(TEXT).tuned > score.base, "it would not have harmed"


def test_inside_the_block_a_declined_model_is_the_base_model(harmed):
    harmed.generate(PROMPT, max_new_tokens=2)
    likelihood, before = harmed.controller.likelihood(TEXT), weights_of(harmed)
    with harmed.learned(PROMPT, use="auto") as learned:
        assert (learned.trace.choice.use, learned.context) == ("none", ())
        assert harmed.controller.likelihood(TEXT) == likelihood
        if not harmed.controller.adapters:  # of an adapter only one half is nothing
            assert same_weights(harmed, before)
    assert same_weights(harmed, before)


def test_the_choice_says_why(harmed):
    choice = harmed.score(TEXT, use="auto").trace.choice
    said = str(choice)
    assert said.startswith("expected loss by 3 held-out passages, in % of the base model's: ")
    assert f"tuned on the texts {choice.estimates['weights']:.1f} %" in said
    assert f"with the texts in context {choice.estimates['context']:.1f} %" in said
    assert str(UseChoice("weights", {"weights": 97.04}, 1)) == (
        "expected loss by 1 held-out passage, in % of the base model's: tuned on the texts 97.0 %"
    )


def test_a_trace_with_a_choice_is_json(harmed, lora):
    for score in (
        harmed.score(TEXT, use="auto"),
        lora.score(TEXT, use="auto"),
        lora.score(TEXT, use="auto", rate=1e6, explode=1e9),
    ):
        trace = score.trace
        record = json.loads(json.dumps(trace.to_dict(), allow_nan=False))["choice"]
        assert set(record) == {"use", "estimates", "held_out", "reason"}
        assert (record["use"], record["held_out"]) == (trace.choice.use, trace.choice.held_out)
        assert record["reason"] == str(trace.choice)
        assert set(record["estimates"]) == set(trace.choice.estimates)


class Reader(Controller):
    """A model without torch: how far it can predict, tuned and with texts in context, in nats a passage."""

    def __init__(self, *, tuned=100.0, context=100.0, both=100.0):
        self.name, self.context, self.parameters, self.adapters = "reader", 64, 1000, False
        self.settings = Tuning()
        self.nats = {(False, False): 100.0, (True, False): tuned, (False, True): context, (True, True): both}
        self.learned = []

    def tuning(self, **changes):
        self.learned = []
        return _Block(self)

    def likelihood(self, text, *, after="", texts=()):
        return Likelihood(self.nats[bool(self.learned), bool(texts)], 10, 40)

    def likelihoods(self, pairs, *, texts=()):
        return [self.likelihood(text, after=after, texts=texts) for text, after in pairs]


class _Block:
    """The only way to tune a `Reader`: what is given is learned, in one step that is looked at."""

    def __init__(self, reader):
        self.reader = reader

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.learned = []

    def learn(self, texts, *, watch=None, after=None):
        best = watch() if watch is not None else math.inf
        self.reader.learned = list(texts)
        now = watch() if watch is not None else 0.0
        kept = len(texts) if now < best else 0
        if not kept:
            self.rewind()
        return Trace(tuple(Step(at, 1.0, 1, 1.0, 1.0) for at in range(len(texts))), "done" if kept else "worse", kept)

    def rewind(self):
        self.reader.learned = []


@pytest.mark.parametrize(
    ("nats", "use", "scored"),
    [
        ({"tuned": 90.0}, "weights", 90.0),
        ({"context": 90.0}, "context", 90.0),
        ({"context": 90.0, "tuned": 120.0}, "context", 90.0),
        ({"context": 95.0}, "none", 100.0),
        ({"tuned": 97.5}, "none", 100.0),
        ({"tuned": 120.0, "context": 130.0, "both": 10.0}, "none", 100.0),  # both is tried where each alone helps
        ({"tuned": 80.0, "context": 81.0, "both": 60.0}, "both", 60.0),
        ({"tuned": 60.0, "context": 81.0, "both": 10.0}, "weights", 60.0),  # where reading helps much less
        ({"tuned": 80.0, "context": 81.0, "both": 79.0}, "weights", 80.0),  # by the word of few passages
        ({"tuned": 90.0, "context": 60.0, "both": 88.0}, "context", 60.0),
        ({"tuned": math.nan, "context": 60.0}, "context", 60.0),
        ({"tuned": math.inf}, "none", 100.0),
        ({"tuned": 90.0, "context": math.nan}, "weights", 90.0),
        ({"tuned": 0.0}, "weights", 0.0),
    ],
    ids=str,
)
def test_the_use_with_the_best_estimate_is_taken(memory, nats, use, scored):
    score = LocalModel(Reader(**nats), memory, n=3).score(TEXT, use="auto")
    assert score.trace.choice.use == use
    assert score.likelihood.nats == scored
    assert (score.trace.ended == "declined") is (use in ("none", "context"))
    assert score.trace.kept == (3 if use in ("weights", "both") else 0)


def test_texts_that_are_only_read_are_read_by_the_model_as_it_was(local, monkeypatch):
    monkeypatch.setattr("siftlm.guard.CONTEXT_CAUTION_PERCENT", -1000.0)
    monkeypatch.setattr("siftlm.guard.CONTEXT_SHARE", 1000.0)
    score = local.score(TEXT, use="auto")
    assert (score.trace.choice.use, score.trace.ended, score.trace.kept) == ("context", "declined", 0)
    assert score.tuned == pytest.approx(local.score(TEXT, use="context").tuned, rel=1e-6)
    answer = local.generate(PROMPT, max_new_tokens=8)
    assert answer.text == local.generate(PROMPT, max_new_tokens=8, use="context").text
    [many] = local.score_many([TEXT], use="auto")
    assert many.tuned == pytest.approx(score.tuned, rel=1e-6)


# --- memories with nothing to hold out


def test_where_nothing_can_be_held_out_the_texts_are_learned(controllers, tmp_path):
    with Memory.create(tmp_path / "small") as memory:
        memory.add(ALIKE[:3])
        local = LocalModel(controllers["lora"], memory, n=3)
        for answer in (local.generate(PROMPT, max_new_tokens=4), *local.generate_many([PROMPT], max_new_tokens=4)):
            choice = answer.trace.choice
            assert (choice.use, choice.held_out, choice.estimates) == ("weights", 0, {})
            assert (answer.trace.ended, answer.trace.kept) == ("done", 3)
            assert "no further passages to hold out" in str(choice)
            assert answer.text == local.generate(PROMPT, max_new_tokens=4, use="weights").text


def test_of_many_prompts_each_has_its_own(controllers, tmp_path):
    with Memory.create(tmp_path / "words") as words:
        words.add(["tide", "moon", "at six the tide comes in", "harbour", "the harbour at noon", "rain"])
        local = LocalModel(controllers["lora"], words, n=1)
        scores = local.score_many([("tide", " at six"), ("the harbour at noon", " sleeps")], use="auto")
        assert [score.found.texts for score in scores] == [["tide"], ["the harbour at noon"]]
        assert [score.trace.choice.held_out for score in scores] == [2, 1]
        alone = LocalModel(controllers["lora"], words, n=3, exclude=[2, 4]).generate_many(["tide"], max_new_tokens=2)
        assert [answer.trace.choice.held_out for answer in alone] == [0]


def test_an_empty_memory_is_no_error(controllers, tmp_path):
    with Memory.create(tmp_path / "empty") as empty:
        local = LocalModel(controllers["full"], empty)
        answer = local.generate(PROMPT, max_new_tokens=2)
        assert (answer.trace.ended, answer.trace.choice.held_out) == ("nothing", 0)
        assert answer.text == local.controller.generate(PROMPT, max_new_tokens=2).text


# --- many prompts, and points on the way


def compare(local, **how):
    """Many prompts and each alone, scored and continued; the choices."""
    together = local.score_many(TEXTS, use="auto", at=[2, 6], **how)
    for text, score in zip(TEXTS, together, strict=True):
        alone = local.score(text, use="auto", at=[2, 6], **how)
        assert facts(score.trace) == facts(alone.trace)
        assert score.trace.choice.estimates == pytest.approx(dict(alone.trace.choice.estimates), rel=1e-3)
        assert (score.base, score.tuned) == pytest.approx((alone.base, alone.tuned), rel=1e-4)
        assert [steps for steps, _ in score.curve] == [steps for steps, _ in alone.curve]
        assert [bits for _, bits in score.curve] == pytest.approx([bits for _, bits in alone.curve], rel=1e-3)
    for text, answer in zip(TEXTS, local.generate_many(TEXTS, max_new_tokens=8, **how), strict=True):
        alone = local.generate(text, max_new_tokens=8, **how)
        assert (answer.text, facts(answer.trace)) == (alone.text, facts(alone.trace))
    return [score.trace.choice.use for score in together]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"watch_every": 1, "rate": 0.05}, {"rate": 1e6}, {"tokens": 60}], ids=str)
def test_many_prompts_have_the_choices_that_each_has_alone(lora, how):
    compare(lora, **how)


@pytest.mark.slow
def test_many_prompts_are_declined_as_each_is_alone(harmed):
    assert "none" in compare(harmed)


@pytest.mark.slow
def test_points_on_the_way_are_those_of_the_model_while_it_is_tuned(local, harmed):
    for one in (local, harmed):
        plain, guarded = one.score(TEXT, at=[0, 2, 6]), one.score(TEXT, use="auto", at=[0, 2, 6])
        assert [steps for steps, _ in guarded.curve] == [0, 2, 6]
        assert [bits for _, bits in guarded.curve] == pytest.approx([bits for _, bits in plain.curve], rel=1e-6)
        assert guarded.curve[0][1] == guarded.base


def test_a_model_that_diverged_is_the_base_model_and_the_trace_says_so(local):
    for score in (local.score(TEXT, use="auto", rate=1e6), *local.score_many([TEXT] * 2, use="auto", rate=1e6)):
        assert (score.trace.ended, score.trace.kept, score.tuned) == ("diverged", 0, score.base)
        assert score.trace.choice.use == "none"
        assert "weights" not in score.trace.choice.estimates


def test_a_budget_that_leaves_no_step_stays_the_reason(local):
    score = local.score(TEXT, use="auto", tokens=1)
    assert (score.steps, score.trace.ended, score.trace.choice.use, score.tuned) == ((), "tokens", "none", score.base)


def test_what_decide_declines_is_not_measured(local, monkeypatch):
    monkeypatch.setattr(local.controller, "tuning", lambda **_: pytest.fail("tuned"))
    answer = local.generate(PROMPT, max_new_tokens=2, decide=0.999999)
    assert (answer.trace.ended, answer.trace.choice) == ("declined", None)


def test_a_setting_of_the_model_wins_over_the_default_of_generate(controllers, memory):
    model = LocalModel(controllers["full"], memory, n=3, use="weights")
    assert model.generate(PROMPT, max_new_tokens=2).trace.choice is None
    assert model.generate(PROMPT, max_new_tokens=2, use="auto").trace.choice is not None
    assert LocalModel(controllers["full"], memory, n=3).score(TEXT).trace.choice is None


# --- odd texts


ODD = [
    "word",
    " ",
    "a b",
    "\n\n\tone\n",
    "x" * 500,
    "long " * 300,
    " " * 450 + "two words",
    "\u2028é \U0001f600",
    "\ud800 half",
    "a\x00b c",
]


@pytest.mark.parametrize("engine", ENGINES)
def test_odd_texts_are_no_error(controllers, tmp_path, engine):
    with Memory.create(tmp_path / "odd") as memory:
        memory.add([*(text for text in ODD if text.strip() and "\ud800" not in text), *ALIKE[:2]])
        local = LocalModel(controllers[engine], memory, n=2)
        for prompt in ("word", "long long", "\U0001f600", PROMPT):
            answer = local.generate(prompt, max_new_tokens=3)
            assert answer.trace.choice.held_out <= HELD_OUT_PASSAGES
            [many, _] = local.generate_many([prompt, PROMPT], max_new_tokens=3)
            assert (many.text, many.trace.choice.use) == (answer.text, answer.trace.choice.use)


@pytest.mark.parametrize(
    ("line", "use"),
    [(None, "none"), ((-3, 1), "none"), ((0.0, 1.0), "weights"), ((5.0, 0.1), "weights"), ([-8.0, 2.0], "none")],
)
def test_what_was_measured_on_a_memory_decides_for_its_prompts(memory, line, use):
    model = LocalModel(Reader(tuned=98.0), memory, n=3)
    choice = model.score(TEXT, use="auto", guard=line).trace.choice
    assert choice.use == use
    intercept, slope = line or (-3.0, 1.0)
    assert choice.estimates["weights"] == pytest.approx(100 - intercept - 2 * slope)


@pytest.mark.parametrize("line", ["ab", (1.0,), (1.0, 0.0), (math.nan, 1.0), 3.0])
def test_a_line_that_is_none_is_an_error(memory, line):
    with pytest.raises(InvalidInput, match="guard"):
        LocalModel(Reader(), memory, guard=line)
