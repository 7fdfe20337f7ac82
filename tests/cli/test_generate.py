"""``siftlm generate``: the library's answer, alone on stdout; beside the base model's, and with its reasons."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len as width_of

from cli.corpora import Screen
from siftlm import LocalModel
from siftlm.cli import main

PROMPT = "Is tea brewed with hot water?"
CODES = re.compile(r"\x1b\[[\d;]*m")


def answer(siftlm, *words):
    status, out, err = siftlm("generate", "memory", PROMPT, "--model", "m", *words)
    assert (status, err) == (0, "")
    return out


def test_only_the_continuation_is_printed(fake, siftlm):
    expected = LocalModel("m", "memory").generate(PROMPT, 3)
    assert answer(siftlm, "-n", "3") == f"{expected.text}\n"


def test_how_to_continue(fake, siftlm):
    words = ("--max-new-tokens", "5", "--temperature", "0.5", "--top-p", "0.9", "--seed", "7", "--stop", "\\n\\n")
    out = answer(siftlm, "-n", "3", *words, "--stop", "se")
    model = LocalModel("m", "memory")
    expected = model.generate(PROMPT, 3, max_new_tokens=5, temperature=0.5, seed=7).text
    assert expected.endswith("seed 7")
    assert out == expected.split("se")[0] + "\n"
    assert answer(siftlm, "-n", "3", "--seed", "8", "--set", "seed=3", "--temperature", "1").endswith("seed 8\n")
    assert fake.made[-1].used.seed == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seed -1", "--seed must be a whole number ≥ 0, got -1"),
        ("-n 3 --k 1", "-n 3 is more than the 1 candidates of --k 1: raise --k, or lower -n"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_what_cannot_be_is_refused_before_the_model_is_loaded(fake, siftlm, command, words, message):
    prompt = [PROMPT] if command == "generate" else []
    assert siftlm(command, "memory", *prompt, *words.split()) == (1, "", f"siftlm: {message}\n")
    assert not fake.made


def test_a_completion_that_occurs_nowhere_is_remarked(fake, siftlm):
    words = ("generate", "memory", PROMPT, "--model", "m", "-n", "3", "--set")
    assert "--set completion='zzz' occurs in none of the texts" in siftlm(*words, "completion=zzz")[2]
    assert siftlm(*words, "completion=tea")[2] == ""


def test_json_and_its_reasons(fake, siftlm):
    record = json.loads(answer(siftlm, "-n", "3", "--json", "--compare"))
    expected = LocalModel("m", "memory").generate(PROMPT, 3)
    assert (record["prompt"], record["text"]) == (PROMPT, expected.text)
    assert record["found"]["selection"] == expected.found.selection.to_dict()
    assert record["base"] == {"text": "after 0 texts: nothing", "stopped": "length", "tokens": 4}
    assert "hits" not in record["found"]
    hits = json.loads(answer(siftlm, "-n", "3", "--json", "--why"))["found"]["hits"]
    assert [hit["text"] for hit in hits] == expected.found.texts


def test_why_lists_gains_and_the_loss(fake, siftlm):
    out = answer(siftlm, "-n", "4", "--why")
    found = LocalModel("m", "memory").select(PROMPT, 4)
    for hit in found:
        assert f"{hit.score:.3f}" in out
        assert f"{hit.uncertainty:.4f}" in out
    assert "4 steps, mean loss 2.250 in the first half, 0.875 in the second" in out
    assert (
        "no texts were found to tune on"
        in siftlm("generate", "memory", PROMPT, "--where", 'source = "x"', "--model", "m")[2]
    )


@pytest.mark.parametrize("columns", ["40", "100"])
def test_the_base_model_stands_beside_it(fake, monkeypatch, columns):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Screen())
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["generate", "memory", PROMPT, "-n", "3", "--model", "m", "--compare", "--why"]) == 0
    lines = CODES.sub("", sys.stdout.getvalue()).splitlines()
    assert max(width_of(line) for line in lines) <= int(columns)
    first = next(line for line in lines if "base model" in line)
    assert ("fine-tuned model" in first) is (columns == "100")
    assert "after 3 texts: " in "\n".join(lines)
    assert "after 0 texts: nothing" in "\n".join(lines)


def test_what_a_model_says_cannot_steer_a_terminal(fake, siftlm, monkeypatch):
    from siftlm.controller import Generated

    monkeypatch.setattr(fake, "generate", lambda *_, **__: Generated("a\x1b[2Jb\n\tc", 3, "end"))
    monkeypatch.setattr(sys, "stdout", Screen())
    assert main(["generate", "memory", PROMPT, "-n", "1", "--model", "m", "--quiet"]) == 0
    assert sys.stdout.getvalue() == "a?[2Jb\n    c\n"


def test_the_prompt_keeps_its_blanks_but_for_the_last_line_end(fake, siftlm, monkeypatch):
    Path("p.txt").write_text("  def f():\n    \n", encoding="utf-8")
    record = json.loads(siftlm("generate", "memory", "--prompt-file", "p.txt", "-n", "1", "--json", "--model", "m")[1])
    assert record["prompt"] == "  def f():\n    "
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"tea\n"), encoding="ascii"))
    record = json.loads(siftlm("generate", "memory", "-n", "1", "-", "--json", "--model", "m")[1])
    assert record["prompt"] == "tea"


def test_remarks_are_no_part_of_the_answer(fake, siftlm):
    status, out, err = siftlm("generate", "memory", PROMPT * 10, "-n", "5", "--tokens", "2", "--model", "m")
    assert status == 0
    assert "siftlm: tuning stopped at the limit of --tokens" in err
    assert "siftlm: the prompt exceeds the context: its first 3 tokens were dropped" in err
    assert "limit" not in out
    assert (
        "the texts reduce the uncertainty too little"
        in siftlm("generate", "memory", PROMPT, "--decide", "1", "--model", "m")[2]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate memory", "no prompt: pass it in quotes"),
        ("generate memory tea --prompt-file p", "exclude each other"),
        ("generate memory --prompt-file none", "none: No such file"),
        ("generate memory tea --temperature -1", "temperature must be a number ≥ 0"),
        ("generate memory tea --top-p 2", "--top-p must be a number > 0 and ≤ 1"),
        ("generate memory tea --max-new-tokens 256", "--max-new-tokens must be a whole number from 1 to 255"),
        ("generate none tea", "none: there is no such folder"),
    ],
)
def test_what_is_wrong_is_said_before_any_tuning(fake, siftlm, words, message):
    status, out, err = siftlm(*words.split(), "--model", "m", "--quiet")
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert not any(controller.histories for controller in fake.made)


def test_without_torch_the_extra_is_named():
    script = "import sys; sys.modules['torch'] = None; from siftlm.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", script, "generate", "memory", PROMPT]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "siftlm: this needs the library 'torch': pip install 'siftlm[tune]'\n"


def test_ctrl_c_leaves_nothing_behind(fake, siftlm):
    fake.interrupt_at = 2
    status, out, err = siftlm("generate", "memory", PROMPT, "-n", "5", "--model", "m")
    assert (status, out, err) == (130, "", "")
    assert fake.made[0].learned is None


@pytest.mark.slow
def test_a_real_model_continues(folder, sixty, tiny_model, siftlm):
    (folder / "memory").symlink_to(sixty, target_is_directory=True)
    words = ("generate", "memory", PROMPT, "-n", "3", "--max-new-tokens", "6", "--json", "--compare", "--rate", "0.05")
    status, out, err = siftlm(*words, "--model", str(tiny_model))
    assert (status, err) == (0, "")
    record = json.loads(out)
    model = LocalModel(tiny_model, "memory", rate=0.05)
    assert record["text"] == model.generate(PROMPT, 3, max_new_tokens=6).text
    assert record["base"]["text"] == model.controller.generate(PROMPT, max_new_tokens=6).text
    assert record["text"] != record["base"]["text"]
    assert siftlm(*words, "--model", str(tiny_model), "--use", "both")[0] == 0
