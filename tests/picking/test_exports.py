"""Files for TRL, LLaMA-Factory and Axolotl: the forms that their documentation names."""

from __future__ import annotations

import json

import pytest

from picking.conftest import read
from siftlm import pick
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.picking.exports import DEFAULT_NAME, export

USER, ASSISTANT = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}
SYSTEM = {"role": "system", "content": "Be brief."}
PLAIN = {"text": "One and one is two."}
MESSAGES = {"messages": [SYSTEM, USER, ASSISTANT]}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}],
    "system": "Be brief.",
}
ALPACA = {"instruction": "1 + 1?", "input": "", "output": "2"}
QUESTION = {"question": "1 + 1?", "answer": "2", "source": "book"}
COMPLETION = {"prompt": "1 + 1 = ", "completion": "2"}
CHAT_COMPLETION = {"prompt": [USER], "completion": [ASSISTANT]}
PREFERENCE = {"prompt": "1 + 1?", "chosen": "2", "rejected": [USER, {"role": "assistant", "content": "3"}]}
WRONG = {"role": "assistant", "content": "3"}


def exported(folder, library, *records):
    files = export(records, [f"pool.jsonl:{at + 1}" for at in range(len(records))], library, folder)
    assert all(file.parent == folder for file in files)
    return read(folder / f"{DEFAULT_NAME}.jsonl")


@pytest.mark.parametrize(
    ("record", "row"),
    [
        (PLAIN, PLAIN),
        (MESSAGES, MESSAGES),
        (SHAREGPT, MESSAGES),
        (ALPACA, {"prompt": [USER], "completion": [ASSISTANT]}),
        (
            {**ALPACA, "input": "Please."},
            {"prompt": [{**USER, "content": "1 + 1?\nPlease."}], "completion": [ASSISTANT]},
        ),
        (QUESTION, {"prompt": [USER], "completion": [ASSISTANT]}),
        (COMPLETION, COMPLETION),
        (CHAT_COMPLETION, CHAT_COMPLETION),
        (PREFERENCE, {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [WRONG]}),
        ("a text alone", {"text": "a text alone"}),
    ],
)
def test_trl_gets_its_columns(tmp_path, record, row):
    assert exported(tmp_path, "trl", record) == [row]


@pytest.mark.parametrize("record", [MESSAGES, SHAREGPT, ALPACA, QUESTION, COMPLETION, CHAT_COMPLETION])
@pytest.mark.parametrize("library", ["llama-factory", "axolotl"])
def test_the_others_get_conversations(tmp_path, library, record):
    [row] = exported(tmp_path, library, record)
    assert set(row) == {"messages"}
    assert [one["role"] for one in row["messages"]][-2:] == ["user", "assistant"]
    assert row["messages"][-1] == ASSISTANT


def test_llama_factory_finds_the_data_by_its_description(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    exported(tmp_path, "llama-factory", MESSAGES)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["mine"] == {"file_name": "mine.json"}
    entry = info[DEFAULT_NAME]
    assert entry["file_name"] == f"{DEFAULT_NAME}.jsonl"
    assert (entry["formatting"], entry["columns"]) == ("sharegpt", {"messages": "messages"})
    assert (entry["tags"]["role_tag"], entry["tags"]["content_tag"]) == ("role", "content")
    exported(tmp_path, "llama-factory", PLAIN)
    assert json.loads((tmp_path / "dataset_info.json").read_text())[DEFAULT_NAME]["columns"] == {"prompt": "text"}
    [row] = exported(tmp_path, "llama-factory", PREFERENCE)
    assert row == {"messages": [USER], "chosen": ASSISTANT, "rejected": WRONG}
    assert json.loads((tmp_path / "dataset_info.json").read_text())[DEFAULT_NAME]["ranking"] is True
    (tmp_path / "dataset_info.json").write_text("[]")
    with pytest.raises(InvalidInput, match=r"dataset_info.json: is not a JSON object"):
        exported(tmp_path, "llama-factory", PLAIN)


def test_axolotl_gets_lines_for_its_configuration(tmp_path):
    yaml = pytest.importorskip("yaml")
    types = {}
    for record in (PLAIN, MESSAGES, PREFERENCE):
        exported(tmp_path, "axolotl", record)
        config = yaml.safe_load((tmp_path / f"{DEFAULT_NAME}.yaml").read_text())
        [data] = config["datasets"]
        assert data["path"] == str(tmp_path / f"{DEFAULT_NAME}.jsonl")
        types[data["type"]] = config.get("rl"), data.get("field_messages"), data.get("message_property_mappings")
    mapping = {"role": "role", "content": "content"}
    assert types == {
        "completion": (None, None, None),
        "chat_template": (None, "messages", mapping),
        "chat_template.default": ("dpo", "messages", mapping),
    }


def test_a_file_has_one_form(tmp_path):
    rows = exported(tmp_path, "trl", ALPACA, MESSAGES, COMPLETION)
    assert [set(row) for row in rows] == [{"messages"}] * 3
    assert [set(row) for row in exported(tmp_path, "trl", ALPACA, COMPLETION)] == [{"prompt", "completion"}] * 2
    with pytest.raises(Conflict, match=r"pool.jsonl:2 is text and pool.jsonl:1 is messages"):
        exported(tmp_path, "trl", MESSAGES, PLAIN)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"messages": []}, "a conversation is a list of messages, and this is a list"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "a message has the role 'narrator'"),
        ({"messages": ["x"]}, "a message has a role and a content, and this is a string"),
        ({"prompt": "p", "chosen": [USER], "rejected": "r"}, "'chosen' ends with a message of the user"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path, record, problem):
    with pytest.raises(InvalidInput, match=f"pool.jsonl:2: cannot be exported: {problem}"):
        exported(tmp_path, "trl", PLAIN, record)
    assert not list(tmp_path.iterdir())


def test_picks_are_exported_in_their_order(tmp_path):
    pool = [{"question": f"{at} + {at}?", "answer": str(2 * at), "n": at} for at in range(40)]
    picks = pick(pool, ["1 + 1?", "7 + 7?"], 5, embedder="hashing")
    [file] = picks.export("trl", tmp_path / "new" / "folder", name="sums")
    assert [row["completion"][0]["content"] for row in read(file)] == [str(2 * number) for number in picks.numbers]
    with pytest.raises(UnknownName, match="did you mean 'trl'"):
        picks.export("trls", tmp_path)
    with pytest.raises(InvalidInput, match="is a file, and the data"):
        picks.export("trl", file)
    with pytest.raises(InvalidInput, match="must be a file's name without folders"):
        picks.export("trl", tmp_path, name="a/b")
