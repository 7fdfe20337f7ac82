"""``/v1/select``: what a model would learn from, why, and a picture of it in the plane."""

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
from siftlm.serving.auth import Caller
from siftlm.serving.error_responses import MEMORY_ERRORS
from siftlm.serving.errors import BadRequest
from siftlm.serving.events import Mode
from siftlm.serving.limits import RequestLimits, check_texts
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import BASE_MODE, AccessCheck, ModeParser
from siftlm.serving.responses import encode_json_in_parts
from siftlm.serving.schemas import BOOLEAN, MODEL, TEXT, Schema, openapi_body, parse_fields
from siftlm.serving.streaming import EngineProtocol, call_engine
from siftlm.types import FloatArray, IntArray, Vectors

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


# Lengths that are nothing but rounding.
ROUNDING_LENGTH = 1e-9


@dataclass(frozen=True, eq=False)
class PlaneProjection:
    """Where each of them is; near points may be far from each other in all the directions that a plane lacks."""

    candidates: FloatArray
    """(K, 2)"""
    prompt: FloatArray
    """(2,)"""
    shown: float
    """The share of the variance that the plane shows, 0 to 1."""


def project_to_plane(candidates: Vectors, prompt: Vectors) -> PlaneProjection:
    """The first two principal axes of the candidates (K, d) and the prompt (d,).

    X = U S Vᵀ, centred; the points are X V₂. The prompt lies to the right of the centre and above it, so a picture
    is the same each time. The order of the candidates moves no point.

    >>> found = project_to_plane(np.array([[3.0, 0, 0], [-3.0, 0, 0], [0, 1.0, 0]]), np.array([2.0, 1.0, 0]))
    >>> found.candidates.round(1).tolist(), found.prompt.round(1).tolist()
    ([[2.5, -0.6], [-3.5, -0.3], [-0.5, 0.5]], [1.5, 0.4])
    """
    given = np.asarray(candidates, dtype=np.float64)
    target = np.asarray(prompt, dtype=np.float64)
    if given.ndim != 2 or target.shape != given.shape[1:]:
        raise InvalidInput(f"candidates must be (K, d) and the prompt (d,), got {given.shape} and {target.shape}")
    # Rounding depends on the order, and where two axes are as long as each other so does everything: bring the rows
    # into one that depends on nothing but themselves.
    order = sorted(range(len(given)), key=lambda row: given[row].tobytes())
    points = np.concatenate([given[order], target[None, :]])
    points -= points.mean(axis=0)
    _, lengths, axes = np.linalg.svd(points, full_matrices=False)
    drawn = np.zeros((len(points), 2))
    for at in range(min(2, len(axes))):
        if lengths[at] > ROUNDING_LENGTH:
            drawn[:, at] = points @ axes[at] * _axis_sign(axes[at], points[-1])
    placed = np.empty((len(given), 2))
    placed[order] = drawn[:-1]
    squares = lengths**2
    total = float(squares.sum())
    return PlaneProjection(placed, drawn[-1], float(squares[:2].sum()) / total if total > ROUNDING_LENGTH**2 else 1.0)


def _axis_sign(axis: FloatArray, prompt: FloatArray) -> float:
    """Which end of an axis is the positive one."""
    along = float(axis @ prompt)
    if abs(along) <= ROUNDING_LENGTH:  # the prompt cannot tell
        along = float(axis[np.argmax(np.abs(axis))])
    return -1.0 if along < 0 else 1.0
