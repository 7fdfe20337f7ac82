"""Models in GGUF files: opened by the file or its folder, tuned and restored like any other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from siftlm.controller import Controller  # noqa: E402
from siftlm.errors import InvalidInput, MissingExtra  # noqa: E402

WIDTH, HIDDEN, HEADS, LAYERS = 32, 64, 4, 2


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in letters]
    letters.update((byte, chr(256 + at)) for at, byte in enumerate(others))
    return [letters[byte] for byte in range(256)]


def write_model(path) -> None:
    """A Llama of two layers with random weights, whose tokens are bytes and one pair of them."""
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    tokens = ["<|endoftext|>", *byte_letters(), "th"]
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def weights(*shape: int) -> np.ndarray:
        return (generator.normal(size=shape) * 0.2).astype(np.float32)

    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        for name, shape in (
            ("attn_q", (WIDTH, WIDTH)),
            ("attn_k", (WIDTH, WIDTH)),
            ("attn_v", (WIDTH, WIDTH)),
            ("attn_output", (WIDTH, WIDTH)),
            ("ffn_gate", (HIDDEN, WIDTH)),
            ("ffn_up", (HIDDEN, WIDTH)),
            ("ffn_down", (WIDTH, HIDDEN)),
        ):
            made = weights(*shape)
            if name == "ffn_up":  # a quantised tensor among the others
                quantised = gguf.quants.quantize(made, gguf.GGMLQuantizationType.Q8_0)
                writer.add_tensor(f"blk.{layer}.{name}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            else:
                writer.add_tensor(f"blk.{layer}.{name}.weight", made)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("gguf") / "tiny"
    made.mkdir()
    write_model(made / "tiny.gguf")
    return made


def test_it_is_tuned_and_restored(folder):
    one = Controller(str(folder / "tiny.gguf"), rate=1e-2, precision="float32")
    before, weights = one.likelihood("the thing"), [p.detach().clone() for p in one.model.parameters()]
    assert before.tokens == 7  # each "th" is one token, and the start token stands before the first
    with one.tuning() as tuner:
        tuner.learn(["the thing"] * 3)
        assert one.likelihood("the thing").nats < before.nats
    assert all(torch.equal(p, saved) for p, saved in zip(one.model.parameters(), weights, strict=True))
    assert one.likelihood("the thing") == before


def test_the_folder_of_a_single_file_will_do(folder, tmp_path):
    assert Controller(folder).fingerprint == Controller(folder / "tiny.gguf").fingerprint
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes((folder / "tiny.gguf").read_bytes())
    with pytest.raises(InvalidInput, match=r"holds 2 GGUF files: give one of them, such as .*a\.gguf"):
        Controller(tmp_path)


def test_it_can_be_saved_as_a_folder(folder, tmp_path):
    one = Controller(folder)
    one.model.save_pretrained(tmp_path)
    one.tokenizer.save_pretrained(tmp_path)
    again = Controller(tmp_path)
    assert again.likelihood("the thing").nats == pytest.approx(one.likelihood("the thing").nats, abs=1e-4)


def test_a_missing_or_damaged_file_is_named(folder, tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.gguf'?: there is no such file"):
        Controller(tmp_path / "none.gguf")
    (tmp_path / "cut.gguf").write_bytes((folder / "tiny.gguf").read_bytes()[:2000])
    with pytest.raises(InvalidInput, match=r"cut\.gguf'? is no causal language model that can be loaded"):
        Controller(tmp_path / "cut.gguf")


def test_a_missing_library_names_its_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"siftlm\[gguf\]"):
        Controller(folder)


@pytest.mark.slow
def test_the_command_line_takes_the_file(folder, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "the other thing is there"}\n' * 3)
    run = [sys.executable, "-m", "siftlm"]
    subprocess.run([*run, "index", str(tmp_path / "texts.jsonl"), "--into", str(tmp_path / "memory")], check=True)
    line = [*run, "score", str(tmp_path / "memory"), "the thing is there and then", "-n", "1", "--json"]
    answer = subprocess.run([*line, "--model", str(folder / "tiny.gguf")], check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert '"base"' in answer.stdout
