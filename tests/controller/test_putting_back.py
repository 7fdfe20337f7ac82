"""Where even putting the model back fails: all else is put back, and nothing is done with a model that is not whole."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from controller import tiny, traces  # noqa: E402
from siftlm.controller import Controller, engines, restore  # noqa: E402
from siftlm.errors import SiftlmError  # noqa: E402

TEXTS = ["the quick brown fox", "rain fell"]
OTHER = "something else"


class RunsOut(TorchDispatchMode):
    """The operation ``at``, counted from the end of the block's own, finds no memory."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return function(*args, **(kwargs or {}))


def controller(engine):
    return Controller(tiny.model("llama"), tiny.tokenizer(), engine=engine, rate=1e-2, precision="float32")


def test_each_has_its_turn_and_the_first_error_is_raised():
    done = []

    def fail(name):
        done.append(name)
        raise KeyError(name)

    with pytest.raises(KeyError, match="b"):
        restore.PendingRestores().run(
            [lambda: done.append("a"), lambda: fail("b"), lambda: fail("c"), lambda: done.append("d")]
        )
    assert done == ["a", "b", "c", "d"]


def test_only_what_failed_is_done_again():
    left, done = restore.PendingRestores(), []

    def once():
        done.append("once")
        if len(done) < 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        left.run([lambda: done.append("other"), once])
    for _ in range(2):
        left.finish()
    assert done == ["other", "once", "once"]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 19])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_memory_runs_out_at_the_end(kind, every):
    """In the last operations, one after another: the next use is as if nothing had been."""
    one = controller(kind)
    with one.tuning() as tuner:
        expected = tuner.learn(TEXTS).losses, one.likelihood(OTHER)
    base, before = one.likelihood(OTHER), traces.of(one.model)
    with RunsOut() as ends, one.tuning() as tuner:
        tuner.learn(TEXTS)
        inside = ends.count
    count = ends.count - inside
    assert count
    for place in range(count, 0, -every):
        with pytest.raises(torch.OutOfMemoryError), RunsOut(inside + place), one.tuning() as tuner:
            tuner.learn(TEXTS)
        left = traces.differences(before, traces.of(one.model))
        assert len(left) <= 4, left  # one tensor, perhaps tied
        assert all(name.endswith((": parameter", ": buffer", ": state")) for name in left), left
        assert one.likelihood(OTHER) == base
        assert traces.differences(before, traces.of(one.model)) == {}
        with one.tuning() as tuner:
            assert (tuner.learn(TEXTS).losses, one.likelihood(OTHER)) == expected


def test_a_model_that_cannot_be_put_back_is_not_used(monkeypatch, untouched):
    one = controller("full")
    base, check = one.likelihood(OTHER), untouched(one.model)
    with monkeypatch.context() as patch:

        def fail(*_):
            raise torch.OutOfMemoryError("no memory (a test)")

        with pytest.raises(torch.OutOfMemoryError), one.tuning() as tuner:
            tuner.learn(TEXTS, after=lambda _: patch.setattr(engines, "restore_tensor", fail))
        uses = [
            lambda: one.likelihood(OTHER),
            lambda: one.generate("rain", max_new_tokens=1),
            lambda: one.tuning().__enter__(),
        ]
        for use in uses * 2:
            with pytest.raises(SiftlmError, match=r"could not put it back.*no memory"):
                use()
    assert one.likelihood(OTHER) == base
    check()
