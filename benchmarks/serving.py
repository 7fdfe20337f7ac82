"""The server under load: requests a second and how long each takes, overload, and hours of use in minutes.

    python benchmarks/serving.py                     siftlm-tiny and the sample memory; about a quarter of an hour
    python benchmarks/serving.py --quick             a minute; writes nothing
    python benchmarks/serving.py --only load         one part; may be repeated

    load        1 to 64 clients at once, every prompt another one, against a script that takes one prompt at a time
                and the same prompts once more: what was learned is remembered
    overload    64 clients and a queue of 8: who is refused, and is anybody answered wrongly or not at all?
    soak        thousands of small requests: does memory grow?

The server is a process of its own, `siftlm serve`; clients speak HTTP to it from here. The peer takes one prompt after
the other, with `LocalModel.generate`, the same settings and the same engine (LoRA). Results are in
benchmarks/results/serving.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from machine import describe

from siftlm import LocalModel, Memory, sample
from siftlm.controller import Controller
from siftlm.evaluation import read

RESULTS = Path(__file__).parent / "results" / "serving.json"
MODEL, N, TOKENS = "siftlm-tiny", 10, 24
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
CHARACTERS = 300
Answer = tuple[int, str, float]
"""Status, text, seconds."""


def prompts(count: int) -> list[str]:
    """Beginnings of texts that the sample memory holds out, no two alike."""
    texts = [item.text[:CHARACTERS] for item in read("sample", per_domain=-(-count // 3), longest=None)]
    found = list(dict.fromkeys(text for text in texts if len(text) == CHARACTERS))
    return [found[at % len(found)][: CHARACTERS - at // len(found)] for at in range(count)]


@contextmanager
def server(memory: Path, **flags: Any) -> Iterator[tuple[str, int]]:
    """Its address and its process."""
    line = [sys.executable, "-m", "siftlm", "serve", "--memory", str(memory), "--model", MODEL, "--port", "0"]
    for name, value in flags.items():
        line += [f"--{name}", str(value)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "GOMP_SPINCOUNT": "10000"})
    try:
        assert process.stderr is not None
        found = None
        while found is None:
            said = process.stderr.readline()
            assert said, "the server has ended"
            found = re.search(r"http://\S+", said)
        yield found[0], process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


async def asked(client: httpx.AsyncClient, prompt: str, mode: str, tokens: int) -> Answer:
    began = time.perf_counter()
    body = {"model": f"{MODEL}{mode}", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    reply = await client.post("/v1/completions", json=body)
    text = reply.json()["choices"][0]["text"] if reply.status_code == 200 else reply.text
    return reply.status_code, text, time.perf_counter() - began


def crowd(url: str, work: Sequence[str], clients: int, mode: str = f":sift-{N}", tokens: int = TOKENS) -> list[Answer]:
    """So many clients, each asking for the next as soon as it has an answer."""

    async def all_of_them() -> list[Answer]:
        left, answers = list(enumerate(work)), {}
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

            async def one() -> None:
                while left:
                    place, prompt = left.pop(0)
                    answers[place] = await asked(client, prompt, mode, tokens)

            await asyncio.gather(*(one() for _ in range(clients)))
        return [answers[place] for place in range(len(work))]

    return asyncio.run(all_of_them())


def shown(answers: Sequence[Answer], took: float) -> dict[str, float]:
    seconds = sorted(answer[2] for answer in answers)

    def percentile(share: float) -> float:
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))]

    return {
        "requests": len(answers),
        "per_second": len(answers) / took,
        "p50": percentile(0.5),
        "p95": percentile(0.95),
        "p99": percentile(0.99),
    }


def load(memory: Path, quick: bool) -> dict[str, Any]:
    clients = CLIENTS[:3] if quick else CLIENTS
    each = [max(4 if quick else 12, count) for count in clients]
    work = prompts(sum(each) + 2)
    warm, work = work[:2], work[2:]
    found: dict[str, Any] = {"n": N, "tokens": TOKENS, "clients": {}, "again": {}}
    said: dict[str, str] = {}
    with server(memory, queue=256) as (url, _):
        crowd(url, warm, 2)
        start = 0
        for count, size in zip(clients, each, strict=True):
            own = work[start : start + size]
            start += size
            began = time.perf_counter()
            answers = crowd(url, own, count)
            found["clients"][count] = shown(answers, time.perf_counter() - began)
            assert {status for status, _, _ in answers} == {200}
            said.update({prompt: text for prompt, (_, text, _) in zip(own, answers, strict=True)})
            print(f"{count} clients: {found['clients'][count]}", file=sys.stderr)
        began = time.perf_counter()
        answers = crowd(url, own, clients[-1])
        found["again"] = {**shown(answers, time.perf_counter() - began), "clients": clients[-1]}
        assert [text for _, text, _ in answers] == [said[prompt] for prompt in own]
    controller = Controller(MODEL, engine="lora")
    with Memory.open(memory) as opened:
        model = LocalModel(controller, opened)
        alone = work[: each[0]]
        model.generate(warm[0], n=N, use="weights", max_new_tokens=TOKENS)
        seconds, same = [], 0
        for prompt in alone:
            began = time.perf_counter()
            answer = model.generate(prompt, n=N, use="weights", max_new_tokens=TOKENS)
            seconds.append(time.perf_counter() - began)
            same += answer.text == said[prompt]
    found["one_at_a_time"] = shown([(200, "", one) for one in seconds], sum(seconds))
    found["same_text"] = f"{same} of {len(alone)}"
    found["ratios"] = {
        count: one["per_second"] / found["one_at_a_time"]["per_second"] for count, one in found["clients"].items()
    }
    return found


def overload(memory: Path, quick: bool) -> dict[str, Any]:
    clients = 16 if quick else 64
    work = prompts(clients)
    with server(memory, queue=8, slots=4) as (url, _):
        answers = crowd(url, work, clients)
        expected = crowd(url, [prompt for prompt, answer in zip(work, answers, strict=True) if answer[0] == 200], 1)
    right = [text for status, text, _ in answers if status == 200] == [text for _, text, _ in expected]
    statuses = Counter(status for status, _, _ in answers)
    assert right
    assert set(statuses) <= {200, 429}
    refused = [seconds for status, _, seconds in answers if status == 429]
    return {
        "clients": clients,
        "queue": 8,
        "slots": 4,
        "answered": statuses[200],
        "refused": statuses[429],
        "lost": clients - sum(statuses.values()),
        "refused_within": max(refused, default=0.0),
        "right": right,
    }


# Seconds after which a server that has nothing to do has given memory back.
REST = 4


def soak(memory: Path, quick: bool) -> dict[str, Any]:
    """Small requests of every length, most of them other ones than before."""
    rounds, each = (3, 20) if quick else (8, 150)
    texts = prompts(60)
    sizes: list[float] = []
    done = 0
    with server(memory, cache=8, queue=256) as (url, process):
        for turn in range(rounds):
            work = [f"{texts[at % len(texts)][: 20 + (at * 7 + turn) % 250]} {turn * each + at}" for at in range(each)]
            answers = crowd(url, work, 16, mode=":sift-2", tokens=4)
            assert {status for status, _, _ in answers} == {200}
            done += len(answers)
            time.sleep(REST)
            sizes.append(resident(process))
            print(f"{done} requests: {sizes[-1] / 2**20:.0f} MiB", file=sys.stderr)
    half = len(sizes) // 2
    return {
        "requests": done,
        "mib": [round(size / 2**20) for size in sizes],
        "growth": statistics.median(sizes[half:]) / statistics.median(sizes[half - 2 : half + 1]) - 1,
    }


def resident(process: int) -> int:
    """Bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--only", choices=("load", "overload", "soak"), action="append", help="may be repeated")
    ask.add_argument("--quick", action="store_true", help="fewer of everything, nothing is written")
    given = ask.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() and not given.quick else {}
    results["machine"] = describe("torch", "transformers", "peft")
    with tempfile.TemporaryDirectory(prefix="siftlm-bench-") as folder:
        memory = Path(folder) / "memory"
        Memory.build(sample.documents(), memory, embedder="hashing", full_text=False, progress=True).close()
        for part in given.only or ("load", "overload", "soak"):
            results[part] = {"load": load, "overload": overload, "soak": soak}[part](memory, given.quick)
            print(part, json.dumps(results[part], indent=1))
            if not given.quick:
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
