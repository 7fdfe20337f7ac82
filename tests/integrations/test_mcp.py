"""The MCP server's tools, called by the SDK's client in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

import anyio
import numpy as np
from mcp import Client

import siftlm
from siftlm.errors import Conflict
from siftlm.integrations import _mcp_tools, mcp
from siftlm.integrations.ranking import memory_settings, rank
from siftlm.memory import Found, Memory

PROMPT = "When does the lighthouse keeper light the lamp, and how much oil does it burn in a night?"
ENTRIES = [
    ("The keeper of the lighthouse lights the lamp at dusk.", {"kind": "log", "year": 1901}),
    ("At dusk the keeper lit the lamp of the lighthouse.", {"kind": "log", "year": 1902}),
    ("The lighthouse keeper lights the lamp when dusk falls.", {"kind": "log", "year": 1903}),
    ("The lamp burns two pints of colza oil in a night.", {"kind": "inventory", "year": 1901}),
    ("A new lens for the lamp came by boat from Paris.", {"kind": "inventory", "year": 1904}),
    ("Puffins nest on the cliff to the north.", {"kind": "log", "year": 1904}),
]


def fill(folder: Path, entries: list[tuple[str, dict[str, Any]]] = ENTRIES, **settings: Any) -> Memory:
    memory = Memory.create(folder, **settings)
    memory.add([text for text, _ in entries], [meta for _, meta in entries], ids=[f"e{n}" for n in range(len(entries))])
    return memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with fill(tmp_path / "station") as memory:
        yield memory


def call_all(memories: dict[str, Memory], calls: list[tuple[str, dict[str, Any]]], **settings: Any) -> list[Any]:
    """The results of these calls, made at once by one client."""
    results: list[Any] = [None] * len(calls)

    async def main() -> None:
        async with Client(mcp.create_server(memories, **settings)) as client:

            async def call(at: int) -> None:
                results[at] = await client.call_tool(*calls[at])

            async with anyio.create_task_group() as group:
                for at in range(len(calls)):
                    group.start_soon(call, at)

    anyio.run(main)
    return results


def call(memory: Memory, tool: str, /, **arguments: Any) -> Any:
    [result] = call_all({"station": memory}, [(tool, arguments)])
    return result


def answer(memory: Memory, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The structured answer; the client has compared it with the tool's output schema."""
    result = call(memory, tool, **arguments)
    assert not result.is_error, result.content[0].text
    return result.structured_content


def complaint(memory: Memory, tool: str, /, **arguments: Any) -> str:
    result = call(memory, tool, **arguments)
    assert result.is_error
    assert "Traceback" not in result.content[0].text
    return result.content[0].text


def found_by_memory(memory: Memory, query: Any = PROMPT, n: int = 20, **settings: Any) -> Found:
    """What the memory finds with the defaults of all adapters."""
    return memory.search(query, n, **memory_settings("sift", {"candidates": "both", **settings}))


def listed(memories: dict[str, Memory]) -> dict[str, Any]:
    async def main() -> Any:
        async with Client(mcp.create_server(memories)) as client:
            return await client.list_tools()

    return {tool.name: tool for tool in anyio.run(main).tools}


# --- what a client is told


def test_the_tools_are_listed_with_limits_and_schemas(memory: Memory) -> None:
    tools = listed({"docs": memory, "wiki": memory})
    assert set(tools) == {"search", "explain", "select", "redundancy"}
    for tool in tools.values():
        assert tool.input_schema["additionalProperties"] is False
        assert tool.description.endswith("Memories: docs, wiki.")
        assert tool.annotations.read_only_hint
        assert tool.output_schema["type"] == "object"
    search = tools["search"].input_schema
    assert search["required"] == ["query"]
    assert (search["properties"]["n"]["minimum"], search["properties"]["n"]["maximum"]) == (1, 100)
    assert all("description" in value for tool in tools.values() for value in tool.input_schema["properties"].values())
    assert set(tools["select"].input_schema["required"]) == {"query", "texts"}


def test_a_search_returns_the_picks_of_the_memory_and_says_why_it_stopped(memory: Memory) -> None:
    found = found_by_memory(memory)
    said = answer(memory, "search", query=PROMPT)
    assert [one["text"] for one in said["passages"]] == found.texts
    assert [one["meta"] for one in said["passages"]] == [hit.meta for hit in found]
    assert [one["id"] for one in said["passages"]] == [hit.id for hit in found]
    assert [one["relevance"] for one in said["passages"]] == pytest.approx([hit.score for hit in found], abs=1e-3)
    shares = found.selection.uncertainty / found.selection.uncertainty[0]
    assert [one["left"] for one in said["passages"]] == pytest.approx(shares[1:].tolist(), abs=1e-3)
    assert said["left"] == said["passages"][-1]["left"]
    assert (said["memory"], said["considered"], said["stopped"]) == ("station", 6, found.selection.stopped)
    assert len(found) < 6


def test_the_text_of_an_answer_holds_all_that_an_assistant_reads(memory: Memory) -> None:
    result = call(memory, "search", query=PROMPT)
    text, said = result.content[0].text, result.structured_content
    assert said["verdict"] in text.splitlines()[0]
    for one in said["passages"]:
        assert one["text"] in text
        assert f"{one['id']}, {json.dumps(one['meta'])}" in text


@pytest.mark.parametrize(
    ("given", "stopped", "sentence"),
    [
        ({}, "min_growth", "would add less than 3% to what these tell"),
        ({"min_growth": 0.3}, "min_growth", "would add less than 30% to what these tell"),
        ({"n": 2, "min_growth": 0}, "n", "A larger n may add something."),
        ({"min_growth": 0}, "exhausted", "5 of 6 passages"),  # the sixth points away from the prompt
    ],
)
def test_the_verdict_names_the_rule_that_stopped_it(memory: Memory, given: Any, stopped: str, sentence: str) -> None:
    said = answer(memory, "search", query=PROMPT, **{"n": 6, **given})
    rule = {"min_growth": given["min_growth"]} if "min_growth" in given else {}
    assert [one["text"] for one in said["passages"]] == found_by_memory(memory, n=given.get("n", 6), **rule).texts
    assert said["stopped"] == stopped
    assert sentence in said["verdict"]
    assert ("would add little" in said["verdict"]) == (stopped == "min_growth")


def test_known_texts_are_not_looked_for_again(memory: Memory) -> None:
    first = answer(memory, "search", query=PROMPT, n=1)["passages"][0]["text"]
    again = answer(memory, "search", query=PROMPT, n=1, known=[first])["passages"][0]["text"]
    assert again == found_by_memory(memory, n=1, known=[first], candidates="vectors").texts[0]
    assert again != first


@pytest.mark.parametrize("where", ['kind = "inventory"', {"kind": "inventory"}, '{"kind": "inventory"}'])
def test_filters_pass_through(memory: Memory, where: Any) -> None:
    for tool in ("search", "explain"):
        passages = answer(memory, tool, query=PROMPT, where=where, min_growth=0)["passages"]
        assert [one["meta"]["kind"] for one in passages] == ["inventory"] * 2


def test_a_query_may_look_like_json(memory: Memory) -> None:
    for query in ('{"level": "oil"}', "[oil] lamp", "[1, 2] oil"):
        assert answer(memory, "search", query=query)["passages"][0]["text"] == found_by_memory(memory, query).texts[0]
    both = answer(memory, "explain", query='["oil", "puffins"]')["passages"]
    assert {one["serves"] for one in both} == {"oil", "puffins"}


def test_words_find_what_vectors_blur(memory: Memory) -> None:
    said = answer(memory, "search", query="the lens", candidates="words")
    assert [one["text"] for one in said["passages"]] == found_by_memory(memory, "the lens", candidates="words").texts


def test_an_explanation_is_of_the_same_picks(memory: Memory) -> None:
    found = found_by_memory(memory)
    why, start = found.selection.explain(), found.selection.uncertainty[0]
    said = answer(memory, "explain", query=PROMPT)
    assert [one["text"] for one in said["passages"]] == found.texts
    assert [one["overlap"] for one in said["passages"]] == pytest.approx(why.overlap.tolist(), abs=1e-3)
    assert [one["alone"] for one in said["passages"]] == pytest.approx((why.alone / start).tolist(), abs=1e-3)
    oil = next(one for one in said["passages"] if "oil" in one["text"])
    assert set(oil["only_words"]) == {"oil", "night"}
    assert said["passages"][0]["serves"] is None


def test_an_explanation_says_which_question_a_passage_serves(memory: Memory) -> None:
    questions = ["How much oil does the lamp burn?", "Where do puffins nest?"]
    passages = answer(memory, "explain", query=questions, n=2, min_growth=0)["passages"]
    assert {one["serves"] for one in passages} == set(questions)
    for one in passages:
        assert ("puffins" in one["serves"]) == ("Puffins" in one["text"])


def test_long_texts_are_shortened_in_an_explanation_and_whole_in_a_search(tmp_path: Path) -> None:
    text = "The lamp of the lighthouse burns oil. " * 6
    with fill(tmp_path / "long", [(text.strip(), {})]) as memory:
        assert answer(memory, "search", query=PROMPT)["passages"][0]["text"] == text.strip()
        short = answer(memory, "explain", query=PROMPT)["passages"][0]["text"]
    assert len(short) == _mcp_tools.SNIPPET_CHARACTERS
    assert short.endswith("…")


def test_texts_of_the_assistant_are_ranked(memory: Memory) -> None:
    texts = [text for text, _ in ENTRIES]
    ranking = rank(memory.embedder.embed([PROMPT], as_query=True), memory.embedder.embed(texts), 20)
    said = answer(memory, "select", query=PROMPT, texts=texts)
    assert [one["index"] for one in said["picks"]] == ranking.indices
    assert [one["text"] for one in said["picks"]] == [texts[index] for index in ranking.indices]
    assert said["left"] == pytest.approx(ranking.left, abs=1e-3)
    assert said["verdict"].startswith(ranking.verdict)
    assert answer(memory, "select", query=PROMPT, texts=json.dumps(texts)) == said, "a list as JSON in a string"
    fewer = answer(memory, "select", query=PROMPT, texts=texts, known=[said["picks"][0]["text"]], n=1)
    assert fewer["picks"][0]["index"] != said["picks"][0]["index"]
    assert len(answer(memory, "select", query=PROMPT, texts=texts, n=2, min_growth=0)["picks"]) == 2


def test_texts_that_say_nothing_are_passed_over(memory: Memory) -> None:
    said = answer(memory, "select", query="How much oil?", texts=["", "  ", "The lamp burns much oil."], min_growth=0)
    assert [one["index"] for one in said["picks"]] == [2]
    assert answer(memory, "select", query="oil", texts=[""])["picks"] == []
    assert answer(memory, "select", query="oil", texts=["Oil burns."], known=["", "Oil burns well."])["picks"]


def test_a_query_without_a_direction_is_said(tmp_path: Path) -> None:
    def embed(texts: list[str]) -> Any:
        return np.array([[text.count("oil"), text.count("lamp")] for text in texts], dtype=float)

    with Memory.create(tmp_path / "two", embedder=embed) as memory:
        memory.add(["oil", "lamp"])
        assert "query has no word" in complaint(memory, "select", query="puffins", texts=["oil"])
        assert "has no direction" in complaint(memory, "search", query="puffins")


def test_redundancy_is_that_of_the_memory(tmp_path: Path) -> None:
    with fill(
        tmp_path / "copies", [(f"The lamp of the lighthouse burns oil, entry {n}.", {}) for n in range(30)]
    ) as memory:
        found = memory.redundancy(20, threshold=0.7)
        result = call(memory, "redundancy", sample=20, threshold=0.7)
    said = result.structured_content
    assert (said["sample"], said["passages"], said["redundant"]) == (20, 30, found.redundant)
    assert (said["advice"], said["recommendation"]) == (found.advice, found.recommendation)
    assert found.recommendation is not None
    assert result.content[0].text.startswith(f"station: {found.recommendation}. ")
    assert found.advice in result.content[0].text
    assert said["examples"] == [list(group.snippets) for group in found.groups]
    assert said["examples"]


# --- what can be wrong


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("search", {}, "the argument query is missing"),
        ("search", {"query": " "}, "query is empty"),
        ("search", {"query": ["oil", ""]}, "query is empty"),
        ("search", {"query": []}, "query must have at least 1 item"),
        ("search", {"query": 3}, "query must be a valid string or be a valid list, got 3"),
        ("search", {"query": "oil", "n": 1000}, "n must be less than or equal to 100, got 1000"),
        ("search", {"query": "oil", "n": 0}, "n must be greater than or equal to 1, got 0"),
        ("search", {"query": "oil", "n": "many"}, "n must be a valid integer"),
        ("search", {"query": "oil", "k": 3}, "unknown argument 'k'"),
        ("search", {"query": "oil", "wher": "x = 1"}, "unknown argument 'wher'; did you mean 'where'?"),
        ("search", {"query": "oil", "memory": "staton"}, "unknown memory 'staton'; did you mean 'station'? Known: st"),
        ("search", {"query": "oil", "where": 'kind = "log" und'}, "where, column 14"),
        ("search", {"query": "oil", "where": {"kind": {"~": 1}}}, "unknown operator '~'"),
        ("search", {"query": "oil", "min_growth": 2}, "min_growth must be less than or equal to 1, got 2"),
        ("search", {"query": "oil", "candidates": "all"}, "candidates must be 'vectors', 'words' or 'both'"),
        ("select", {"query": "oil", "texts": []}, "texts must have at least 1 item"),
        ("select", {"query": "oil", "texts": ["oil", 3]}, "texts[1] must be a valid string, got 3"),
        ("redundancy", {"sample": 1}, "sample must be greater than or equal to 2, got 1"),
        ("find", {}, "unknown tool 'find'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_call_is_said(memory: Memory, tool: str, arguments: Any, message: str) -> None:
    assert message in complaint(memory, tool, **arguments)


def test_nothing_found_says_why(memory: Memory, tmp_path: Path) -> None:
    with Memory.create(tmp_path / "empty") as empty:
        assert "the memory is empty" in answer(empty, "search", query="oil")["verdict"]
        assert "the memory is empty" in answer(empty, "explain", query="oil")["verdict"]
        assert answer(empty, "redundancy")["passages"] == 0
    said = answer(memory, "search", query="oil", where='kind = "diary"')
    assert said["passages"] == []
    assert "no document matches where; fields of the metadata: kind, year" in said["verdict"]
    assert "has a word of the query" in answer(memory, "search", query="zzz", candidates="words")["verdict"]
    with Memory.create(tmp_path / "one", embedder="hashing") as one:
        one.add(["Puffins nest."])
        away = answer(one, "search", query="oil", candidates="vectors")
        assert (away["passages"], away["verdict"]) == ([], "No passage: none of them points towards the query.")


def test_a_memory_without_full_text_refuses_words(tmp_path: Path) -> None:
    with fill(tmp_path / "plain", full_text=False) as memory:
        assert "cannot be searched by words" in complaint(memory, "search", query="oil", candidates="both")
        found = memory.search(PROMPT, 20, **memory_settings("sift", {}))
        assert [one["text"] for one in answer(memory, "search", query=PROMPT)["passages"]] == found.texts


def test_a_damaged_memory_is_a_tool_error(memory: Memory) -> None:
    memory.close()
    with open(memory.path / "g0001" / "vectors.f32", "r+b") as file:
        file.truncate(100)
    assert "vectors.f32: has 100 bytes" in complaint(memory, "search", query="oil")


def test_a_memory_of_precomputed_vectors_is_refused_at_the_start(tmp_path: Path) -> None:
    embedder = siftlm.embedder("precomputed", width=2)
    with Memory.create(tmp_path / "given", embedder=embedder) as memory, pytest.raises(Conflict, match="precomputed"):
        mcp.create_server({"given": memory})


# --- several memories, several callers, several calls


def test_the_first_memory_is_the_default_and_others_have_names(memory: Memory, tmp_path: Path) -> None:
    with fill(tmp_path / "birds", [("Puffins lay one egg.", {})]) as birds:
        memories = {"station": memory, "birds": birds}
        first, second, third = call_all(
            memories,
            [
                ("search", {"query": "puffins"}),
                ("search", {"query": "puffins", "memory": "birds"}),
                ("search", {"query": "puffins", "memory": "wiki"}),
            ],
        )
    assert first.structured_content["memory"] == "station"
    assert second.structured_content["passages"][0]["text"] == "Puffins lay one egg."
    assert third.content[0].text == "unknown memory 'wiki'. Known: birds, station"


def test_what_another_writer_adds_is_found_at_the_next_call(memory: Memory) -> None:
    async def main() -> list[Any]:
        async with Client(mcp.create_server({"station": memory})) as client:
            before = await client.call_tool("search", {"query": "whales", "n": 1})
            with Memory.open(memory.path) as other:
                other.add(["Whales pass the station in May."])
            return [before, await client.call_tool("search", {"query": "whales", "n": 1})]

    before, after = anyio.run(main)
    assert not [one for one in before.structured_content["passages"] if "Whales" in one["text"]]
    assert after.structured_content["passages"][0]["text"] == "Whales pass the station in May."


def test_concurrent_calls_answer_as_single_ones_do(memory: Memory) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        (tool, {"query": text}) for text, _ in ENTRIES for tool in ("search", "explain")
    ]
    calls += [("redundancy", {}), ("search", {"query": ""})]
    together = call_all({"station": memory}, calls)
    alone = [call_all({"station": memory}, [one])[0] for one in calls]
    assert [one.content[0].text for one in together] == [one.content[0].text for one in alone]
