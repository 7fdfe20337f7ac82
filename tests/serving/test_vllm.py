"""vLLM speaks for the engine: what it says is, to the letter, what the engine itself would say."""

from __future__ import annotations

import json
import shlex
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from controller import tiny
from serving.fake_vllm import FakeVLLM
from serving.test_scheduler import BASE, PROMPTS, TEXTS, Heard, controller, job, mode
from siftlm.cli import parser
from siftlm.controller import SamplingParams
from siftlm.errors import InvalidInput, SiftlmError
from siftlm.memory import Memory
from siftlm.serving import Job, Metrics, Relay, ServingEngine, background_server, events
from siftlm.serving.errors import BadGateway, DeadlineExceeded, QueueFull, ShuttingDown
from siftlm.serving.vllm_client import VLLM_COMMAND, AdapterFolder, VllmClient

WAYS = [BASE, mode(), mode(n=5), mode(use="context", n=2), mode(use="both", n=2)]
LOAD, UNLOAD, COMPLETIONS = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("memories") / "docs") as made:
        made.add(TEXTS)
        yield made


@pytest.fixture(scope="module")
def alone(memory):
    """The engine that speaks for itself."""
    made = ServingEngine(controller(), {"docs": memory}, slots=2)
    yield made
    made.close()


def fake(**changes):
    return FakeVLLM(tiny.model("llama"), tiny.tokenizer(), **changes)


@pytest.fixture
def vllm():
    made = fake()
    yield made
    made.close()


class Counted(Metrics):
    def __init__(self):
        self.modes, self.seconds, self.tokens = [], [], 0

    def finished(self, mode, seconds):
        self.modes.append(mode)
        self.seconds.append(seconds)

    def generated(self, tokens):
        self.tokens += tokens


@pytest.fixture
def relay(memory, vllm, tmp_path):
    made = Relay(ServingEngine(controller(), {"docs": memory}, slots=2, count=Counted()), vllm.url, tmp_path / "handed")
    yield made
    made.close(grace=20)


def plainly(event):
    """A read or said event, with logarithms as far as two ways of computing them agree."""

    def of(token):
        assert [logprob for *_, logprob in token.top] == sorted((logprob for *_, logprob in token.top), reverse=True)
        top = sorted((number, text, round(logprob, 3)) for number, text, logprob in token.top)
        return token.id, token.text, None if token.logprob is None else round(token.logprob, 3), top

    if isinstance(event, (events.PromptRead, events.ChoiceDelta)):
        return type(event).__name__, getattr(event, "choice", 0), getattr(event, "text", ""), [*map(of, event.tokens)]
    return type(event).__name__, event if isinstance(event, events.ChoiceEnded) else None


def same(relay, alone, asked):
    """Whatever the engine says of a job, but for its steps, which it remembers; each choice in its order."""
    ours, theirs = ([plainly(event) for event in Heard(one, asked).all()] for one in (relay, alone))
    ours, theirs = ([told for told in one if told[0] != "Stepped"] for one in (ours, theirs))
    assert ours == theirs
    return ours


@pytest.mark.slow
def test_what_vllm_says_is_what_the_engine_says(relay, alone, vllm):
    said = set()
    for way in (WAYS[0], WAYS[1], WAYS[4]):
        asked = job(relay, PROMPTS[0], way, most=10)
        same(relay, alone, asked)
        said.add(Heard(relay, asked).text())
    assert len(said) == 3
    assert len(vllm.bodies(LOAD)) == 2


@pytest.mark.slow
def test_whatever_is_asked(relay, alone):
    for prompt in PROMPTS[:2]:
        for way in WAYS:
            for own in (
                {},
                {"top": 0},
                {"top": 3},
                {"top": 2, "echo": True},
                {"top": 0, "echo": True},
                {"echo": True},
                {"stop": ("e", "x\ny")},
                {"most": 0, "top": 1, "echo": True},
                {"most": 0, "echo": True},
                {"most": 0},
            ):
                same(relay, alone, job(relay, prompt, way, **{"most": 6, **own}))
    assert sum(relay.count.modes.count(way.name) for way in WAYS[:2]) == len(relay.count.modes)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [2, 5])
def test_chunks_may_hold_several_tokens(memory, alone, tmp_path, interval):
    vllm = fake(interval=interval)
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path)
    try:
        for own in ({}, {"top": 1, "echo": True}, {"stop": ("a",)}):
            same(relay, alone, job(relay, PROMPTS[2], mode(), most=9, **own))
    finally:
        relay.close()
        vllm.close()


def test_events_come_in_their_order_and_say_where_the_time_went(relay):
    heard = Heard(relay, job(relay, PROMPTS[0], mode(), most=2, top=1, echo=True))
    kinds = [type(event).__name__ for event in heard.all()]
    assert kinds == [
        "Selected",
        *["Stepped"] * 3,
        "Tuned",
        "PromptRead",
        "ChoiceDelta",
        "ChoiceDelta",
        "ChoiceEnded",
        "Finished",
    ]
    assert set(heard.all()[-1].seconds) == {"queue", "select", "learn", "generate"}
    assert relay.count.seconds == [heard.all()[-1].seconds]
    assert (relay.count.modes, relay.count.tokens) == (["sift-3"], 2)


def test_the_same_again_is_neither_learned_nor_written_nor_loaded_again(relay, vllm):
    first = Heard(relay, job(relay, PROMPTS[0], mode()))
    first.all()
    (folder,) = relay.adapter_folder.folder.iterdir()
    before = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    together = [Heard(relay, job(relay, PROMPTS[0], mode())) for _ in range(4)]
    assert {one.text() for one in together} == {first.text()}
    assert all(one.of(events.Selected)[0].cached for one in together)
    assert len(vllm.bodies(LOAD)) == 1
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert vllm.bodies(LOAD)[0] == {"lora_name": folder.name, "lora_path": str(folder)}


def test_the_base_model_has_no_adapter_and_no_folder(relay, vllm):
    Heard(relay, job(relay, PROMPTS[0])).all()
    assert vllm.bodies(COMPLETIONS)[0]["model"] == vllm.name
    assert vllm.bodies(LOAD) == [] == list(relay.adapter_folder.folder.iterdir())


def test_choices_draw_from_seeds_of_their_own_and_follow_the_echo(relay, vllm):
    heard = Heard(relay, job(relay, PROMPTS[0], choices=3, temperature=1.0, seed=5, echo=True, top=0, most=12))
    assert len({heard.text(choice) for choice in range(3)}) > 1
    assert sorted(body["seed"] for body in vllm.bodies(COMPLETIONS)) == [5, 6, 7]
    assert [body["echo"] for body in vllm.bodies(COMPLETIONS)] == [True, False, False]
    assert isinstance(heard.all()[0], events.PromptRead)
    assert len(heard.of(events.ChoiceEnded)) == 3


@pytest.mark.slow
def test_the_least_recently_used_adapters_go(memory, vllm, tmp_path):
    relay = Relay(ServingEngine(controller(), {"docs": memory}, slots=2), vllm.url, tmp_path, most=2)
    try:
        for prompt in (*PROMPTS[:2], PROMPTS[0], PROMPTS[2]):
            Heard(relay, job(relay, prompt, mode(n=1), most=1)).all()
        names = [body["lora_name"] for body in vllm.bodies(LOAD)]
        assert list(vllm.adapters) == [names[0], names[2]]
        assert sorted(folder.name for folder in relay.adapter_folder.folder.iterdir()) == [names[0], names[2]]
        assert vllm.most == 2
        Heard(relay, job(relay, PROMPTS[1], mode(n=1), most=1)).all()  # learned before, and written anew
        assert vllm.bodies(LOAD)[-1]["lora_name"] not in names
    finally:
        relay.close()
    assert vllm.adapters == {}
    assert list(tmp_path.iterdir()) == []


def test_a_vllm_that_began_anew_gets_the_adapter_again(relay, vllm):
    first = Heard(relay, job(relay, PROMPTS[0], mode()))
    assert first.text()
    vllm.begin_anew()
    assert Heard(relay, job(relay, PROMPTS[0], mode())).text() == first.text()
    assert [body["lora_name"] for body in vllm.bodies(LOAD)] == [*vllm.adapters] * 2


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_a_rank_that_is_too_large(memory, tmp_path, old):
    vllm = fake(rank=1, old=old)
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path)
    try:
        error = Heard(relay, job(relay, PROMPTS[0], mode())).all()[-1].error
        assert isinstance(error, BadGateway)
        assert error.status == 502
        assert "rank 2 is greater than max_lora_rank 1" in str(error)
        assert "--max-lora-rank 2" in str(error)
        assert Heard(relay, job(relay, PROMPTS[0])).text(), "the base model needs none"
    finally:
        relay.close()
        vllm.close()


def test_a_vllm_without_adapters_is_told_how_to_start(memory, tmp_path, caplog):
    engine = ServingEngine(controller(), {"docs": memory})
    try:
        for changes, said in [
            ({"updating": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True .* --enable-lora"),
            ({"length": 32}, "--max-model-len 64"),
            ({"key": "secret"}, "Unauthorized"),
        ]:
            vllm = fake(**changes)
            with pytest.raises(BadGateway, match=said):
                Relay(engine, vllm.url, tmp_path)
            vllm.close()
        with pytest.raises(BadGateway, match=r"cannot be reached: .*refused"):
            Relay(engine, vllm.url, tmp_path)
        assert not caplog.messages, "it would be said twice"
        for wrong in ("localhost:8001", "ftp://host", "http://", "http://host:99999", "http://me@host", 7 * "x"):
            with pytest.raises(InvalidInput, match="address"):
                Relay(engine, wrong, tmp_path)
        vllm, blocked = fake(key="secret"), tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(SiftlmError, match="cannot write adapters"):
            Relay(engine, vllm.url + "/v1/", blocked, key="secret")
        vllm.close()
    finally:
        engine.close()


def test_lora_that_is_not_enabled_shows_at_the_first_adapter(memory, tmp_path):
    vllm = fake(lora=False)
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path)
    try:
        assert "--enable-lora" in str(Heard(relay, job(relay, PROMPTS[0], mode())).all()[-1].error)
    finally:
        relay.close()
        vllm.close()


def test_a_token_that_ends_a_text_ends_it_there_too(relay, vllm, monkeypatch):
    drawn = iter([86, 70, 0])
    monkeypatch.setattr(vllm, "drawn", lambda *_: next(drawn))
    heard = Heard(relay, job(relay, PROMPTS[0], top=0))
    assert heard.of(events.ChoiceEnded) == [events.ChoiceEnded(0, "stop", 3)]
    assert [token.id for event in heard.of(events.ChoiceDelta) for token in event.tokens] == [86, 70, 0]
    assert heard.text() == relay.tokenizer.decode([86, 70])
    assert vllm.bodies(COMPLETIONS)[0]["stop_token_ids"] == [0]


def test_adapters_in_use_stay(tmp_path):
    known, asked = [], []

    class Loads:
        def load(self, name, folder, rank):
            asked.append(rank)
            known.append(name)

        def unload(self, name):
            known.remove(name)
            return True

    shelf = AdapterFolder(Loads(), tmp_path, most=1, rank=4)
    first, second = shelf.hold("a"), shelf.hold("b")
    for adapter in (first, second):
        adapter.folder.mkdir()
        shelf.load(adapter)
    assert known == [first.name, second.name]
    assert shelf.hold("a") is first
    shelf.release(first)
    shelf.release(second)
    third = shelf.hold("c")
    shelf.load(third)
    assert known == [first.name, third.name], "the first is held once more"
    assert [folder.name for folder in shelf.folder.iterdir()] == [first.name]
    assert asked == [4, 4, 4]
    shelf.clear()
    assert known == list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_vllm_does_not_see_is_not_told_to_clients(relay, vllm, monkeypatch):
    load = vllm.load
    monkeypatch.setattr(vllm, "load", lambda lora_name, lora_path: load(lora_name, lora_path + "/elsewhere"))
    error = Heard(relay, job(relay, PROMPTS[0], mode())).all()[-1].error
    assert isinstance(error, BadGateway)
    assert "No adapter found for FOLDER" in str(error)


@pytest.mark.slow
def test_an_answer_that_breaks_off_is_a_failure(relay, vllm):
    vllm.broken = True
    assert isinstance(Heard(relay, job(relay, PROMPTS[0])).all()[-1].error, BadGateway)
    vllm.broken = False
    assert Heard(relay, job(relay, PROMPTS[0])).text()


def test_a_vllm_that_dies_fails_requests_and_nothing_else(memory, tmp_path):
    vllm = fake()
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path)
    assert Heard(relay, job(relay, PROMPTS[0], mode())).text()
    vllm.close()
    for way in (BASE, mode()):
        assert isinstance(Heard(relay, job(relay, PROMPTS[0], way)).all()[-1].error, BadGateway)
    assert relay.call(lambda: 1).result(60) == 1
    relay.close()
    assert list(tmp_path.iterdir()) == []


def test_a_vllm_that_is_silent_is_not_waited_for(memory, vllm, tmp_path):
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path, timeout=0.1)
    vllm.pause = 0.5
    try:
        assert "not responded for 0.1 s" in str(Heard(relay, job(relay, PROMPTS[0])).all()[-1].error)
        late = Heard(relay, job(relay, PROMPTS[0], deadline=time.monotonic() + 0.05))
        assert isinstance(late.all()[-1].error, DeadlineExceeded)
    finally:
        relay.close()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_who_hangs_up_is_not_worked_for(relay, vllm):
    vllm.pause = 0.02
    heard = Heard(relay, job(relay, PROMPTS[0], mode(), most=40))
    until(lambda: vllm.bodies(COMPLETIONS))
    heard.ticket.cancel()
    until(lambda: vllm.aborted)
    assert relay.state.decoding == 0
    assert not any(isinstance(event, (events.Finished, events.Failed)) for event in heard.waiting.queue)
    heard.ticket.cancel()
    vllm.pause = 0
    assert Heard(relay, job(relay, PROMPTS[0], mode())).text()
    assert not any(adapter.users for adapter in relay.adapter_folder._kept.values())


@pytest.mark.slow
def test_more_than_vllm_is_to_have_are_refused(memory, vllm, tmp_path):
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path, streams=1, queue=1)
    vllm.goes_on.clear()
    try:
        accepted = [Heard(relay, job(relay, PROMPTS[0])) for _ in range(2)]
        # Both are with vLLM or wait for it: one that the engine still holds does not count.
        until(lambda: relay.state.decoding == 1 and len(relay._requests) == 2)
        with pytest.raises(QueueFull):
            relay.submit(job(relay, PROMPTS[0]), print)
        vllm.goes_on.set()
        assert len({one.text() for one in accepted}) == 1
        assert Heard(relay, job(relay, PROMPTS[0])).text()
    finally:
        vllm.goes_on.set()
        relay.close()


@pytest.mark.slow
def test_what_was_accepted_is_finished_at_the_end_unless_grace_ends(memory, vllm, tmp_path):
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path)
    vllm.pause = 0.01
    heard = [Heard(relay, job(relay, prompt, mode(n=1))) for prompt in PROMPTS[:3]]
    relay.close()
    assert all(one.text() for one in heard)
    with pytest.raises(ShuttingDown):
        relay.submit(job(relay, PROMPTS[0]), print)
    relay = Relay(ServingEngine(controller(), {"docs": memory}), vllm.url, tmp_path)
    vllm.goes_on.clear()
    late = Heard(relay, job(relay, PROMPTS[0], most=40))
    until(lambda: relay.state.decoding)
    relay.close(grace=0.05)
    vllm.goes_on.set()
    assert isinstance(late.all()[-1].error, ShuttingDown)


def test_a_disk_that_is_full_is_told_to_who_asked(relay, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    adapters = relay.call(lambda: relay.controller.engine).result(60)
    save = adapters.save
    monkeypatch.setattr(adapters, "save", full)
    assert isinstance(Heard(relay, job(relay, PROMPTS[0], mode())).all()[-1].error, OSError)
    monkeypatch.setattr(adapters, "save", save)
    assert Heard(relay, job(relay, PROMPTS[0], mode())).text()


@pytest.mark.slow
def test_tokens_without_numbers_are_refused(relay, vllm, monkeypatch):
    chunk = vllm.chunk
    monkeypatch.setattr(vllm, "chunk", lambda body, *rest: chunk({**body, "return_tokens_as_token_ids": False}, *rest))
    assert "too old" in str(Heard(relay, job(relay, PROMPTS[0])).all()[-1].error)


def test_of_several_names_the_models_own_is_taken(vllm, monkeypatch):
    card = vllm.models()["data"][0]
    cards = [{**card, "id": "other"}, {**card, "id": "lora", "parent": "other"}, {**card, "id": "own"}]
    monkeypatch.setattr(vllm, "models", lambda: {"data": cards})
    client = VllmClient(vllm.url)
    assert [client.served_model(name).name for name in ("own", "lora", "")] == ["own", "other", "other"]


@pytest.mark.slow
def test_nobody_notices_the_others(memory, alone, tmp_path):
    vllm = fake()
    relay = Relay(ServingEngine(controller(), {"docs": memory}, slots=3), vllm.url, tmp_path, most=3, streams=8)
    try:
        asked = [(prompt, way) for _ in range(2) for prompt in PROMPTS[:3] for way in WAYS]
        expected = {
            key: Heard(alone, job(alone, *key[:1], WAYS[key[1]])).text()
            for key in {(prompt, WAYS.index(way)) for prompt, way in asked}
        }
        found: dict[int, str] = {}

        def ask(at):
            for place in range(at, len(asked), 4):
                found[place] = Heard(relay, job(relay, *asked[place])).text()

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[at] for at in range(len(asked))] == [expected[p, WAYS.index(way)] for p, way in asked]
        assert not any(adapter.users for adapter in relay.adapter_folder._kept.values())
    finally:
        relay.close()
        vllm.close()
    assert vllm.adapters == {}


@pytest.mark.slow
def test_over_http(memory, alone, vllm, tmp_path):
    pytest.importorskip("uvicorn")
    with background_server(controller(), {"docs": memory}, vllm=vllm.url, vllm_folder=tmp_path) as url:
        name = json.load(urllib.request.urlopen(f"{url}/v1/models"))["data"][0]["id"]
        body = {
            "model": f"{name}:sift-3",
            "prompt": PROMPTS[0],
            "max_tokens": 8,
            "temperature": 0,
            "siftlm": {"rate": 0.02},
        }
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(request))
        assert answer["choices"][0]["text"] == Heard(alone, job(alone, PROMPTS[0], mode())).text()
        assert answer["usage"]["completion_tokens"] == 8
        assert b'siftlm_tokens_total{kind="made"} 8.0' in urllib.request.urlopen(f"{url}/metrics").read()
        vllm.begin_anew()
        vllm.updating = False
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(request)
        assert failed.value.code == 502
        assert json.load(failed.value)["error"]["code"] == "backend_failed"
        failed.value.close()


@pytest.mark.slow
def test_an_address_needs_a_folder(memory):
    with (
        pytest.raises(SiftlmError, match="vllm and vllm_folder must be set together"),
        background_server(controller(), {"docs": memory}, vllm="http://x"),
    ):
        pass


def test_an_empty_prompt_of_one_token(relay, alone):
    asked = Job((0,), "the cat", mode(), SamplingParams(max_tokens=3, temperature=0.0, top=1), echo=True)
    assert same(relay, alone, asked)


def test_the_guide_and_the_help_say_how_vllm_is_started(capsys):
    guide = (Path(__file__).parents[2] / "docs/guide/operating.md").read_text("utf-8")
    block = guide[guide.index("## Bigger models: vLLM") :].split("```")[1].replace("\\\n", " ")
    started, served_by = (shlex.split(line) for line in block.splitlines() if " serve " in line)
    arguments = parser().parse_args(served_by[1:])
    assert (arguments.vllm, arguments.vllm_folder) == ("http://127.0.0.1:8001", "/var/lib/siftlm/adapters")
    assert arguments.context_tokens == int(started[started.index("--max-model-len") + 1])
    assert arguments.vllm_adapters == int(started[started.index("--max-cpu-loras") + 1])
    with pytest.raises(SystemExit):
        parser().parse_args(["serve", "--help"])
    said = capsys.readouterr().out
    for needed in VLLM_COMMAND.format(rank=16).replace("vllm serve …", "").split():
        assert needed in said
        assert needed in guide
