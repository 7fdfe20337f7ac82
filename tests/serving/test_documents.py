"""`/v1/documents`: what is added is there, what is deleted is gone, and nobody is told where things are."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from serving.fake_engine import FakeEngine, client
from siftlm.errors import BadRecord, InvalidInput, NotAMemory
from siftlm.memory import Memory, durability
from siftlm.serving.routes import documents
from siftlm.serving.routes.documents import routes

PATH = "/v1/documents"


@contextmanager
def opened(home):
    with Memory.create(home / "docs") as docs, Memory.create(home / "wiki") as wiki:
        docs.add([f"text number {n}" for n in range(5)], [{"n": n} for n in range(5)], ids=[f"t{n}" for n in range(5)])
        made = FakeEngine({"docs": docs, "wiki": wiki})
        yield made
        made.close()


@pytest.fixture
def engine(tmp_path):
    with opened(tmp_path) as made:
        yield made


@pytest.fixture
def own(engine):
    return client(engine, routes)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """An engine whose memories nobody changes."""
    with opened(tmp_path_factory.mktemp("still")) as made:
        yield made
        assert len(made.memories["docs"].documents()) == 5


@pytest.fixture(scope="module")
def asking(still):
    return client(still, routes)


def told(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json().get("error", answer.json())


# --- a memory, listed


def test_a_memory_lists_its_documents_by_number(engine):
    docs = engine.memories["docs"]
    docs.add(["long " * 2000], [{"a": ["b"]}])
    docs.delete({"@id": "t1"})
    found = docs.documents()
    assert [one.number for one in found] == [0, 2, 3, 4, 5]
    assert [one.id for one in found] == ["t0", "t2", "t3", "t4", None]
    assert (found[1].text, found[1].meta, found[1].passages) == ("text number 2", {"n": 2}, 1)
    assert found[-1].passages > 2
    assert found[-1].text == ("long " * 40)
    assert [one.number for one in docs.documents(after=2, limit=2)] == [3, 4]
    assert docs.documents(after=5) == []
    assert engine.memories["wiki"].documents() == []
    for wrong in ({"limit": 0}, {"after": -2}, {"limit": 1.5}):
        with pytest.raises(InvalidInput):
            docs.documents(**wrong)


def test_each_change_makes_another_version(engine):
    docs, seen = engine.memories["docs"], []

    def note():
        seen.append(docs.version)
        assert docs.version == seen[-1]  # reading changes nothing

    note()
    docs.add(["something new"])
    note()
    docs.delete({"@id": "t1"})
    note()
    docs.compact()
    note()
    docs.search("text")
    assert docs.version == seen[-1]
    docs.add(["something else"])
    note()
    with Memory.open(docs.path) as other:  # of another process
        assert other.version == seen[-1]
        other.delete({"@id": "t2"})
        note()
    assert len(set(seen)) == len(seen)


# --- HTTP


def test_pages_follow_one_another(asking):
    seen, after = [], -1
    for _ in range(3):
        page = told(asking.get(PATH, params={"limit": 2, "after": after}), 200)
        seen += [one["id"] for one in page["data"]]
        after = page["next"]
    assert seen == [f"t{n}" for n in range(5)]
    assert (page["has_more"], page["next"], page["memory"], page["object"]) == (False, None, "docs", "list")
    assert page["data"][0] == {
        "object": "document",
        "number": 4,
        "id": "t4",
        "meta": {"n": 4},
        "text": "text number 4",
        "passages": 1,
    }
    assert told(asking.get(PATH, params={"memory": "wiki"}), 200)["data"] == []


def test_what_is_added_is_found_and_what_is_deleted_is_not(own, engine):
    docs, before = engine.memories["docs"], engine.memories["docs"].version
    body = {"documents": [{"text": "owls are awake at night", "id": "a/b c?", "meta": {"year": 1900}}]}
    added = told(own.post(PATH, json=body), 200)
    assert (added["ids"], added["documents"], added["passages"], added["memory"]) == (["a/b c?"], 1, 1, "docs")
    [hit] = docs.search("owls at night", 1)
    assert (hit.text, hit.id, hit.meta) == ("owls are awake at night", "a/b c?", {"year": 1900})
    between = docs.version
    gone = told(own.delete(f"{PATH}/a%2Fb%20c%3F"), 200)
    assert (gone["deleted"], gone["documents"], gone["passages"], gone["id"]) == (True, 1, 1, "a/b c?")
    assert "owls are awake at night" not in docs.search("owls at night", 6).texts
    assert len({before, between, docs.version}) == 3
    assert told(own.delete(f"{PATH}/a%2Fb%20c%3F"), 404)["code"] == "document_not_found"


def test_what_came_without_an_id_can_be_deleted_as_well(own, engine):
    ids = told(own.post(PATH, json={"documents": [{"text": "one"}, {"text": "two"}], "memory": "wiki"}), 200)["ids"]
    assert len(set(ids)) == 2
    told(own.delete(f"{PATH}/{ids[0]}", params={"memory": "wiki"}), 200)
    assert [one.id for one in engine.memories["wiki"].documents()] == ids[1:]
    assert len(engine.memories["docs"]) == 5


@pytest.mark.parametrize(
    "body", ['{"text": "a\\ud800"}', '{"text": "a", "id": "\\ud800"}', '{"text": "a", "meta": {"\\udfff": 1}}']
)
def test_half_a_character_is_not_kept_as_something_else(own, engine, body):
    said = told(own.post(PATH, content=f'{{"documents": [{body}]}}', headers={"Content-Type": "application/json"}), 400)
    assert "lone surrogate" in said["message"]
    assert len(engine.memories["docs"]) == 5
    whole = '{"documents": [{"text": "a", "id": "\\ud83d\\ude00"}]}'
    ids = told(own.post(PATH, content=whole, headers={"Content-Type": "application/json"}), 200)["ids"]
    assert ids == ["\U0001f600"]


def test_metadata_of_many_levels_is_refused(own, engine):
    def deep(levels):
        return {"a": 1} if levels == 1 else {"a": deep(levels - 1)}

    for levels in (51, 900):
        body = {"documents": [{"text": "zebra", "meta": deep(levels)}]}
        assert "nested too deeply" in told(own.post(PATH, json=body), 400)["message"]
    assert len(engine.memories["docs"]) == 5
    told(own.post(PATH, json={"documents": [{"text": "zebra", "meta": deep(50)}]}), 200)
    assert [one["meta"] for one in told(own.get(PATH, params={"limit": 100}), 200)["data"]][-1] == deep(50)


def test_what_has_no_id_is_deleted_by_its_number(own, engine):
    engine.memories["wiki"].add(["three", "four"])
    listed = told(own.get(PATH, params={"memory": "wiki"}), 200)["data"]
    number = next(one["number"] for one in listed if one["id"] is None)
    gone = told(own.delete(PATH, params={"memory": "wiki", "number": number}), 200)
    assert (gone["number"], gone["deleted"], gone["documents"]) == (number, True, 1)
    assert number not in [one.number for one in engine.memories["wiki"].documents()]
    again = told(own.delete(PATH, params={"memory": "wiki", "number": number}), 404)
    assert again["code"] == "document_not_found"
    for wrong in ("-1", "1e3", "", str(2**63)):
        told(own.delete(PATH, params={"number": wrong}), 400)
    told(own.delete(PATH), 400)  # never all of them
    assert len(engine.memories["docs"]) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": ""},
        {"text": "  "},
        {"text": 5},
        {"id": "no text"},
        {"text": "x", "meta": [1]},
        {"text": "x", "metadata": {}},
        {"text": "x", "id": 7},
        {"text": "x", "meta": {"a": float("nan")}},
        "text",
        None,
    ],
)
def test_all_are_added_or_none(asking, still, wrong):
    import json

    before = still.memories["docs"].version
    body = json.dumps({"documents": [{"text": "a good one"}, wrong]})
    told(asking.post(PATH, content=body, headers={"Content-Type": "application/json"}), 400)
    assert (len(still.memories["docs"]), still.memories["docs"].version) == (5, before)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"text": "a\0b"}, "text"),
        ({"text": "x", "id": "a\0"}, "id"),
        ({"text": "x", "meta": {"a\0": 1}}, "meta"),
        ({"text": "x", "meta": {"a": ["\0"]}}, "meta"),
        ({"text": "x", "meta": {"a": {"b": [{"c": "\0"}]}}}, "meta"),
    ],
)
def test_a_nul_is_said_to_be_one(asking, still, wrong, param):
    error = told(asking.post(PATH, json={"documents": [{"text": "good"}, wrong]}), 400)
    assert "NUL" in error["message"]
    assert error["param"] == f"documents[1].{param}"
    assert len(still.memories["docs"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/../b", "/", "//x/", "?a=b#c", "\\u0000", "語" * 1000])
def test_every_id_that_is_taken_can_be_deleted(own, engine, name):
    told(own.post(PATH, json={"documents": [{"text": f"known as {name}", "id": name}]}), 200)
    # A client that writes the whole of it in hexadecimal digits cannot be misunderstood on the way.
    gone = told(own.delete(f"{PATH}/" + "".join(f"%{byte:02X}" for byte in name.encode())), 200)
    assert (gone["id"], gone["documents"]) == (name, 1)
    assert len(engine.memories["docs"]) == 5


def test_an_id_is_one_line(asking, still):
    error = told(asking.post(PATH, json={"documents": [{"text": "x", "id": "t0\n"}]}), 400)
    assert (error["param"], "line break" in error["message"]) == ("documents[0].id", True)
    told(asking.delete(f"{PATH}/t0%0A"), 404)
    assert len(still.memories["docs"]) == 5


def test_an_id_is_no_longer_than_an_address(asking):
    error = told(asking.post(PATH, json={"documents": [{"text": "x", "id": "x" * 1001}]}), 400)
    assert (error["param"], "at most 1000 characters" in error["message"]) == ("documents[0].id", True)


@pytest.mark.parametrize("body", [{}, {"documents": []}, {"documents": [{"text": "x"}] * 1001}, [], {"memory": "docs"}])
def test_how_many_at_a_time(asking, body):
    told(asking.post(PATH, json=body), 400)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"after": -2}, {"after": 2**63}, {"after": "x"}])
def test_limits_of_a_list(asking, query):
    told(asking.get(PATH, params=query), 400)
    told(asking.get(PATH, params={"after": 2**63 - 1, "limit": 100}), 200)


@pytest.mark.parametrize("name", ["../docs", "docs'; DROP TABLE documents; --", "", "DOCS", "%"])
def test_names_from_outside_are_names_and_nothing_else(asking, still, name):
    assert told(asking.get(PATH, params={"memory": name}), 404)["code"] == "memory_not_found"
    told(asking.delete(f"{PATH}/x' OR 1=1 --"), 404)
    told(asking.delete(f"{PATH}/%00"), 400)
    told(asking.delete(f"{PATH}/..%2F..%2Fmanifest.json"), 404)
    assert len(still.memories["docs"].documents()) == 5
    assert still.memories["docs"].verify().ok


def test_a_key_reaches_as_far_as_it_goes(engine):
    body = {"documents": [{"text": "new"}]}
    reader, writer = client(engine, routes, as_="reader"), client(engine, routes, as_="writer")
    told(reader.get(PATH), 200)
    assert told(reader.post(PATH, json=body), 403)["code"] == "not_allowed"
    told(reader.delete(f"{PATH}/t0"), 403)
    told(writer.post(PATH, json=body), 200)
    told(writer.delete(f"{PATH}/t0"), 200)
    # Whether there is such a memory is nobody's business who may not read it.
    there, not_there = (writer.get(PATH, params={"memory": name}) for name in ("wiki", "else"))
    assert told(there, 403)["message"].replace("wiki", "else") == told(not_there, 403)["message"]
    told(writer.post(PATH, json={**body, "memory": "wiki"}), 403)
    told(client(engine, routes, as_="nobody").get(PATH), 401)
    assert len(engine.memories["wiki"]) == 0


def test_another_process_that_writes_is_waited_for_and_not_named(own, engine, monkeypatch):
    monkeypatch.setattr(documents, "LOCK_WAIT_SECONDS", 0.1)
    folder = engine.memories["docs"].path
    with durability.writer_lock(folder, "a long build"):
        for answer in (own.post(PATH, json={"documents": [{"text": "new"}]}), own.delete(f"{PATH}/t0")):
            error = told(answer, 503)
            assert error["code"] == "memory_locked"
            assert answer.headers["Retry-After"] == "2"
            assert str(folder) not in error["message"]
            assert "process 1" not in error["message"]
        told(own.get(PATH), 200)  # reading goes on
    told(own.post(PATH, json={"documents": [{"text": "new"}]}), 200)


def test_a_damaged_memory_is_said_without_its_path(own, engine, caplog):
    folder = engine.memories["docs"].path
    database = next(folder.glob("g*/texts.sqlite"))
    engine.memories["docs"].close()
    database.write_bytes(b"nonsense" * 1000)
    error = told(own.get(PATH), 500)
    assert error["code"] == "memory_fails"
    assert str(folder) not in error["message"]
    assert str(folder) in caplog.text


@pytest.mark.parametrize("error", [NotAMemory, BadRecord])
def test_errors_that_name_folders_are_not_passed_on(own, engine, monkeypatch, caplog, error):
    for name in ("documents", "add", "delete"):
        monkeypatch.setattr(Memory, name, lambda *_, **__: (_ for _ in ()).throw(error("/var/lib/secret: holds none")))
    body = {"documents": [{"text": "new"}]}
    for answer in (own.get(PATH), own.post(PATH, json=body), own.delete(f"{PATH}/t0"), own.delete(f"{PATH}?number=0")):
        assert "secret" not in told(answer, 500)["message"]
    assert "/var/lib/secret" in caplog.text


def test_changes_take_turns_off_the_event_loop(own, engine, monkeypatch):
    inside, most, threads, turn = [], [], set(), threading.Lock()
    add = Memory.add

    @contextmanager
    def counted():
        with turn:
            inside.append(1)
            most.append(len(inside))
        yield
        inside.pop()

    def watched(self, *args, **settings):
        threads.add(threading.current_thread().name)
        with counted():
            return add(self, *args, **settings)

    monkeypatch.setattr(Memory, "add", watched)
    with own:  # one event loop for all
        threads_here = [
            threading.Thread(target=own.post, args=(PATH,), kwargs={"json": {"documents": [{"text": f"new {n}"}]}})
            for n in range(6)
        ]
        for thread in threads_here:
            thread.start()
        for thread in threads_here:
            thread.join()
    assert len(engine.memories["docs"]) == 11
    assert max(most) == 1
    assert all(name.startswith("asyncio_") for name in threads)


def test_not_everybody_may_wait(asking, monkeypatch):
    monkeypatch.setattr(documents, "MAX_WAITING_CHANGES", 0)
    assert told(asking.post(PATH, json={"documents": [{"text": "new"}]}), 503)["code"] == "memory_locked"


def test_a_page_of_another_site_cannot_make_a_browser_add(asking, still):
    body = b'{"documents": [{"text": "planted"}]}'
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        told(asking.post(PATH, content=body, headers=headers), 415)
    assert len(still.memories["docs"]) == 5


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"id": "x"}, "documents[1].text"),
        ({"text": "x", "metadata": {}}, "documents[1].metadata"),
        ({"text": "x", "id": 7}, "documents[1].id"),
        ("x", "documents[1]"),
    ],
)
def test_the_wrong_one_is_named(asking, document, param):
    error = told(asking.post(PATH, json={"documents": [{"text": "good"}, document]}), 400)
    assert error["param"] == param
    assert param in error["message"].replace("]: ", "].").replace("you must provide ", "")
