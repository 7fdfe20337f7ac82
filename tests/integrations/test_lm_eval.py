"""The model for lm-evaluation-harness, beside the harness's own model of the same weights and beside `LocalModel`."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from controller import tiny
from siftlm import Controller, LocalModel, Memory
from siftlm.errors import InvalidInput, UnknownName
from siftlm.integrations import lm_eval as ours
from siftlm.integrations.lm_eval_tasks import main as write_from_a_shell
from siftlm.integrations.lm_eval_tasks import write_tasks

pytestmark = pytest.mark.usefixtures("lm_eval")

TEXTS = [
    f"{what} {where} {when}"
    for what in ("rain fell", "the fox ran", "def add(a, b):")
    for where in ("at sea", "on land")
    for when in ("today", "in the morning", "while ships waited")
]
LONG = "the quick brown fox jumps over the lazy dog and rain falls on the harbour while ships wait. " * 4
LEARNS = {"n": 3, "rate": 0.01}


class Request:
    def __init__(self, *args):
        self.args = args


def requests(*pairs):
    return [Request(*pair) for pair in pairs]


@pytest.fixture(scope="module")
def weights():
    return tiny.model("llama")


@pytest.fixture(scope="module")
def harness(weights, lm_eval):
    """The harness's own."""
    from lm_eval.models.huggingface import HFLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HFLM(pretrained=weights, tokenizer=tiny.tokenizer(), max_length=tiny.CONTEXT)


@pytest.fixture
def one(weights):
    return Controller(weights, tiny.tokenizer())


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    return Memory.build(TEXTS, tmp_path_factory.mktemp("lm_eval") / "memory")


@pytest.fixture
def base(one):
    return ours.model_class()(one, method="base")


def learning(controller, memory, **settings):
    return ours.model_class()(controller, memory, **{**LEARNS, **settings})


def by_hand(model, text):
    """Nats of the text: START and the first 64 tokens, then the last token of each window before the next 64."""
    ids = [0, *tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]]
    total, done = 0.0, 1
    while done < len(ids):
        end = min(done + tiny.CONTEXT, len(ids))
        begin = max(0, end - 1 - tiny.CONTEXT)  # the last window reaches back as far as it can
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin : end - 1]])).logits[0].double()
        nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[begin + 1 : end]), reduction="none")
        total += float(nats[-(end - done) :].sum())
        done = end
    return total


# --- the model as it is: as the harness's own


def test_base_is_the_harness_own_model(base, harness):
    contexts = ["", "rain fell", "the fox ran ", "a context that is longer than the model's own one is cut " * 3]
    asked = requests(*((c, x) for c in contexts for x in (" at sea", "s", " while ships waited\n")))
    expected = harness.loglikelihood(asked, disable_tqdm=True)
    found = base.loglikelihood(asked)
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_greedy_is_what_the_model_would_say(base, harness, one):
    said = one.generate("rain fell", max_new_tokens=6).text
    asked = requests(("rain fell", said), ("rain fell", said[:-1] + "?"), ("rain fell", said[0]))
    assert [greedy for _, greedy in base.loglikelihood(asked)] == [True, False, True]
    assert [greedy for _, greedy in harness.loglikelihood(asked, disable_tqdm=True)] == [True, False, True]


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 129, 300])
def test_bits_per_byte_three_times(base, harness, one, length):
    text = LONG[:length]
    (theirs,) = harness.loglikelihood_rolling(requests((text,)), disable_tqdm=True)
    (mine,) = base.loglikelihood_rolling(requests((text,)))
    known = one.likelihood(text)
    assert known.bytes == length
    plain = by_hand(one.model, text) / length / math.log(2)
    for bits in (-theirs / length / math.log(2), -mine / length / math.log(2), known.bits_per_byte):
        assert bits == pytest.approx(plain, abs=1e-4)


def test_base_generates_what_the_harness_own_model_does(base, harness):
    asked = requests(
        ("rain fell", {"until": [], "max_gen_toks": 12, "do_sample": False}),
        ("the fox ran", {"until": ["e"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.9}),
        (LONG, {"until": [], "max_new_tokens": 5}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = harness.generate_until(asked, disable_tqdm=True)
    assert base.generate_until(asked) == expected


def test_a_long_continuation_counts_every_token_once(base, one):
    ((found, _),) = base.loglikelihood(requests(("", LONG[:200])))
    assert found == pytest.approx(-one.likelihood(LONG[:200]).nats, rel=1e-6)
    ((found, greedy),) = base.loglikelihood(requests(("rain fell", "")))
    assert (found, greedy) == (0.0, True)


@pytest.mark.parametrize("bos", [None, True, False])
def test_the_start_token_stands_once(bos):
    reader = ours.ContextTokenizer(tiny.tokenizer("begins"), 64, bos)
    context, continuation = reader.pair("fox", " ran")
    assert (context[:1] == [1]) is (bos is not False)
    assert len(context) == 3 + (bos is not False)
    assert len(continuation) == 4
    written, _ = reader.pair("<s>fox", " ran")  # as a chat template may write it
    assert written.count(1) == 1
    assert reader.pair(" ", "ran")[0] == [1]


# --- tuned: as LocalModel


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["full", "lora"])
def test_tuned_is_what_local_model_scores(memory, engine, monkeypatch):
    controller = Controller(tiny.model("llama"), tiny.tokenizer(), engine=engine)
    local = LocalModel(controller, memory, method="sift", **LEARNS)
    model = learning(controller, memory, add_bos_token=True)
    pairs = [("the fox ran", " at sea"), ("rain fell", " on land"), ("the fox ran", " on land today")]
    together = []
    tuning_many = controller.tuning_many
    monkeypatch.setattr(controller, "tuning_many", lambda n, **how: together.append(n) or tuning_many(n, **how))
    found = model.loglikelihood(requests(*pairs))
    assert together == ([2] if engine == "lora" else [])
    for (nats, _), pair in zip(found, pairs, strict=True):
        score = local.score(pair)
        assert nats == pytest.approx(-score.likelihood.nats, rel=1e-4)
        assert abs(score.likelihood.nats - score.base_likelihood.nats) > 1e-2, "it has learned something"


def test_texts_in_the_context_are_read_as_local_model_does(memory):
    controller = Controller(tiny.model("llama"), tiny.tokenizer())
    local = LocalModel(controller, memory, n=1, use="context")
    for bos in (True, False):
        model = ours.model_class()(controller, memory, n=1, use="context", add_bos_token=bos)
        ((nats, _),) = model.loglikelihood(requests(("the fox", " ran")))
        assert nats == pytest.approx(-local.score(("the fox", " ran")).likelihood.nats, rel=1e-5)


def test_what_is_selected_knows_the_context_alone_and_is_learned_once(one, memory, monkeypatch):
    model = learning(one, memory)
    prompts, tunings = [], []
    search, tuning = memory.run, one.tuning

    def searched(request):
        prompts.extend(request.prompts)
        return search(request)

    @contextmanager
    def tuned(**settings):
        tunings.append(settings)
        with tuning(**settings) as tuner:
            yield tuner

    monkeypatch.setattr(memory, "run", searched)
    monkeypatch.setattr(one, "tuning", tuned)
    pairs = [("the fox ran", " at sea"), ("rain fell", " at sea"), ("the fox ran", " on land"), ("the fox ran", " x")]
    found = model.loglikelihood(requests(*pairs))
    assert prompts == ["the fox ran", "rain fell"]
    assert len(tunings) == 2
    assert len({nats for nats, _ in found}) == 4
    # The order and the company change nothing.
    np.testing.assert_allclose(model.loglikelihood(requests(*pairs[::-1]))[::-1], found, rtol=1e-5)
    np.testing.assert_allclose(model.loglikelihood(requests(pairs[2])), found[2:3], rtol=1e-5)


def test_without_a_context_there_is_nothing_to_learn_for(base, one, memory):
    asked = requests(("", "rain"), ("  \n", "rain"))
    assert learning(one, memory).loglikelihood(asked) == base.loglikelihood(asked)
    said = {"until": [], "max_gen_toks": 4}
    assert learning(one, memory).generate_until(requests(("", said))) == base.generate_until(requests(("", said)))


def test_whole_texts_are_scored_in_one_of_two_ways_that_must_be_said(base, one, memory):
    asked = requests((TEXTS[3],), (LONG[:150],), (TEXTS[3],), (" ",))
    with pytest.raises(InvalidInput, match=r"rolling=transductive .* or rolling=untuned"):
        learning(one, memory).loglikelihood_rolling(asked)
    untuned = learning(one, memory, rolling="untuned").loglikelihood_rolling(asked)
    assert untuned == base.loglikelihood_rolling(asked)
    found = learning(one, memory, rolling="transductive").loglikelihood_rolling(asked)
    local = LocalModel(one, memory, **LEARNS)
    for place in (0, 1):
        score = local.score(asked[place].args[0], mode="transductive")
        assert found[place] == pytest.approx(-score.likelihood.nats, rel=1e-6)
        assert abs(found[place] - untuned[place]) > 1e-2
    assert (found[2], found[3]) == (found[0], untuned[3])


@pytest.mark.slow
def test_it_answers_as_local_model(one, memory):
    found = learning(one, memory).generate_until(requests(("the fox", {"until": ["\n"], "max_gen_toks": 8})))
    assert found == [LocalModel(one, memory, **LEARNS).generate("the fox", max_new_tokens=8, stop="\n").text]


def test_what_is_drawn_again_is_drawn_anew(base):
    drawn = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    first, second = base.generate_until(requests(("fox", drawn), ("fox", drawn)))
    assert first != second
    assert base.generate_until(requests(("fox", drawn))) == [first]


@pytest.mark.parametrize(
    ("wanted", "error"), [({"num_beams": 4}, "num_beams"), ({"max_gen_toks": 64}, "max_new_tokens")]
)
def test_a_generation_that_cannot_be_had_is_refused(base, wanted, error):
    with pytest.raises(InvalidInput, match=error):
        base.generate_until(requests(("fox", wanted)))


# --- settings


def test_wrong_settings_are_said_at_once(one, memory):
    make = ours.model_class()
    with pytest.raises(InvalidInput, match="needs a memory: set memory to a folder"):
        make(one)
    with pytest.raises(UnknownName, match="rolling"):
        make(one, memory, rolling="prefix")
    for method in ("sift", "base"):
        with pytest.raises(UnknownName, match="nois"):
            make(one, memory, method=method, nois=1)
    with pytest.raises(UnknownName, match="noise"):
        make(one, method="base", noise=1)


def test_the_results_say_how_they_were_made(one, memory):
    known = learning(one, memory, rolling="untuned").get_model_info()["siftlm"]
    assert (known["method"], known["rolling"], known["settings"]["n"]) == ("auto", "untuned", 3)
    assert known["memory"]["passages"] == len(TEXTS)
    json.dumps(known)


def test_answers_are_kept_as_they_become_known(one, memory, tmp_path, monkeypatch):
    model = learning(one, memory, rolling="untuned", batch_size=2)
    from lm_eval.api.model import CachingLM

    cached = CachingLM(model, str(tmp_path / "answers.db"))
    pairs = [(text, " x") for text in TEXTS[:4]]
    search = memory.run

    def fails(request):
        if TEXTS[2] in request.prompts:
            raise OSError("gone")
        return search(request)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "run", fails)
        with pytest.raises(OSError, match="gone"):
            cached.loglikelihood(requests(*pairs))
    assert len(cached.dbdict) == 2
    expected = model.loglikelihood(requests(*pairs))
    np.testing.assert_allclose(cached.loglikelihood(requests(*pairs)), expected, rtol=1e-5)
    assert len(cached.dbdict) == 4
    cached.dbdict.close()


def test_chat_templates(weights):
    import copy

    tokenizer = copy.deepcopy(tiny.tokenizer())
    model = ours.model_class()(Controller(weights, tokenizer), method="base")
    talk = [{"role": "user", "content": "fox"}]
    with pytest.raises(InvalidInput, match="no chat template"):
        model.apply_chat_template(talk)
    assert model.chat_template(True) is None
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}{{ '!' if add_generation_prompt }}"
    assert model.apply_chat_template(talk) == "<fox>!"
    assert model.chat_template(True) == tokenizer.chat_template


def test_without_the_harness_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    with pytest.raises(ImportError, match=r"siftlm\[lm-eval\]"):
        ours.register()


# --- in the harness


@pytest.fixture
def tasks(tmp_path):
    lines = [{"text": f"{text}. {LONG[: 20 * at]}", "kind": ("a/b", "prose")[at % 2]} for at, text in enumerate(TEXTS)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return write_tasks(tmp_path / "texts.jsonl", tmp_path / "tasks", name="mine", domain="kind", shortest=1)


CHOICES = """\
task: choices
custom_dataset: !function texts.load
dataset_kwargs: {file: choices.jsonl}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


def evaluated(model, folder, *names):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = TaskManager(include_path=str(folder), include_defaults=False)
        return simple_evaluate(model, tasks=list(names), task_manager=known, bootstrap_iters=0)


@pytest.mark.slow
def test_local_tasks_score_like_our_own_likelihood(base, harness, one, tasks):
    assert tasks.tasks == ("mine_a_b", "mine_prose")
    mine, theirs = (evaluated(model, tasks.path, "mine")["results"] for model in (base, harness))
    for name in tasks.tasks:
        texts = [json.loads(line)["text"] for line in (tasks.path / f"{name}.jsonl").read_text().splitlines()]
        known = [one.likelihood(text) for text in texts]
        bits = sum(k.nats for k in known) / sum(k.bytes for k in known) / math.log(2)
        assert mine[name]["bits_per_byte,none"] == pytest.approx(bits, abs=1e-4)
        assert theirs[name]["bits_per_byte,none"] == pytest.approx(bits, abs=1e-4)
        assert mine[name]["byte_perplexity,none"] == pytest.approx(2**bits, rel=1e-4)
    mean = sum(mine[name]["bits_per_byte,none"] for name in tasks.tasks) / 2
    assert mine["mine"]["bits_per_byte,none"] == pytest.approx(mean)


@pytest.mark.slow
def test_multiple_choice_is_that_of_the_harness_own_model(base, harness, one, memory, tasks):
    lines = [
        {"question": text, "choices": [" at sea", " on land", "!"], "answer": at % 3} for at, text in enumerate(TEXTS)
    ]
    (tasks.path / "choices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tasks.path / "choices.yaml").write_text(CHOICES, encoding="utf-8")
    mine, theirs, tuned = (evaluated(m, tasks.path, "choices") for m in (base, harness, learning(one, memory)))

    def answers(run):
        samples = sorted(run["samples"]["choices"], key=lambda sample: sample["doc_id"])
        return [float(nats) for sample in samples for nats, _ in sample["filtered_resps"]]

    assert len(answers(mine)) == 3 * len(TEXTS)
    assert answers(mine) == pytest.approx(answers(theirs), rel=1e-4)
    for metric in ("acc,none", "acc_norm,none"):
        assert mine["results"]["choices"][metric] == theirs["results"]["choices"][metric]
    assert answers(tuned) != pytest.approx(answers(mine), rel=1e-3)
    assert tuned["config"]["siftlm"]["method"] == "auto"


def test_tasks_are_refused_where_they_would_be_lost(tasks, tmp_path, capsys):
    source = tmp_path / "texts.jsonl"
    with pytest.raises(InvalidInput, match="not empty"):
        write_tasks(source, tasks.path, domain="kind")
    with pytest.raises(InvalidInput, match="letters"):
        write_tasks(source, tmp_path / "new", name="a b")
    texts = [{"text": text, "meta": {"domain": domain}} for text, domain in zip(TEXTS, ("a b", "a_b"), strict=False)]
    with pytest.raises(InvalidInput, match="rename"):
        write_tasks(texts, tmp_path / "new", shortest=1)
    assert not (tmp_path / "new").exists()
    assert write_from_a_shell([str(source), "--into", str(tasks.path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert write_from_a_shell([str(source), "--into", str(tmp_path / "other"), "--domain", "kind"]) == 0
    assert "--tasks local_a_b,local_prose" in capsys.readouterr().out


def test_the_harness_finds_the_model_by_its_name():
    from lm_eval.api.registry import get_model
    from lm_eval.models.huggingface import HFLM

    ours.register()
    ours.register()
    assert get_model("siftlm") is ours.model_class()
    assert get_model("hf") is HFLM


@pytest.mark.slow
@pytest.mark.parametrize("ours_too", [False, True])
def test_from_a_shell(tasks, memory, tmp_path, ours_too):
    """The harness's own command, where a task is named by its file; ours, for every task."""
    if ours_too:
        command = ["-m", "siftlm.integrations.lm_eval", "--include_path", str(tasks.path), "--tasks", "mine"]
    else:
        command = ["-m", "lm_eval", "--tasks", str(tasks.path)]
    model = f"model=siftlm-tiny,memory={memory.path},method=nearest,n=1,rolling=transductive"
    run = subprocess.run(
        [
            sys.executable,
            *command,
            "--model",
            "siftlm",
            "--model_args",
            model,
            "--limit",
            "1",
            "--output_path",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    (results,) = (json.loads(path.read_text()) for path in Path(tmp_path / "out").rglob("*.json"))
    assert set(tasks.tasks) <= set(results["results"])
    assert results["config"]["siftlm"]["rolling"] == "transductive"
