"""Test-time fine-tuning against how others do it: seconds, prompts a second, and peak memory, in one run.

    python benchmarks/tuning.py                           GPT-2's shape on the CPU, about half an hour on two cores
    python benchmarks/tuning.py --quick                   a tiny model, a minute; writes nothing
    python benchmarks/tuning.py --only full               one part; may be repeated
    python benchmarks/tuning.py --device cuda --shape llama-1b --only many
    python benchmarks/tuning.py --model gpt2              a model with weights, by name or folder

    full        all weights: tttlm's loop (AdamW, one text a step), with its evaluation after every step and without
    padding     every text padded to the context, as HullFT does, its reuse of gradients too
    adapters    LoRA: a loop over PEFT
    many        many prompts at once against one at a time
    selection   searching the memory and selecting, as a share of a prompt
    memory      peak memory of each job of the others, in a process of its own

Without ``--model`` the weights are random, which changes no time. The texts are docstrings of the standard library in
pieces of equal length, and the tokenizer is trained on them. Jobs take turns, and ratios are of medians. The results
are in benchmarks/results/tuning.json, or tuning-DEVICE.json. Peers are in benchmarks/peers.py.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from machine import describe
from peers import Loop, Run, Stopwatch, padded_loop, peft_loop, tttlm_loop

from siftlm import Memory, embedder
from siftlm.controller import Controller

RESULTS = Path(__file__).parent / "results"
END = "<|endoftext|>"
# What a prompt takes where nothing else is said: picks, candidates, passages in the memory.
N, K, PASSAGES = 50, 200, 100_000
# Losses of two ways to take the same steps in float32 are no further apart; a GPU adds in another order each time.
SAME_LOSS = 1e-3

SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": lambda: transformers.GPT2Config(vocab_size=8192, n_positions=512, n_embd=128, n_layer=4, n_head=4),
    "gpt2": transformers.GPT2Config,
    "llama-1b": lambda: transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
}


@dataclass(frozen=True)
class Bench:
    """What is measured on: a model, texts, and how often."""

    shape: str
    model: str | None
    device: str
    texts: int
    tokens: int
    """In a text, and in the prompt."""
    prompts: int
    """At once, where it is many."""
    rounds: int
    passages: int

    prepared: str | None = None
    """A folder with the tokenizer and the texts, made by `prepare`."""

    @cached_property
    def tokenizer(self) -> Any:
        if self.prepared or self.model:
            return transformers.AutoTokenizer.from_pretrained(self.prepared or self.model)
        import tokenizers

        made = tokenizers.ByteLevelBPETokenizer()
        made.train_from_iterator(self.corpus[:4000], vocab_size=8192, special_tokens=[END], show_progress=False)
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer.from_str(made.to_str()), bos_token=END, eos_token=END
        )

    @cached_property
    def corpus(self) -> list[str]:
        return list(docstrings())

    def prepare(self, folder: Path) -> Bench:
        """The same without the work and the memory that making a tokenizer takes."""
        self.tokenizer.save_pretrained(folder)
        (folder / "work.json").write_text(json.dumps([self.passages_of(n) for n in range(self.prompts)]))
        return replace(self, prepared=str(folder))

    def fresh(self, *, dropout: bool = False) -> Any:
        """A model of one's own. Without dropout two ways to tune can be compared to the last digit."""
        if self.model:
            made = transformers.AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
        else:
            torch.manual_seed(0)
            made = transformers.AutoModelForCausalLM.from_config(SHAPES[self.shape]())
        for module in made.modules():
            if isinstance(module, torch.nn.Dropout) and not dropout:
                module.p = 0.0
        return made.to(self.device).eval()

    def passages_of(self, prompt: int) -> tuple[list[str], str]:
        """Texts and a prompt of ``tokens`` tokens each, other ones for every prompt."""
        if self.prepared:
            texts, text = json.loads((Path(self.prepared) / "work.json").read_text())[prompt]
            return texts, text
        size, each = self.tokens, self.tokens * (self.texts + 1)
        start = prompt * each
        pieces = [self.tokenizer.decode(self._ids[at : at + size]) for at in range(start, start + each, size)]
        return pieces[1:], pieces[0]

    @cached_property
    def _ids(self) -> list[int]:
        """Tokens for all prompts; should the standard library not suffice, it begins again."""
        wanted = self.prompts * self.tokens * (self.texts + 1)
        ids: list[int] = []
        for text in itertools.cycle(self.corpus):
            if len(ids) >= wanted:
                return ids
            ids += self.tokenizer(text + "\n\n", add_special_tokens=False, verbose=False).input_ids
        return ids


def docstrings() -> Iterator[str]:
    """Of the standard library's modules, classes and functions; those of a line are left out."""
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*folder.glob("*.py"), *folder.glob("[a-z]*/*.py")]):
        if path.parent.name in {"site-packages", "test", "tests", "idlelib", "lib2to3"}:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                found = ast.get_docstring(node) or ""
                if found.count("\n") > 2:
                    yield found


# --- our side


def siftlm_loop(controller: Controller, **settings: Any) -> Loop:
    """The same work and the same clock as the peers'. Entering and leaving the block is the reset."""
    device = next(controller.model.parameters()).device

    def prompt_of(texts: Any, prompt: str) -> Run:
        watch = Stopwatch(device)
        with controller.tuning(**settings) as tuner:
            watch.lap("reset")
            trace = tuner.learn(texts)
            watch.lap("steps")
            nats = controller.likelihood(prompt).nats
            watch.lap("evaluation")
        watch.lap("reset")
        assert trace.ended == "done", trace.ended
        return watch.run(trace.losses, [nats])

    return prompt_of


# --- the parts: name of a job -> what makes it. `Pairs`: own job, peer's job, are they the same steps?

Job = Callable[[], Run]
Makers = dict[str, Callable[[], Job]]
Pairs = list[tuple[str, str, bool]]
PUBLISHED = {"rate": 2e-5, "decay": 0.01, "clip": 1.0}  # tttlm's, for GPT-2
SAME = {**PUBLISHED, "precision": "float32"}


def one_prompt(bench: Bench, loop: Callable[[], Loop], texts: Callable[[list[str]], list[str]] = list) -> Any:
    """Makes a job that tunes for the first prompt."""

    def made() -> Job:
        run = loop()
        given, prompt = bench.passages_of(0)
        return lambda: run(texts(given), prompt)

    return made


def full(bench: Bench) -> tuple[Makers, Pairs]:
    tokenizer = bench.tokenizer
    shared = shared_models(bench)

    def controller() -> Controller:
        return Controller(shared(dropout=False), tokenizer, engine="full")

    makers = {
        "tttlm": lambda: tttlm_loop(shared(dropout=True), tokenizer),
        "tttlm, no evaluation": lambda: tttlm_loop(shared(dropout=True), tokenizer, evaluate=False),
        # The same steps to the last digit: no dropout, moments from zero for each prompt.
        "tttlm, no evaluation, no dropout": lambda: tttlm_loop(
            shared(dropout=False), tokenizer, evaluate=False, fresh=True
        ),
        "siftlm": lambda: siftlm_loop(controller(), **SAME),
        "siftlm, dropout 0.1": lambda: siftlm_loop(controller(), **SAME, dropout=0.1),
        "siftlm, as it comes": lambda: siftlm_loop(controller()),
    }
    pairs = [
        ("siftlm", "tttlm, no evaluation, no dropout", True),
        ("siftlm, dropout 0.1", "tttlm, no evaluation", False),
        ("siftlm, dropout 0.1", "tttlm", False),
        ("siftlm", "tttlm", False),
        ("siftlm, as it comes", "tttlm", False),
    ]
    return {name: one_prompt(bench, make) for name, make in makers.items()}, pairs


def padding(bench: Bench) -> tuple[Makers, Pairs]:
    tokenizer = bench.tokenizer
    shared = shared_models(bench)
    own: dict[str, Any] = {"rate": 5e-5, "precision": "float32"}

    def repeated(texts: list[str]) -> list[str]:
        """Each of the first half twice: the weights of a sparse combination, rounded."""
        return [text for text in texts[: len(texts) // 2] for _ in range(2)]

    def controller() -> Controller:
        return Controller(shared(dropout=False), tokenizer, engine="full")

    makers: Makers = {
        "padded": one_prompt(bench, lambda: padded_loop(shared(dropout=True), tokenizer)),
        "padded, no dropout": one_prompt(bench, lambda: padded_loop(shared(dropout=False), tokenizer)),
        "siftlm": one_prompt(bench, lambda: siftlm_loop(controller(), **own)),
        "padded, reuse 2": one_prompt(bench, lambda: padded_loop(shared(dropout=False), tokenizer, reuse=2), repeated),
        "siftlm, reuse 2": one_prompt(
            bench, lambda: siftlm_loop(controller(), **own, repeats="grouped", reuse=2), repeated
        ),
    }
    pairs = [
        ("siftlm", "padded", False),
        ("siftlm", "padded, no dropout", True),
        ("siftlm, reuse 2", "padded, reuse 2", True),
    ]
    return makers, pairs


def adapters(bench: Bench) -> tuple[Makers, Pairs]:
    tokenizer = bench.tokenizer
    rate = 5e-4

    def controller() -> Controller:
        return Controller(bench.fresh(), tokenizer, engine="lora", rank=16)

    makers: dict[str, Callable[[], Loop]] = {
        "peft, rebuilt": lambda: peft_loop(bench.fresh(), tokenizer, rate=rate, rebuild=True)
    }
    for precision in ("float32", "bfloat16"):
        makers[f"peft, {precision}"] = lambda p=precision: peft_loop(bench.fresh(), tokenizer, rate=rate, precision=p)
        makers[f"siftlm, {precision}"] = lambda p=precision: siftlm_loop(controller(), rate=rate, precision=p)
    # Each side draws its first adapter at random, so only the first losses are the same.
    pairs = [("siftlm, float32", "peft, rebuilt", False)]
    pairs += [(f"siftlm, {precision}", f"peft, {precision}", False) for precision in ("float32", "bfloat16")]
    return {name: one_prompt(bench, make) for name, make in makers.items()}, pairs


def many(bench: Bench) -> tuple[Makers, Pairs]:
    """The same adapters for many prompts; a `Run` is all of them, and `losses` go prompt by prompt."""
    tokenizer = bench.tokenizer
    precision = "bfloat16" if bench.device == "cuda" else "float32"
    rate = 5e-4

    def one_by_one(loop: Callable[[], Loop]) -> Callable[[], Job]:
        def made() -> Job:
            run, work = loop(), [bench.passages_of(prompt) for prompt in range(bench.prompts)]
            return lambda: added([run(*one) for one in work])

        return made

    def controller() -> Controller:
        return Controller(bench.fresh(), tokenizer, engine="lora", rank=16)

    makers: Makers = {
        "peft, one at a time": one_by_one(lambda: peft_loop(bench.fresh(), tokenizer, rate=rate, precision=precision)),
        "siftlm, one at a time": one_by_one(lambda: siftlm_loop(controller(), rate=rate, precision=precision)),
    }
    pairs = [("siftlm, one at a time", "peft, one at a time", False)]

    def together() -> Job:
        work = [bench.passages_of(prompt) for prompt in range(bench.prompts)]
        own = controller()
        return lambda: siftlm_together(own, work, rate=rate, precision=precision)

    makers["siftlm, together"] = together
    pairs += [
        ("siftlm, together", "peft, one at a time", False),
        ("siftlm, together", "siftlm, one at a time", precision == "float32"),
    ]
    return makers, pairs


def siftlm_together(controller: Controller, work: list[tuple[list[str], str]], **settings: Any) -> Run:
    """Tunes for all of the prompts at once and scores each."""
    watch = Stopwatch(next(controller.model.parameters()).device)
    with controller.tuning_many(len(work), **settings) as tuner:
        watch.lap("reset")
        traces = tuner.learn([texts for texts, _ in work])
        watch.lap("steps")
        scores = tuner.likelihoods([(prompt, "") for _, prompt in work])
        watch.lap("evaluation")
    watch.lap("reset")
    assert {trace.ended for trace in traces} == {"done"}
    return watch.run([loss for trace in traces for loss in trace.losses], [score.nats for score in scores])


def added(runs: list[Run]) -> Run:
    """One `Run` for many."""
    return Run(
        tuple(loss for run in runs for loss in run.losses),
        tuple(nats for run in runs for nats in run.nats),
        *(sum(getattr(run, name) for run in runs) for name in ("steps", "evaluation", "reset")),
        peak=max(run.peak for run in runs),
    )


def shared_models(bench: Bench) -> Callable[..., Any]:
    """Jobs that put the weights back can take turns on one model; PEFT's loop cannot."""
    made: dict[bool, Any] = {}

    def model(*, dropout: bool) -> Any:
        if dropout not in made:
            made[dropout] = bench.fresh(dropout=dropout)
        return made[dropout]

    return model


# --- measuring


def measured(bench: Bench, makers: Makers, pairs: Pairs, prompts: int = 1) -> dict[str, Any]:
    """Jobs by turns, back and forth, after one round that does not count."""
    jobs = {name: make() for name, make in makers.items()}
    runs: dict[str, list[Run]] = {name: [] for name in jobs}
    for turn in range(-1, bench.rounds):
        for name in list(jobs)[:: -1 if turn % 2 else 1]:
            run = jobs[name]()
            print(
                f"{turn + 1}/{bench.rounds} {name}: {run.total / prompts:.2f} s a prompt", file=sys.stderr, flush=True
            )
            if turn >= 0:
                runs[name].append(run)
    found: dict[str, Any] = {name: summary(own, prompts) for name, own in runs.items()}
    found["ratios"] = {}
    for own, peer, same in pairs:
        ratios = {
            "prompts_per_second": found[peer]["prompt"]["median"] / found[own]["prompt"]["median"],
            "step": found[peer]["step"] / found[own]["step"],
        }
        if same:
            ratios["losses_apart"] = apart(runs[own][-1], runs[peer][-1])
            assert ratios["losses_apart"] < SAME_LOSS, f"{own} and {peer} do not take the same steps: {ratios}"
        found["ratios"][f"{own} / {peer}"] = ratios
    return found


def summary(runs: list[Run], prompts: int) -> dict[str, Any]:
    totals = [run.total / prompts for run in runs]
    low, _, high = statistics.quantiles(totals, n=4) if len(totals) > 1 else (totals[0],) * 3
    middle = statistics.median(totals)
    return {
        "prompt": {"median": middle, "low": low, "high": high, "rounds": len(runs)},
        "prompts_per_second": 1 / middle,
        "step": statistics.median(run.step for run in runs),
        "evaluation": statistics.median(run.evaluation / prompts for run in runs),
        "reset": statistics.median(run.reset / prompts for run in runs),
        "reset_share": statistics.median(run.reset / run.total for run in runs),
        "evaluations": len(runs[0].nats) / prompts,
        "first_loss": runs[-1].losses[0],
        "last_loss": runs[-1].losses[-1],
        "nats": runs[-1].nats[-1],
    }


def apart(one: Run, other: Run) -> float:
    """The largest difference between losses."""
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def selection(bench: Bench) -> dict[str, Any]:
    """A search with SIFT in a memory, its share of a prompt of N steps, with the reset and the scoring."""
    controller = Controller(bench.fresh(), bench.tokenizer, engine="full")
    texts, prompt = bench.passages_of(0)
    tune = siftlm_loop(controller, **SAME)
    tune(texts, prompt)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="siftlm-bench-") as folder:
        memory = Memory.create(Path(folder) / "memory", embedder=embedder("hashing"), full_text=False)
        width = memory.embedder.width
        vectors = generator.standard_normal((bench.passages, width), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        memory.add([f"passage {n}" for n in range(bench.passages)], vectors=vectors)
        searches, runs = [], []
        for _ in range(bench.rounds + 1):
            watch = Stopwatch(torch.device("cpu"))
            memory.search(prompt, n=N, k=K)
            watch.lap("search")
            searches.append(watch.seconds["search"])
            runs.append(tune(texts, prompt))
        memory.close()
    search = statistics.median(searches[1:])
    run = {name: statistics.median(getattr(run, name) for run in runs) for name in ("step", "evaluation", "reset")}
    whole = search + N * run["step"] + run["evaluation"] + run["reset"]
    return {
        "passages": bench.passages,
        "n": N,
        "k": K,
        "search": search,
        "tuning": whole - search,
        "share": search / whole,
        "reset_share": run["reset"] / whole,
    }


def peaks(bench: Bench, parts: list[str]) -> dict[str, Any]:
    """Of each job, once, in a process of its own."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="siftlm-bench-") as folder:
        ready = bench.prepare(Path(folder))
        own = [f"--{f.name}={getattr(ready, f.name)}" for f in fields(ready) if getattr(ready, f.name) is not None]
        for part in parts:
            found[part] = {}
            for name in WORK[part](bench)[0]:
                line = [sys.executable, __file__, "--one", part, name, *own]
                done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
                found[part][name] = json.loads(done.stdout.splitlines()[-1])
    return found


WORK: dict[str, Callable[[Bench], tuple[Makers, Pairs]]] = {
    "full": full,
    "padding": padding,
    "adapters": adapters,
    "many": many,
}


def part_of(bench: Bench, part: str) -> dict[str, Any]:
    if part == "selection":
        return selection(bench)
    if part == "memory":
        return peaks(bench, list(WORK))
    makers, pairs = WORK[part](bench)
    of = {"texts": bench.texts, "tokens": bench.tokens, "prompts": bench.prompts if part == "many" else 1}
    return {**of, **measured(bench, makers, pairs, prompts=of["prompts"])}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--only", choices=[*WORK, "selection", "memory"], action="append", help="may be repeated")
    ask.add_argument("--quick", action="store_true", help="a tiny model, few texts, nothing is written")
    ask.add_argument("--device", default="cpu", help="cpu or cuda")
    ask.add_argument("--shape", choices=SHAPES, help="of a model with random weights (default: gpt2)")
    ask.add_argument("--model", help="the name or folder of a model with weights")
    ask.add_argument("--texts", type=int, help="to tune on, a prompt (default: 10, on a GPU 50)")
    ask.add_argument("--tokens", type=int, help="of a text and of the prompt (default: 200, on a GPU 300)")
    ask.add_argument("--prompts", type=int, help="where it is many at once (default: 4, on a GPU 32)")
    ask.add_argument("--rounds", type=int, help="of each job (default: 5)")
    ask.add_argument("--passages", type=int, help="in the memory (default: 100,000)")
    ask.add_argument("--one", nargs=2, metavar=("PART", "JOB"), help="run one job once; print its peak memory")
    ask.add_argument("--prepared", help=argparse.SUPPRESS)
    given = ask.parse_args()
    transformers.logging.set_verbosity_error()  # random weights have no use for the end of text that a shape names
    gpu, quick = given.device != "cpu", given.quick
    bench = Bench(
        shape=given.shape or ("tiny" if quick else "gpt2"),
        model=given.model,
        device=given.device,
        texts=given.texts or (4 if quick else 50 if gpu else 10),
        tokens=given.tokens or (100 if quick else 300 if gpu else 200),
        prompts=given.prompts or (3 if quick else 32 if gpu else 4),
        rounds=given.rounds or (2 if quick else 5),
        passages=given.passages or (2_000 if quick else PASSAGES),
        prepared=given.prepared,
    )
    if given.one:
        part, job = given.one
        run = WORK[part](bench)[0][job]()()
        print(json.dumps({"peak_bytes": run.peak}))
        return

    device = re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower() if gpu else ""
    path = RESULTS / (f"tuning-{device}.json" if gpu else "tuning.json")
    results = json.loads(path.read_text()) if path.exists() and not quick else {}
    results["machine"] = describe("torch", "transformers", "peft")
    results["machine"]["threads"] = torch.get_num_threads()
    if gpu:
        results["machine"]["gpu"] = torch.cuda.get_device_name()
    label = Path(bench.model).name if bench.model else f"{bench.shape} shape"
    own = results.setdefault(label, {})
    for part in given.only or [*WORK, "selection", "memory"]:
        own[part] = part_of(bench, part)
        print(part, json.dumps(own[part], indent=1))
        if not quick:
            path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
