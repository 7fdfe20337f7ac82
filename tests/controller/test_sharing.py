"""One controller in several threads, and compiled."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402

PROMPTS = {
    "a": ["the quick brown fox jumps over the lazy dog", "rain fell on the harbour"],
    "b": ["def add(a, b): return a + b", "ships wait for the tide"],
}


def answered(one, texts):
    before = one.likelihood(texts[0])
    with one.tuning(dropout=0.1) as tuner:
        losses = tuner.learn(texts).losses
        after, said = one.likelihood(texts[0]), one.generate("the", max_new_tokens=3, temperature=1.0)
    return before, losses, after, said


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["full", "lora"])
def test_threads_get_the_answers_that_they_would_get_alone(engine, untouched):
    one = Controller(tiny.model("gpt2"), tiny.tokenizer(), engine=engine, rate=1e-2, precision="float32")
    # In a thread as well: the main thread may add up in another order, with another number of processors.
    with ThreadPoolExecutor(1) as pool:
        alone = {name: pool.submit(answered, one, texts).result() for name, texts in PROMPTS.items()}
        base = pool.submit(one.likelihood, "x").result()
    check = untouched(one.model)
    found = []

    def work(name):
        for _ in range(3):
            found.append((name, answered(one, PROMPTS[name])))
            found.append((name, None if one.likelihood("x") == base else "x"))

    threads = [threading.Thread(target=work, args=(name,)) for name in [*PROMPTS] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * 3 * 2
    assert all(answer is None or answer == alone[name] for name, answer in found)
    check()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_two_models_in_two_threads_do_not_disturb_one_another(dropout):
    models = {name: Controller(tiny.model("gpt2", seed=n), tiny.tokenizer()) for n, name in enumerate(PROMPTS)}

    def losses(name):
        with models[name].tuning(rate=1e-2, precision="float32", dropout=dropout) as tuner:
            return tuner.learn(PROMPTS[name] * 3).losses

    with ThreadPoolExecutor(1) as pool:
        alone = {name: pool.submit(losses, name).result() for name in models}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for _ in range(4):
        together = threading.Barrier(2)

        def work(name, together=together):
            together.wait()
            return losses(name)

        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(models, pool.map(work, models), strict=True))
        assert found == alone
        assert torch.equal(torch.get_rng_state(), before)


def test_without_dropout_nothing_that_others_draw_is_taken_back():
    one = Controller(tiny.model("gpt2"), tiny.tokenizer())
    torch.manual_seed(3)
    with one.tuning(precision="float32") as tuner:
        before = torch.get_rng_state()
        tuner.learn(PROMPTS["a"])
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
        drawn = torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
def test_a_compiled_model_learns_the_same(untouched, monkeypatch):
    """Traced as it would be for a compiler of C++, which takes most of a minute, and then run by torch itself."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    one = Controller(tiny.model("llama"), tiny.tokenizer(), rate=1e-3, precision="float32")
    check = untouched(one.model)
    losses = {}
    for compiled in (False, True):
        with one.tuning(compile=compiled) as tuner:
            losses[compiled] = tuner.learn(PROMPTS["a"]).losses
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)
    check()
