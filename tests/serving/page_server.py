"""A stand-in for the server, for work on its page: selection is real, learning and answers are made up from the seed.

    python tests/serving/page_server.py --port 8017

Its texts are a few made-up facts, said again and again, as in real memories. It answers what the page asks:
`/v1/models`, `/v1/select` and streamed `/v1/completions` with events.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import siftlm
from siftlm.embedding import HashingEmbedder
from siftlm.serving import app as page

NAME = "stand-in"
PEOPLE = ("Ada Brook", "Ben Castle", "Cleo Dale", "Dan Evers", "Eve Field", "Finn Grove")
PLACES = ("Aldmoor", "Birkwell", "Colnbury", "Dunvale", "Elmstead", "Farham")
WILD = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> & 1 < 2"
LONG = "\n".join(
    f"Line {at} of a register that goes on: {at * 37 % 101} sheep, {at * 11 % 17} dogs." for at in range(40)
)
SAYING = "the answer is not known here but it is said that most of them live by the river and have three children"
WORDS = SAYING.split()


@dataclass
class Manners:
    """How it behaves; tests change this."""

    pause: float = 0.01
    """Seconds between events."""
    hold: int | None = None
    """Streams wait after so many events, until this is None again."""
    key: str | None = None
    refuse: tuple[int, str, dict[str, str]] | None = None
    """(status, message, headers) for everything but the list of models."""
    broken: str | None = None
    """An error in the middle of a stream, with this message."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies that came."""
    dropped: int = 0
    """Streams that were not read to their end."""


def texts() -> list[dict[str, Any]]:
    """About sixty: each fact in several wordings, one that is hostile and one that is long."""
    made: list[dict[str, Any]] = []
    for at, (person, place) in enumerate(zip(PEOPLE, PLACES, strict=True)):
        age, children = 30 + 7 * at, 1 + at % 4
        wordings = (
            f"The age of {person} is {age} years.",
            f"{person} has reached the age of {age} years.",
            f"{person} is {age} years of age.",
            f"Of what age is {person}? {person} is of the age of {age}.",
            f"{person} has {children} children.",
            f"The children of {person} go to school in {place}.",
            f"{person} was born in {place}.",
            f"{place} is a town on the river; {person} keeps a shop there.",
            f"In {place} it rains on {100 + 13 * at} days of the year.",
        )
        made += [{"text": wording, "meta": {"name": f"register of {place}"}} for wording in wordings]
    made.append({"text": f"The age of Ada Brook is written here. {WILD}", "meta": {"name": "<b>bold</b>"}})
    made.append({"text": f"Ada Brook and her children keep this.\n{LONG}", "meta": {"source": "ledger"}})
    return made


class Chooser:
    """Selects from the texts."""

    def __init__(self) -> None:
        self.texts = texts()
        self._embedder = HashingEmbedder(width=256)
        self._vectors = self._unit([one["text"] for one in self.texts])

    def _unit(self, given: list[str]) -> Any:
        vectors = np.asarray(self._embedder.embed(given), dtype=np.float64)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def found(self, prompt: str, method: str, n: int, noise: float) -> dict[str, Any]:
        """As `siftlm.memory.Found.to_dict`, and the plane."""
        query = self._unit([prompt])
        method = {"auto": "sift", "context": "sift"}.get(method, method)
        chosen = siftlm.select(
            query, self._vectors, min(n, len(self.texts)), method=method, noise=noise, replacement=False
        )
        why, plain = chosen.explain(), chosen.to_dict()
        cosines = self._vectors @ query[0]
        gains, left = plain["gains"], plain["uncertainty"][1:]
        hits = [
            self._hit(row, float(cosines[row]), gain, after)
            for row, gain, after in zip(plain["indices"], gains, left, strict=True)
        ]
        points = np.vstack([query, self._vectors])
        points -= points.mean(axis=0)
        flat = points @ np.linalg.svd(points, full_matrices=False)[2][:2].T
        candidates = [
            {"row": row, "x": float(x), "y": float(y), "text": self.texts[row]["text"][:80]}
            for row, (x, y) in enumerate(flat[1:])
        ]
        return {
            "hits": hits,
            "selection": plain,
            "considered": len(self.texts),
            "seconds": {},
            "explanation": [{"overlap": float(overlap)} for overlap in why.overlap],
            "plane": {"prompt": flat[0].tolist(), "candidates": candidates, "picks": plain["indices"], "shown": 0.4},
        }

    def _hit(self, row: int, score: float, gain: float, uncertainty: float) -> dict[str, Any]:
        place = {"row": row, "id": None, "document": row, "part": 0, "parts": 1, "start": 0, "copies": 1}
        return {**self.texts[row], "score": score, "gain": gain, "uncertainty": uncertainty, **place}


def noise_of(name: str) -> float:
    """What calibration chose for the memory of this model."""
    return 0.3 if name.endswith("@annals") else 1.0


def parsed(body: dict[str, Any]) -> tuple[str, int, float]:
    """(method, n, noise)."""
    _, _, mode = body["model"].partition(":")
    method, _, number = mode.partition("@")[0].rpartition("-")
    return method or "base", int(number or 0), float(body.get("siftlm", {}).get("noise", noise_of(body["model"])))


def steps(found: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Losses that fall with the uncertainty, give or take."""
    lots = np.random.default_rng(seed)
    left = found["selection"]["uncertainty"]
    return [
        {
            "text": at,
            "loss": 1.2 + 2.4 * left[at] / left[0] + 0.25 * float(lots.normal()),
            "tokens": 24,
            "norm": 1.0,
            "rate": 5e-4,
            "reused": False,
            "watched": None,
            "seconds": 0.02,
        }
        for at in range(len(found["hits"]))
    ]


def said(body: dict[str, Any]) -> list[str]:
    """Always the same for the same request."""
    digest = hashlib.sha256(json.dumps([body["model"], body["prompt"], body["seed"]]).encode()).digest()
    return [" " + WORDS[digest[at % len(digest)] % len(WORDS)] for at in range(body["max_tokens"])]


def app(manners: Manners) -> Any:
    """The application."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, StreamingResponse

    server, chooser = FastAPI(), Chooser()
    server.include_router(page.page_routes())

    def refused(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
        error = {"message": message, "type": kind, "param": None, "code": None}
        return JSONResponse({"error": error}, status, headers)

    def barred(request: Request, *, learning: bool = True) -> JSONResponse | None:
        if manners.key is not None and request.headers.get("authorization") != f"Bearer {manners.key}":
            return refused(401, "no API key, or not one that is known")
        return refused(*manners.refuse) if learning and manners.refuse else None

    async def models(request: Request) -> Any:
        names = [NAME, *(f"{NAME}:{mode}" for mode in ("auto", "sift-50", "nn-50", "sift-50@annals", "nn-50@annals"))]
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "siftlm", "siftlm": {"noise": noise_of(name)}}
            for name in names
        ]
        return barred(request, learning=False) or {"object": "list", "data": listed}

    async def select(request: Request) -> Any:
        body = await request.json()
        manners.asked.append(body)
        if (answer := barred(request)) is not None:
            return answer
        found = chooser.found(body["input"], *parsed(body))
        selection = found.pop("selection")
        return {"object": "selection", "mode": body["model"], "uncertainty": selection["uncertainty"], **found}

    async def completions(request: Request) -> Any:
        body = await request.json()
        manners.asked.append(body)
        return barred(request) or StreamingResponse(stream(body), media_type="text/event-stream")

    async def stream(body: dict[str, Any]) -> Any:
        ended = False
        try:
            for sent, event in enumerate(events(body)):
                while manners.hold is not None and sent >= manners.hold:
                    await asyncio.sleep(0.005)
                yield f"data: {json.dumps(event) if isinstance(event, dict) else event}\n\n"
                await asyncio.sleep(manners.pause)
            ended = True
        finally:
            manners.dropped += not ended

    def events(body: dict[str, Any]) -> Any:
        about = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": body["model"]}
        method, n, noise = parsed(body)
        if method != "base":
            found = chooser.found(body["prompt"], method, n, noise)
            found.pop("plane")
            yield {**about, "choices": [], "siftlm": {"event": "selected", "found": found, "cached": False}}
            taken = steps(found, body["seed"])
            for at, step in enumerate(taken, start=1):
                yield {
                    **about,
                    "choices": [],
                    "siftlm": {"event": "step", "step": step, "taken": at, "planned": len(taken)},
                }
            trace = {"ended": "done", "kept": len(taken), "settings": {}, "seconds": {}, "steps": taken}
            yield {**about, "choices": [], "siftlm": {"event": "learned", "trace": trace}}
        for word in said(body):
            yield {**about, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]}
            if manners.broken:
                yield {"error": {"message": manners.broken, "type": "server_error", "param": None, "code": None}}
                return
        yield {**about, "choices": [{"index": 0, "text": "", "finish_reason": "length", "logprobs": None}]}
        spent = {"queue": 0.0, "select": 0.003, "learn": 0.4, "generate": 0.2}
        yield {**about, "choices": [], "siftlm": {"event": "finished", "seconds": spent}}
        yield "[DONE]"

    # Without decorators: the annotations above are strings, and FastAPI could not read them from here.
    server.add_route("/v1/models", plain(models), methods=["GET"])
    server.add_route("/v1/select", plain(select), methods=["POST"])
    server.add_route("/v1/completions", plain(completions), methods=["POST"])
    return server


def plain(handle: Any) -> Any:
    """A dictionary becomes JSON."""
    from fastapi import Response
    from fastapi.responses import JSONResponse

    async def handled(request: Any) -> Response:
        answer = await handle(request)
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    return handled


if __name__ == "__main__":
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8017)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between events")
    parser.add_argument("--key", help="ask for this API key")
    given = parser.parse_args()
    uvicorn.run(app(Manners(given.pause, given.key)), port=given.port, log_level="warning")
