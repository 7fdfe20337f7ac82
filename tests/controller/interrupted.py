"""A program that tunes and is interrupted: ``python interrupted.py ENGINE ROUNDS``; it says what was left behind.

Ctrl-C comes from another thread, at moments that differ from round to round, and in every other round twice in a row,
so that the second may arrive while the first one is being dealt with.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from controller import tiny, traces
from siftlm.controller import Controller, restoring

TEXTS = ["the quick brown fox jumps over the lazy dog", "rain fell on the harbour", "a third text"]


def main(engine: str, rounds: int) -> None:
    one = Controller(tiny.model("gpt2"), tiny.tokenizer(), engine=engine, rate=1e-2, precision="float32")

    @restoring
    def learned():
        """As in `siftlm.local`: a generator around another."""
        with one.tuning(dropout=0.1, checkpointing=True) as tuner:
            tuner.learn(TEXTS)
            yield tuner

    began = time.perf_counter()
    with learned():
        pass
    length = 1.2 * (time.perf_counter() - began)
    began = time.perf_counter()
    with learned():
        pass
    length = 1.2 * (time.perf_counter() - began)
    before = traces.of(one.model)
    handler = heard_by(main)
    signal.signal(signal.SIGINT, handler)
    source = random.Random(0)
    kept = []  # exceptions hold frames, and frames hold generators: nothing may wait for those to go
    left: list[str] = []
    heard = 0
    for number in range(rounds):
        moments = [source.uniform(0, length)]
        if number % 2:
            moments.append(source.choice([0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]))
        sender = threading.Thread(target=send, args=(moments,))
        done = False
        try:
            sender.start()
            with learned():
                pass
            done = True
        except KeyboardInterrupt as error:
            kept.append(error)
            heard += 1
        while True:  # a signal may still be on its way
            try:
                sender.join()
                break
            except KeyboardInterrupt as error:
                kept.append(error)
        different = traces.differences(before, traces.of(one.model))
        left.extend(f"round {number}, done {done}: {name}" for name in list(different)[:3])
        if signal.getsignal(signal.SIGINT) is not handler:
            left.append(f"round {number}: the handler of Ctrl-C")
            signal.signal(signal.SIGINT, handler)
        if left:
            break
    print(json.dumps({"left": left, "heard": heard}))


def heard_by(function):
    """The usual handler, but while ``function`` itself notes one it is not thrown out of there by the next."""

    def handler(number, frame):
        noting = frame is not None and frame.f_code is function.__code__ and sys.exc_info()[0] is KeyboardInterrupt
        if not noting:
            signal.default_int_handler(number, frame)

    return handler


def send(moments: list[float]) -> None:
    for moment in moments:
        time.sleep(moment)
        signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
