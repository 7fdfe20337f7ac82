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
from siftlm.memory.request import parse_filter
from siftlm.memory.snapshot import Snapshot
from siftlm.serving.bodies import read_body
from siftlm.serving.calling import call_engine
from siftlm.serving.failures import MEMORY_ERRORS
from siftlm.serving.fields import Schema, parse_fields
from siftlm.serving.jobs import Mode
from siftlm.serving.keys import Caller
from siftlm.serving.large import encode_json_in_parts
from siftlm.serving.limits import RequestLimits
from siftlm.serving.modes import BASE_MODE, AccessCheck, ModeParser
from siftlm.serving.plane import project_to_plane
from siftlm.serving.refusals import BadRequest
from siftlm.serving.running import EngineProtocol
from siftlm.serving.schemas import BOOLEAN, MODEL, TEXT, openapi_body
from siftlm.serving.sizes import check_texts
from siftlm.types import IntArray, Vectors

DEFAULT_LIMITS = RequestLimits()
DEFAULT_METHOD, DEFAULT_N = "sift", 10
"""Where neither the model's name nor the settings say how."""
DEFAULT_K = 200
MAX_PLANE_CANDIDATES = 500
"""Candidates that a picture shows, at most: of more, nobody could tell one from another."""
PREVIEW_CHARACTERS = 80
"""Of a candidate's text that a picture can show beside its point."""
ROUNDING_DIGITS = 5


SELECT_SCHEMA: Schema = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {**TEXT, "title": "the prompt to select for, a string"},
        "model": {**MODEL, "title": "the name of a model whose suffix says how, such as NAME:sift-20@MEMORY"},
        "siftlm": {
            "type": "object",
            "properties": {"method": TEXT, "memory": TEXT, "use": TEXT, "kernel": TEXT},
            "title": "an object of settings, such as method, n, noise and memory",
        },
        "plane": {**BOOLEAN, "title": "true to be told where prompt, candidates and picks lie in a plane"},
    },
}


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """What a picture is made of."""

    prompt: Vectors
    """(d,)"""
    rows: IntArray
    """(K,) the nearest by cosine, and all that were picked."""
    vectors: Vectors
    """(K, d)"""
    texts: list[str]


def routes(
    engine: EngineProtocol, modes: ModeParser, allowed: Callable[..., Caller], limits: RequestLimits = DEFAULT_LIMITS
) -> APIRouter:
    """The router."""
    router, who = APIRouter(tags=["siftlm"]), Depends(allowed)

    async def select(request: Request, caller: Caller = who) -> Response:
        """What the model would learn from for this prompt, why, and how sure it is after each text."""
        began = time.monotonic()
        given = await read_body(request, partial(_parse_body, limits))
        prompt = given["input"]
        try:
            mode = await asyncio.to_thread(  # filters can be long
                _parse_mode, modes, given["model"] or modes.name, given["siftlm"] or {}, caller.reads
            )
            name = mode.memory or ""
            request.state.mode = mode.name
            work = partial(run_selection, engine.models[name], prompt, mode.settings, near=given["plane"])
            found, near = await call_engine(engine, work, request.receive, began + limits.seconds)
        except MEMORY_ERRORS:
            raise
        except InvalidInput as error:
            raise BadRequest(str(error), param="siftlm") from error
        said = {"object": "selection", "mode": mode.name, "memory": name, **selection_json(found)}
        if near is not None:
            said["plane"] = await asyncio.to_thread(plane_json, found, near)
        said["seconds"] = {**found.seconds, "whole": time.monotonic() - began}
        return Response(await asyncio.to_thread(encode_json_in_parts, said), media_type="application/json")

    router.add_api_route(
        "/v1/select", select, methods=["POST"], openapi_extra={"requestBody": openapi_body(SELECT_SCHEMA)}
    )
    return router


def _parse_body(limits: RequestLimits, body: Any) -> dict[str, Any]:
    given = parse_fields(body, SELECT_SCHEMA)
    if not given["input"].strip():
        raise BadRequest("input is empty: give the prompt to select for", param="input")
    check_texts("input", [given["input"]], limits)
    return given


def _parse_mode(modes: ModeParser, model: str, settings: Mapping[str, Any], needs: AccessCheck) -> Mode:
    if settings.get("method") == BASE_MODE:
        raise BadRequest("the base model learns from nothing, so there is nothing to select", param="siftlm.method")
    if model.partition(":")[2].partition("@")[0] in ("", BASE_MODE) and "method" not in settings:
        settings = {"method": DEFAULT_METHOD, "n": DEFAULT_N, **settings}
    return modes.parse(model, settings, needs)


def run_selection(
    model: Any, prompt: str, settings: Mapping[str, Any], *, near: bool
) -> tuple[Found, Neighbourhood | None]:
    """Runs on the thread of the model: the selection, and the neighbourhood it was made in, of one moment."""
    if not near:
        return model.select(prompt, **settings), None
    memory = model.memory
    if not isinstance(memory, Memory):
        raise InvalidInput("plane needs a memory of siftlm's own; this one is kept by another database")
    k = model.settings(**settings).get("k", DEFAULT_K) or MAX_PLANE_CANDIDATES
    with memory.snapshot() as snapshot:  # which the search within takes as well
        found: Found = model.select(prompt, **settings)
        vector = _unit_rows(memory.embedder.embed([prompt], as_query=True))[0]
        return found, _neighbourhood(snapshot, found, vector, min(k, MAX_PLANE_CANDIDATES), settings)


def _neighbourhood(
    snapshot: Snapshot, found: Found, vector: Vectors, k: int, settings: Mapping[str, Any]
) -> Neighbourhood:
    nearest = snapshot.nearest(vector[None, :], k, parse_filter(settings.get("where")))[0]
    picked = np.array([hit.row for hit in found], dtype=np.int64)
    rows = np.array(list(dict.fromkeys([*picked.tolist(), *nearest.ids.tolist()])), dtype=np.int64)
    rows = np.sort(rows[: max(k, len(np.unique(picked)))])
    texts = [
        " ".join(text[: 4 * PREVIEW_CHARACTERS].split())[:PREVIEW_CHARACTERS] for text in snapshot.texts(rows.tolist())
    ]
    return Neighbourhood(vector, rows, snapshot.vectors(rows), texts)


def _unit_rows(vectors: Vectors) -> Vectors:
    wide = np.asarray(vectors, dtype=np.float64)
    unit: Vectors = (wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return unit


def selection_json(found: Found) -> dict[str, Any]:
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
        "explanation": _explanation_json(found),
        "dynamics": [_dynamics_json(left[0], before, after) for before, after in pairwise(left)],
    }


def _explanation_json(found: Found) -> list[dict[str, Any]]:
    if not len(found) or found.selection.evidence is None:
        return []
    why = found.selection.explain()
    each = zip(why.relevance.tolist(), why.overlap.tolist(), why.served.tolist(), strict=True)
    return [
        {"relevance": _finite_or_none(relevance), "overlap": _finite_or_none(overlap), "served": served}
        for relevance, overlap, served in each
    ]


def _dynamics_json(first: float | None, before: float | None, after: float | None) -> dict[str, float | None]:
    """Of what there was at the beginning, the share that a pick took, and the share that it left."""
    if not first or before is None or after is None:
        return {"took": None, "share": None, "left": None}
    return {"took": before - after, "share": (before - after) / first, "left": after / first}


def plane_json(found: Found, near: Neighbourhood) -> dict[str, Any]:
    """The picture, in numbers."""
    flat = project_to_plane(near.vectors, near.prompt)
    points = flat.candidates.round(ROUNDING_DIGITS).tolist()
    scores = (near.vectors @ near.prompt).astype(np.float64).round(ROUNDING_DIGITS).tolist()
    return {
        "prompt": flat.prompt.round(ROUNDING_DIGITS).tolist(),
        "candidates": [
            {"row": row, "x": x, "y": y, "score": score, "text": text}
            for row, (x, y), score, text in zip(near.rows.tolist(), points, scores, near.texts, strict=True)
        ],
        "picks": [hit.row for hit in found],
        "shown": round(flat.shown, ROUNDING_DIGITS),
    }


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
