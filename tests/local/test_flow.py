"""The promises of `LocalModel`: prompt -> candidates -> selection -> tune -> score or generate -> restore."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import many_texts  # noqa: E402
from siftlm import LocalModel, Memory, Search, Tuning  # noqa: E402
from siftlm.errors import Conflict, InvalidInput, UnknownName  # noqa: E402
from siftlm.memory import Searcher  # noqa: E402
from siftlm.selection import Limits, Stopping  # noqa: E402

CORPUS = [
    f"{what} {where} {when}."
    for what in ("The tide comes in", "Rain falls", "def add(a, b): return", "7 * 8 = 56")
    for where in ("at the harbour", "on the hill")
    for when in ("at six", "in the morning, before the ships leave")
]
FIRST, SECOND = "Rain falls on the harbour and the hill", " before the ships leave at six."
TEXT = FIRST + SECOND
PROMPT = "The tide comes in"
TEXTS = [TEXT, "def mul(a, b): return a * b", "The tide comes in, and rain falls on the town below."]
ENGINES = {"full": {"rank": None}, "lora": {"rank": 4}}


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("flow") / "memory") as memory:
        memory.add(CORPUS)
        yield memory


@pytest.fixture(scope="module")
def controllers():
    return {engine: many_texts.controller(engine=engine, **settings) for engine, settings in ENGINES.items()}


@pytest.fixture(params=ENGINES)
def any_engine(request, controllers, memory):
    return LocalModel(controllers[request.param], memory, n=3)


@pytest.fixture
def full(controllers, memory):
    return LocalModel(controllers["full"], memory, n=3)


@pytest.fixture
def lora(controllers, memory):
    return LocalModel(controllers["lora"], memory, n=3)


def state_of(local):
    """All tensors of the model, and torch's random state."""
    model = local.controller.model
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()}
    return tensors, flags, torch.get_rng_state(), model.training


def assert_same_state(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())
    assert one[1] == other[1]
    assert torch.equal(one[2], other[2])
    assert one[3] == other[3]


def facts(score):
    """All that decides whether two scores are the same, but for the clock."""
    steps = [replace(step, seconds=0.0) for step in score.steps]
    picks = [(hit.row, hit.gain) for hit in score.found]
    return score.base, score.tuned, score.curve, steps, score.trace.ended, score.trace.kept, picks


# --- the steps and their order


def test_a_prompt_is_searched_for_then_tuned_on_then_scored(full, monkeypatch):
    calls = []
    run, tuning, likelihoods = Searcher.run, full.controller.tuning, full.controller.likelihoods
    monkeypatch.setattr(Memory, "run", lambda self, request: calls.append("select") or run(self, request))
    monkeypatch.setattr(full.controller, "tuning", lambda **how: calls.append("tune") or tuning(**how))
    monkeypatch.setattr(
        full.controller, "likelihoods", lambda pairs, **how: calls.append("score") or likelihoods(pairs, **how)
    )
    full.score(TEXT)
    assert calls == ["select", "score", "tune", "score"]


def test_the_model_learns_the_texts_that_were_selected_in_their_order(any_engine):
    score = any_engine.score(TEXT)
    assert score.found.texts == any_engine.select(FIRST).texts
    assert [step.text for step in score.steps] == [0, 1, 2]
    assert (score.trace.ended, score.trace.kept, len(score.found)) == ("done", 3, 3)
    assert score.tuned != score.base


def test_a_text_is_split_in_half_and_the_second_half_is_scored(full):
    score = full.score("The tide comes in at the harbour")
    assert score.likelihood.bytes == len(" at the harbour")
    assert score.mode == "split"


def test_a_pair_says_itself_what_is_scored(full):
    assert full.score(("The tide comes", " in at six")).likelihood.bytes == len(" in at six")


def test_transductive_scores_the_text_that_is_the_prompt(full):
    score = full.score(TEXT, mode="transductive")
    assert score.likelihood.bytes == len(TEXT.encode())
    assert score.found.texts == full.select(TEXT, method="sift", replacement=True).texts


# --- nothing is left behind


@pytest.mark.slow
@pytest.mark.parametrize("work", ["score", "generate", "score_many", "generate_many"])
def test_after_a_call_the_model_is_what_it_was_bit_for_bit(any_engine, work):
    how = {"max_new_tokens": 4} if "generate" in work else {"at": [1]}
    call = partial(getattr(any_engine, work), TEXTS if "many" in work else TEXT, **how)
    call()  # an adapter is there from the first call on
    before = state_of(any_engine)
    call(dropout=0.2)
    assert_same_state(before, state_of(any_engine))


def test_after_an_error_the_model_is_what_it_was(any_engine):
    any_engine.score(TEXT)
    before = state_of(any_engine)

    def fails(_):
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        any_engine.score(TEXT, after=fails)
    assert_same_state(before, state_of(any_engine))
    with pytest.raises(RuntimeError, match="inside"), any_engine.learned(PROMPT):
        raise RuntimeError("inside")
    assert_same_state(before, state_of(any_engine))


def test_after_an_interrupt_the_model_is_what_it_was(any_engine):
    any_engine.score(TEXT)
    before = state_of(any_engine)
    with pytest.raises(KeyboardInterrupt):
        any_engine.score(TEXT, after=lambda _: signal.raise_signal(signal.SIGINT))
    assert_same_state(before, state_of(any_engine))
    assert any_engine.score(TEXT).trace.ended == "done"


def test_inside_tuned_the_model_is_another_one_and_afterwards_it_is_itself(full):
    before = full.controller.likelihood(TEXT).nats
    with full.tuned(PROMPT) as model:
        assert model is full.controller.model
        assert full.controller.likelihood(TEXT).nats != before
    assert full.controller.likelihood(TEXT).nats == before


@pytest.mark.slow
def test_a_call_depends_on_no_call_before_it(any_engine):
    first = facts(any_engine.score(TEXT))
    any_engine.generate(PROMPT, n=2, max_new_tokens=4)
    any_engine.score_many(TEXTS)
    assert facts(any_engine.score(TEXT)) == first


# --- one prompt and many


@pytest.mark.slow
def test_many_prompts_have_the_scores_that_each_has_alone(any_engine):
    together = any_engine.score_many(TEXTS, at=[1])
    for text, score in zip(TEXTS, together, strict=True):
        alone = any_engine.score(text, at=[1])
        assert [hit.row for hit in score.found] == [hit.row for hit in alone.found]
        assert (score.base, score.tuned) == pytest.approx((alone.base, alone.tuned), rel=1e-5)
        assert score.trace.settings == {**alone.trace.settings}
        assert score.seconds.keys() == alone.seconds.keys()


@pytest.mark.slow
def test_the_batch_size_changes_no_result(lora):
    whole, halved, single = (lora.score_many(TEXTS, batch=batch) for batch in (3, 2, 1))
    assert [score.tuned for score in halved] == pytest.approx([score.tuned for score in whole], rel=1e-5)
    assert [facts(score) for score in single] == [facts(lora.score(text)) for text in TEXTS]


@pytest.mark.slow
def test_many_prompts_have_the_answers_that_each_has_alone(any_engine):
    how = {"max_new_tokens": 6, "temperature": 0.8, "seed": 2}
    together = any_engine.generate_many(TEXTS, **how)
    assert [answer.text for answer in together] == [any_engine.generate(text, **how).text for text in TEXTS]


def test_work_on_many_prompts_is_done_with_a_model_tuned_for_each(any_engine):
    seen = {}

    def work(model, prompts):
        likelihoods = model.likelihoods(
            [(" at six", one.prompt) for one in prompts], owners=range(len(prompts)), texts=[()] * len(prompts)
        )
        seen.update({one.prompt: found.nats for one, found in zip(prompts, likelihoods, strict=True)})

    any_engine.tune_many(TEXTS, work, batch=2)
    for text in TEXTS:
        assert seen[text] == pytest.approx(any_engine.score((text, " at six")).likelihood.nats, rel=1e-5)


# --- which setting wins


def test_a_call_wins_over_the_model_over_the_recipe_over_calibration_over_defaults(controllers, tmp_path):
    with Memory.create(tmp_path / "memory") as memory:
        memory.add(CORPUS)
        controller = controllers["full"]
        chosen = {"method": "hullft", "n": 2, "rate": 0.5, "noise": 0.3, "repeats": "steps", "k": 9}
        memory.note_calibration(controller.name, {"settings": chosen, "model": {"engine": {"engine": "full"}}})
        calibrated = LocalModel(controller, memory).settings()
        assert {name: calibrated[name] for name in ("n", "rate", "noise", "k")} == {
            "n": 2,
            "rate": 0.5,
            "noise": 0.3,
            "k": 9,
        }
        assert (calibrated["repeats"], calibrated["passes"]) == ("grouped", 1)  # of the recipe, and of nobody
        model = LocalModel(controller, memory, repeats="scaled", reuse=1, rate=0.1)
        assert (model.settings()["repeats"], model.settings()["rate"]) == ("scaled", 0.1)
        assert model.settings(rate=0.2)["rate"] == 0.2
        assert LocalModel(controller, memory, calibrated=False).settings()["n"] == 50
        assert model.uncalibrated().settings()["rate"] == 0.1


def test_objects_are_the_same_as_keywords(controllers, memory):
    search, tuning = Search(k=6, noise=0.3, exclude=[0]), Tuning(rate=2e-3, passes=2)
    keywords = {"k": 6, "noise": 0.3, "exclude": [0], "rate": 2e-3, "passes": 2}
    by_keywords = facts(LocalModel(controllers["full"], memory, n=3).score(TEXT, **keywords))
    made = LocalModel(controllers["full"], memory, n=3, search=search, tuning=tuning)
    assert facts(made.score(TEXT)) == by_keywords
    plain = LocalModel(controllers["full"], memory, n=3)
    assert facts(plain.score(TEXT, search=search, tuning=tuning)) == by_keywords
    assert [facts(one) for one in plain.score_many([TEXT], search=search, tuning=tuning)] == [by_keywords]
    assert made.settings() == plain.settings(**keywords)
    assert made.call_settings().request.search == search


def test_selection_and_tuning_have_seeds_of_their_own(full):
    known = full.call_settings(search=Search(seed=3), tuning=Tuning(seed=4))
    assert (known.request.search.seed, known.tuning.seed) == (3, 4)
    by_chance = full.select(PROMPT, method="random", search=Search(seed=3))
    assert by_chance.texts == full.memory.search(PROMPT, 3, method="random", seed=3).texts


def test_a_seed_by_name_is_that_of_the_selection_and_of_tuning(full):
    known = full.call_settings(seed=3)
    assert (known.request.search.seed, known.tuning.seed) == (3, 3)
    known = full.call_settings(seed=3, selection_seed=4)
    assert (known.request.search.seed, known.tuning.seed) == (4, 3)
    known = full.call_settings(search=Search(seed=5), seed=3)
    assert (known.request.search.seed, known.tuning.seed) == (3, 3)
    picked = full.select(PROMPT, method="random", seed=3).texts
    assert picked == full.memory.search(PROMPT, 3, method="random", seed=3).texts
    assert picked == full.select(PROMPT, method="random", selection_seed=3).texts


@pytest.mark.parametrize(
    "made",
    [
        {"seed": 3},
        {"selection_seed": 3},
        {"seed": 3, "selection_seed": 0},
        {"tuning": Tuning(seed=3)},
        {"search": Search(seed=3)},
        {"search": Search(seed=3), "tuning": Tuning(seed=4)},
    ],
    ids=str,
)
def test_settings_show_both_seeds_and_mean_them(controllers, memory, made):
    model = LocalModel(controllers["full"], memory, **made)
    own, shown = model.call_settings(), model.settings()
    assert (shown["seed"], shown.get("selection_seed", shown["seed"])) == (own.tuning.seed, own.request.search.seed)
    assert model.settings(**shown) == shown == LocalModel(controllers["full"], memory, **shown).settings()
    assert model.uncalibrated().settings() == shown


def test_a_number_or_a_method_of_none_is_none_given_in_a_call_and_no_setting(full):
    assert full.call_settings(None, None).to_dict() == full.settings()
    for settings in ({"n": None}, {"method": None}):
        for call in (full.settings, full.call_settings, lambda **given: full.select_many([PROMPT], **given)):
            with pytest.raises(InvalidInput, match=r"n must be a whole number|unknown method None"):
                call(**settings)


def test_settings_are_plain_numbers(full):
    shown = full.settings(
        n=np.int64(2), rate=np.float32(1e-3), noise=np.float32(0.5), decide=np.float32(0.25), k=np.int8(9)
    )
    assert json.loads(json.dumps(shown)) == {**shown, "betas": list(shown["betas"])}


def test_a_call_that_only_reads_may_meet_settings_of_tuning_of_the_model(controllers, memory):
    model = LocalModel(controllers["full"], memory, rate=2e-3, passes=2, n=1)
    shown = model.settings(use="context", seed=3)
    assert (shown["use"], shown["rate"], shown["passes"], shown["seed"]) == ("context", 2e-3, 2, 3)
    assert model.settings(**shown) == shown
    assert model.score(TEXT, use="context", tuning=Tuning(seed=4)).steps == ()


def test_keywords_win_over_objects(controllers, memory):
    made = LocalModel(controllers["full"], memory, search=Search(k=6), tuning=Tuning(passes=2), k=7)
    assert (made.settings()["k"], made.settings()["passes"]) == (7, 2)
    known = made.settings(search=Search(k=8, noise=0.5), tuning=Tuning(passes=3), noise=0.1)
    assert (known["k"], known["noise"], known["passes"]) == (8, 0.1, 3)


def test_a_default_value_is_chosen_by_name_alone(controllers, memory):
    made = LocalModel(controllers["full"], memory, search=Search(noise=0.5), tuning=Tuning(passes=3))
    by_object = made.settings(search=Search(noise=Search().noise), tuning=Tuning(passes=1))
    assert (by_object["noise"], by_object["passes"]) == (0.5, 3)
    by_name = made.settings(noise=Search().noise, passes=1)
    assert (by_name["noise"], by_name["passes"]) == (Search().noise, 1)


def test_settings_can_be_saved_and_used_again(full):
    known = full.call_settings(k=6, noise=0.3, rate=1e-3)
    saved = json.loads(json.dumps({"search": known.request.search.to_dict(), "tuning": known.tuning.to_dict()}))
    again = full.call_settings(search=Search.from_dict(saved["search"]), tuning=Tuning.from_dict(saved["tuning"]))
    assert (again.request.search, again.tuning) == (known.request.search, known.tuning)


# --- what a call may ask for


def test_decide_leaves_the_model_as_it_is_where_the_texts_tell_too_little(any_engine):
    declined = any_engine.score(TEXT, decide=0.999999)
    assert (declined.trace.ended, declined.steps, declined.tuned) == ("declined", (), declined.base)
    assert any_engine.score(TEXT, decide=0.0).trace.ended == "done"
    tide = [score.trace.ended for score in any_engine.score_many(TEXTS, decide=lambda found: "tide" in found.texts[0])]
    assert set(tide) == {"declined", "done"}


def test_auto_measures_held_out_passages_and_takes_the_best_state(any_engine):
    watched = any_engine.score(TEXT, use="auto", watch_every=1, n=5, rate=0.05)
    assert all(step.watched is not None for step in watched.steps)
    assert watched.trace.kept <= len(watched.steps)
    assert watched.trace.choice.held_out == 3
    kept = watched.trace.kept
    assert (watched.trace.choice.use in ("weights", "both")) is (kept > 0)
    transductive = any_engine.score(TEXT, use="auto", mode="transductive")
    assert transductive.trace.choice.held_out == 3


def test_use_context_reads_the_texts_and_tunes_nothing(any_engine):
    read = any_engine.score(TEXT, n=1, use="context")
    assert (read.steps, read.trace.ended) == ((), "done")
    expected = any_engine.controller.likelihood(SECOND, after=FIRST, texts=read.found.texts)
    assert read.likelihood == expected


def test_use_both_reads_the_texts_and_tunes_on_them(any_engine):
    both, weights, context = (any_engine.score(TEXT, n=1, use=use) for use in ("both", "weights", "context"))
    assert len(both.steps) == len(weights.steps) == 1
    assert len({both.tuned, weights.tuned, context.tuned}) == 3


def test_at_scores_on_the_way_and_does_not_change_where_it_leads(any_engine):
    plain, score = any_engine.score(TEXT), any_engine.score(TEXT, at=[0, 1, 3, 9])
    assert [steps for steps, _ in score.curve] == [0, 1, 3]
    assert score.curve[0][1] == score.base
    assert score.curve[-1][1] == score.tuned == plain.tuned
    assert score.curve[1][1] == pytest.approx(any_engine.score(TEXT, n=1, k=200).tuned, rel=1e-6)


def test_after_is_called_with_each_step(full):
    seen = []
    score = full.score(TEXT, after=seen.append)
    assert seen == list(score.steps)
    seen.clear()
    with full.learned(PROMPT, after=seen.append) as learned:
        assert seen == list(learned.trace.steps)


def test_the_clock_says_where_the_time_went(full):
    assert full.score(TEXT, at=[1]).seconds.keys() == {"select", "tune", "score"}
    assert full.generate(PROMPT, max_new_tokens=2).seconds.keys() == {"select", "tune", "generate"}
    assert all(seconds > 0 for seconds in full.score(TEXT).seconds.values())


def test_features_decide_the_selection_among_the_nearest(full):
    class Lengths:
        def embed(self, texts, *, as_query=False):
            return np.array([[len(text), 10.0] for text in texts], dtype=np.float32)

    found = full.select(PROMPT, k=6, features=Lengths(), method="nearest", n=6)
    assert {hit.row for hit in found} == {hit.row for hit in full.select(PROMPT, k=6, n=6, method="nearest")}
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    gradients = full.score(TEXT, k=6, features="gradients")
    assert gradients.trace.ended == "done"
    assert gradients.found.seconds["features"] > 0


@pytest.mark.slow
def test_generate_continues_with_the_tuned_model(any_engine):
    plain = any_engine.controller.generate(PROMPT, max_new_tokens=12)
    answer = any_engine.generate(PROMPT, max_new_tokens=12, n=8, passes=3, use="weights")
    assert (answer.tokens, len(answer.found)) == (12, 8)
    assert answer.text != plain.text
    assert json.dumps(answer.to_dict())


def test_a_diverged_model_is_the_base_model(any_engine):
    score = any_engine.score(TEXT, rate=1e6, n=5)
    assert (score.trace.ended, score.trace.kept, score.tuned) == ("diverged", 0, score.base)


def test_nothing_found_is_no_error(controllers, tmp_path):
    with Memory.create(tmp_path / "empty") as empty:
        model = LocalModel(controllers["full"], empty)
        score = model.score(TEXT)
        assert (score.trace.ended, score.tuned) == ("nothing", score.base)
        assert len(model.generate(PROMPT, max_new_tokens=2).found) == 0


# --- errors


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"nois": 1}, UnknownName, "unknown setting 'nois'; did you mean 'noise'"),
        ({"passes": 0}, InvalidInput, "passes must be a whole number"),
        ({"method": "shift"}, UnknownName, "did you mean 'sift'"),
        ({"n": 0}, InvalidInput, "n must be a whole number"),
        ({"use": "weight"}, UnknownName, "did you mean 'weights'"),
        ({"decide": 2}, InvalidInput, "decide must be a number from 0 to 1"),
        ({"features": "gradient"}, UnknownName, "did you mean 'gradients'"),
        ({"search": {"k": 2}}, InvalidInput, r"search must be Search\(…\), got {'k': 2}"),
        ({"tuning": Search()}, InvalidInput, r"tuning must be Tuning\(…\), got Search\(\)"),
        ({"seed": -1}, InvalidInput, "^seed must be a whole number"),
        ({"selection_seed": "x"}, InvalidInput, "selection_seed must be a whole number"),
        ({"seed of the selection": 1}, UnknownName, "unknown setting 'seed of the selection'"),
        ({"method": np.ones(2)}, UnknownName, "unknown method"),
        ({"features": np.ones(2)}, UnknownName, "unknown features"),
        ({"residual": True, "candidates": "words"}, Conflict, "candidates='words' needs"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_when_the_model_is_made_and_when_it_is_called(
    controllers, memory, full, settings, error, words
):
    with pytest.raises(error, match=words):
        LocalModel(controllers["full"], memory, **settings)
    for call in (full.settings, lambda **given: full.score(TEXT, **given), lambda **given: full.select(TEXT, **given)):
        with pytest.raises(error, match=words):
            call(**settings)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: model.score("one"), "no two words to split"),
        (lambda model: model.score(("a", "b", "c")), "tuple of 3"),
        (lambda model: model.score(TEXT, mode="spilt"), "did you mean 'split'"),
        (lambda model: model.score(TEXT, at="1"), "at must be a list"),
        (lambda model: model.generate(" ", max_new_tokens=4), "the prompt is empty"),
        (lambda model: model.generate(PROMPT, max_new_tokens=0), "max_new_tokens"),
        (lambda model: model.score_many(TEXT), "texts must be a list"),
        (lambda model: model.score_many([TEXT, ""]), "text 1 is empty"),
        (lambda model: model.generate_many(TEXTS, batch=0, max_new_tokens=4), "batch must be a whole number"),
        (lambda model: model.score_many(3), "texts must be a list, got int"),
        (lambda model: model.generate_many(None), "prompts must be a list, got NoneType"),
        (lambda model: model.score(TEXT, at=np.array(2)), "at must be a list"),
        (lambda model: model.score(TEXT, after=3), "after must be a function"),
        (lambda model: model.score(TEXT, watch=True), "unknown setting 'watch'; did you mean 'watch_every'"),
        (lambda model: model.generate(PROMPT, max_new_tokens=4, watch=True), "unknown setting 'watch'"),
        (lambda model: model.generate(PROMPT, max_new_tokens=4, after="x"), "after must be a function"),
        (lambda model: model.generate(PROMPT, stop=3), "stop must be a list of str"),
        (lambda model: model.generate(PROMPT, stop=np.array("x")), "stop must be a list of str"),
        (lambda model: model.generate(PROMPT, max_new_tokens=4, seed="x"), "seed must be a whole number"),
        (lambda model: model.generate(PROMPT, max_new_tokens=4, seed=2**63), "seed must be a whole number"),
        (lambda model: model.score_many([TEXT], progress="x"), "progress must be True, False or a function"),
        (
            lambda model: model.score(TEXT, use="context", rate=1e-3),
            "rate=0.001 is a setting of tuning, and with use='context' nothing is tuned",
        ),
        (lambda model: model.score_many([TEXT], use="context", tuning=Tuning(passes=2)), "passes=2 is a setting of"),
        (
            lambda model: model.learned(PROMPT, use="context", repeats="scaled").__enter__(),
            "repeats='scaled' is a setting of",
        ),
        (lambda model: model.select(PROMPT, limits=Limits()), "the fields of Limits are settings themselves: repl"),
        (lambda model: model.settings(stopping=Stopping()), "unknown setting stopping: here the fields of Stopping"),
        (lambda model: LocalModel(model.controller, model.memory, calibrated="x"), "calibrated must be True or False"),
        (lambda model: LocalModel(model.controller, 3), "memory must be a folder, a Memory or an Outside"),
    ],
)
def test_a_wrong_text_is_named_before_anything_is_tuned(full, monkeypatch, call, words):
    monkeypatch.setattr(full.controller, "tuning", lambda **_: pytest.fail("tuned"))
    with pytest.raises(InvalidInput, match=words):
        call(full)
