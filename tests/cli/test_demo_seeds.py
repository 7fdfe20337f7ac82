"""What `siftlm demo` claims of its facts holds on other seeds too."""

from __future__ import annotations

import pytest

from siftlm.cli import demo

pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.mark.slow
def test_facts_are_learned_on_every_seed(tmp_path, monkeypatch):
    from siftlm import Memory
    from siftlm.controller import Controller

    uses = ("base", "context", "nearest", "sift")
    monkeypatch.setattr(demo, "USES", {use: demo.USES[use] for use in uses})
    controller = Controller("siftlm-tiny", engine="lora")
    exact, facts = dict.fromkeys(uses, 0), dict.fromkeys(uses, 0)
    with Memory.build(demo.fact_documents(), into=tmp_path / "facts", embedder=demo.FACTS_EMBEDDER) as memory:
        for seed in range(5):
            outcome = demo.run_questions(controller, memory, demo.make_questions(4, seed), 8)
            bits = {use: outcome.figures(use)[2] for use in uses}
            assert bits["sift"] < 0.6 * bits["base"], f"seed {seed}: {bits}"
            assert bits["sift"] < bits["nearest"], f"seed {seed}: {bits}"
            for use in uses:
                exact[use] += outcome.figures(use)[0]
                facts[use] += outcome.figures(use)[3]
    assert exact["sift"] >= exact["nearest"] + 5, exact
    assert exact["sift"] >= exact["context"] + 10, exact
    assert exact["base"] <= 2, exact
    assert facts["sift"] >= facts["nearest"] + 10, facts
