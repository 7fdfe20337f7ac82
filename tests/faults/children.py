"""Forks children that change a memory and are killed at it; a program, spoken to in lines of JSON.

Importing siftlm takes as long as ten steps, so one process imports it and every child is a fork of that. A job names
the memory, its settings and the steps; and when to kill: ``{"moment": n}``, at the n-th moment of `moments.watched`;
``{"seconds": s}``, from outside, whatever the child is at; ``{"bytes": n}``, by the kernel, in the middle of the write
that makes a file longer than that, inside SQLite as well. The answer says how many steps had returned.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent


class Children:
    """The other end: starts the program and asks it."""

    def __init__(self) -> None:
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )

    def run(self, path: Path, steps: list[Any], settings: dict[str, Any], kill: dict[str, Any]) -> dict[str, Any]:
        """``done``, ``killed`` and, for a child that failed by itself, ``error``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"path": str(path), "steps": steps, "settings": settings, "kill": kill}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


def _serve() -> None:
    sys.path.insert(0, str(TESTS))
    import siftlm.memory.memory  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        log, said = os.pipe()
        child = os.fork()
        if not child:
            os.close(log)
            _work(job, said)
        os.close(said)
        if "seconds" in job["kill"]:
            time.sleep(job["kill"]["seconds"])
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with open(log, encoding="utf-8") as answers:
            words = answers.read().splitlines()
        _, status = os.waitpid(child, 0)
        done = words.count("done")
        error = "\n".join(word for word in words if word != "done")
        print(json.dumps({"done": done, "killed": os.WIFSIGNALED(status), "error": error}), flush=True)


def _work(job: dict[str, Any], said: int) -> None:
    from faults import moments, world

    kill = job["kill"]
    act = moments.At(kill["moment"], moments.kill) if "moment" in kill else moments.Count()
    if "bytes" in kill:
        # Python ignores this signal; the kernel's own answer to it is death.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill["bytes"], kill["bytes"]))
    status = 0
    try:
        with moments.watched(act) if "moment" in kill else contextlib.nullcontext(), world.small_batches():
            for step in job["steps"]:
                world.take(Path(job["path"]), step, job["settings"])
                os.write(said, b"done\n")
    except BaseException:  # noqa: BLE001 — whatever it is, the test must hear of it
        os.write(said, traceback.format_exc().encode())
        status = 1
    os._exit(status)


if __name__ == "__main__":
    _serve()
