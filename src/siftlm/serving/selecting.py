"""``/v1/select``: what a model would learn from, why, and what that looks like in the plane."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from siftlm.errors import InvalidInput
from siftlm.memory import Found, Memory
from siftlm.memory.asked import filter_of
from siftlm.memory.snapshot import Snapshot
from siftlm.serving.bodies import body_of
from siftlm.serving.calling import called
from siftlm.serving.failures import INSIDE
from siftlm.serving.fields import Schema, fields
from siftlm.serving.jobs import Mode
from siftlm.serving.keys import Caller
from siftlm.serving.large import in_parts
from siftlm.serving.limits import Limits
from siftlm.serving.modes import BASE, Modes, Needs
from siftlm.serving.plane import plane
from siftlm.serving.refusals import BadRequest
from siftlm.serving.running import Works
from siftlm.serving.schemas import MODEL, SWITCH, TEXT, shown
from siftlm.serving.sizes import check_texts
from siftlm.types import IntArray, Vectors

LIMITS = Limits()
METHOD, N = "sift", 10
"""Where neither the model's name nor the settings say how."""
K = 200
DRAWN = 500
"""Candidates that a picture shows, at most: of more, nobody could tell one from another."""
LETTERS = 80
"""Of a candidate's text that a picture can show beside its point."""
DIGITS = 5


SELECT: Schema = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {**TEXT, "title": "the prompt to select for, a string"},
        "model": {**MODEL, "title": "the name of a model whose suffix says how, such as NAME:sift-20@MEMORY"},
        "siftlm": {
            "type": "object", "properties": {"method": TEXT, "memory": TEXT, "use": TEXT, "kernel": TEXT},
            "title": "an object of settings, such as method, n, noise and memory",
        },
        "plane": {**SWITCH, "title": "true to be told where prompt, candidates and picks lie in a plane"},
    },
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Near:
    """What a picture is made of."""

    prompt: Vectors
    """(d,)"""
    rows: IntArray
    """(K,) the nearest by cosine, and all that were picked."""
    vectors: Vectors
    """(K, d)"""
    texts: list[str]


def routes(engine: Works, modes: Modes, allowed: Callable[..., Caller], limits: Limits = LIMITS) -> APIRouter:
    """The router."""
    router, who = APIRouter(tags=["siftlm"]), Depends(allowed)

    async def select(request: Request, caller: Caller = who) -> Response:
        """What the model would learn from for this prompt, why, and how sure it is after each text."""
        began = time.monotonic()
        given = await body_of(request, partial(_read, limits))
        prompt = given["input"]
        try:
            mode = await asyncio.to_thread(  # filters can be long
                _mode, modes, given["model"] or modes.name, given["siftlm"] or {}, caller.reads
            )
            name = mode.memory or ""
            request.state.mode = mode.name
            work = partial(found_for, engine.models[name], prompt, mode.settings, near=given["plane"])
            found, near = await called(engine, work, request.receive, began + limits.seconds)
        except INSIDE:
            raise
        except InvalidInput as error:
            raise BadRequest(str(error), param="siftlm") from error
        said = {"object": "selection", "mode": mode.name, "memory": name, **described(found)}
        if near is not None:
            said["plane"] = await asyncio.to_thread(drawn, found, near)
        said["seconds"] = {**found.seconds, "whole": time.monotonic() - began}
        return Response(await asyncio.to_thread(in_parts, said), media_type="application/json")

    router.add_api_route("/v1/select", select, methods=["POST"], openapi_extra={"requestBody": shown(SELECT)})
    return router


def _read(limits: Limits, body: Any) -> dict[str, Any]:
    given = fields(body, SELECT)
    if not given["input"].strip():
        raise BadRequest("input is empty: give the prompt to select for", param="input")
    check_texts("input", [given["input"]], limits)
    return given


def _mode(modes: Modes, model: str, settings: Mapping[str, Any], needs: Needs) -> Mode:
    if settings.get("method") == BASE:
        raise BadRequest("the base model learns from nothing, so there is nothing to select", param="siftlm.method")
    if model.partition(":")[2].partition("@")[0] in ("", BASE) and "method" not in settings:
        settings = {"method": METHOD, "n": N, **settings}
    return modes.parse(model, settings, needs)


def found_for(model: Any, prompt: str, settings: Mapping[str, Any], *, near: bool) -> tuple[Found, Near | None]:
    """Runs on the thread of the model: the selection, and the neighbourhood it was made in, of one moment."""
    if not near:
        return model.select(prompt, **settings), None
    memory = model.memory
    if not isinstance(memory, Memory):
        raise InvalidInput("plane needs a memory of siftlm's own; this one is kept by another database")
    k = model.settings(**settings).get("k", K) or DRAWN
    with memory.snapshot() as snapshot:  # which the search within takes as well
        found: Found = model.select(prompt, **settings)
        vector = _unit(memory.embedder.embed([prompt], as_query=True))[0]
        return found, _near(snapshot, found, vector, min(k, DRAWN), settings)


def _near(snapshot: Snapshot, found: Found, vector: Vectors, k: int, settings: Mapping[str, Any]) -> Near:
    nearest = snapshot.nearest(vector[None, :], k, filter_of(settings.get("where")))[0]
    picked = np.array([hit.row for hit in found], dtype=np.int64)
    rows = np.array(list(dict.fromkeys([*picked.tolist(), *nearest.ids.tolist()])), dtype=np.int64)
    rows = np.sort(rows[: max(k, len(np.unique(picked)))])
    texts = [" ".join(text[: 4 * LETTERS].split())[:LETTERS] for text in snapshot.texts(rows.tolist())]
    return Near(vector, rows, snapshot.vectors(rows), texts)


def _unit(vectors: Vectors) -> Vectors:
    wide = np.asarray(vectors, dtype=np.float64)
    unit: Vectors = (wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return unit


def described(found: Found) -> dict[str, Any]:
    """The picks, and for each why it was picked and what it took away of the uncertainty."""
    chosen = found.selection
    plain = chosen.to_dict()
    left = plain["uncertainty"]
    return {
        "method": chosen.method,
        "noise": chosen.noise,
        "stopped": chosen.stopped,
        "considered": found.considered,
        "hits": [hit.to_dict() for hit in found],
        "gains": plain["gains"],
        "uncertainty": left,
        "explanation": _explained(found),
        "dynamics": [_step(left[0], before, after) for before, after in pairwise(left)],
    }


def _explained(found: Found) -> list[dict[str, Any]]:
    if not len(found) or found.selection.evidence is None:
        return []
    why = found.selection.explain()
    each = zip(why.relevance.tolist(), why.overlap.tolist(), why.served.tolist(), strict=True)
    return [
        {"relevance": _finite(relevance), "overlap": _finite(overlap), "served": served}
        for relevance, overlap, served in each
    ]


def _step(first: float | None, before: float | None, after: float | None) -> dict[str, float | None]:
    """Of what there was at the beginning, the share that a pick took, and the share that it left."""
    if not first or before is None or after is None:
        return {"took": None, "share": None, "left": None}
    return {"took": before - after, "share": (before - after) / first, "left": after / first}


def drawn(found: Found, near: Near) -> dict[str, Any]:
    """The picture, in numbers."""
    flat = plane(near.vectors, near.prompt)
    points = flat.candidates.round(DIGITS).tolist()
    scores = (near.vectors @ near.prompt).astype(np.float64).round(DIGITS).tolist()
    return {
        "prompt": flat.prompt.round(DIGITS).tolist(),
        "candidates": [
            {"row": row, "x": x, "y": y, "score": score, "text": text}
            for row, (x, y), score, text in zip(near.rows.tolist(), points, scores, near.texts, strict=True)
        ],
        "picks": [hit.row for hit in found],
        "shown": round(flat.shown, DIGITS),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
