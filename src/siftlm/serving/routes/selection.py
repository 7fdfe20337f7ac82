"""``/v1/select``: the texts that a model would be tuned on, the reasons, and their projection to a plane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from siftlm.errors import InvalidInput, did_you_mean, setting
from siftlm.memory import Found, Memory
from siftlm.memory.request import parse_filter
from siftlm.memory.snapshot import Snapshot
from siftlm.selection.plane import project_to_plane
from siftlm.serving.auth import Caller
from siftlm.serving.error_responses import MEMORY_ERRORS
from siftlm.serving.errors import BadRequest
from siftlm.serving.events import EngineProtocol, Mode
from siftlm.serving.middleware import read_body
from siftlm.serving.modes import AUTO_MODE, BASE_MODE, REQUEST_SETTINGS, AccessCheck, ModeParser, setting_error
from siftlm.serving.responses import encode_json_in_parts
from siftlm.serving.schemas import (
    BOOLEAN,
    DEFAULT_LIMITS,
    MODEL,
    TEXT,
    RequestLimits,
    Schema,
    check_texts,
    openapi_body,
    parse_fields,
)
from siftlm.serving.streaming import call_engine
from siftlm.types import IntArray, Vectors

DEFAULT_N = 10
"""The number of texts, unless the model's name or the settings say otherwise."""
DEFAULT_K = 200
MAX_PLANE_CANDIDATES = 500
"""Candidates in a plane at most: more would lie on top of each other."""
PREVIEW_CHARACTERS = 80
"""Characters of a candidate's text in a plane."""
ROUNDING_DIGITS = 5


SELECT_SCHEMA: Schema = {
    "type": "object",
    "required": ["input"],
    "additionalProperties": False,
    "properties": {
        "input": {**TEXT, "title": "the prompt to select for, a string"},
        "model": {**MODEL, "title": "the name of a model whose suffix says how to select, such as NAME:sift-20@MEMORY"},
        "siftlm": {
            "type": "object",
            "properties": {"method": TEXT, "memory": TEXT, "use": TEXT, "kernel": TEXT},
            "title": "an object of settings, such as method, n, noise and memory",
        },
        "plane": {**BOOLEAN, "title": "true to get the positions of prompt, candidates and picks in a plane"},
    },
}


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The prompt and its candidates, for a plane."""

    prompt: Vectors
    """(d,)"""
    rows: IntArray
    """(K,) the nearest by cosine, and all picks."""
    vectors: Vectors
    """(K, d)"""
    texts: list[str]


def routes(
    engine: EngineProtocol, modes: ModeParser, allowed: Callable[..., Caller], limits: RequestLimits = DEFAULT_LIMITS
) -> APIRouter:
    """The router of ``/v1/select``."""
    router, auth = APIRouter(tags=["siftlm"]), Depends(allowed)

    async def select(request: Request, caller: Caller = auth) -> Response:
        """The texts that the model would be tuned on for this prompt, why, and how much uncertainty each leaves."""
        began = time.monotonic()
        fields = await read_body(request, partial(_parse_body, limits))
        prompt, settings = fields["input"], fields["siftlm"] or {}
        try:
            mode = await asyncio.to_thread(  # filters can be long
                _parse_mode, modes, fields["model"] or modes.name, settings, caller.reads
            )
            name = mode.memory or ""
            request.state.mode = mode.name
            work = partial(run_selection, engine.models[name], prompt, mode.settings, near=fields["plane"])
            found, near = await call_engine(engine, work, request.receive, began + limits.seconds)
        except MEMORY_ERRORS:
            raise
        except InvalidInput as error:
            raise setting_error(error, settings) from error
        response = {"object": "selection", "mode": mode.name, "memory": name, **selection_json(found)}
        if near is not None:
            response["plane"] = await asyncio.to_thread(plane_json, found, near)
        response["seconds"] = {**found.seconds, "whole": time.monotonic() - began}
        return Response(await asyncio.to_thread(encode_json_in_parts, response), media_type="application/json")

    router.add_api_route(
        "/v1/select", select, methods=["POST"], openapi_extra={"requestBody": openapi_body(SELECT_SCHEMA)}
    )
    return router


def _parse_body(limits: RequestLimits, body: Any) -> dict[str, Any]:
    fields = parse_fields(body, SELECT_SCHEMA)
    _refuse_unknown_fields(body)
    if not fields["input"].strip():
        raise BadRequest("input is empty: send the prompt to select for", param="input")
    check_texts("input", [fields["input"]], limits)
    return fields


def _refuse_unknown_fields(body: Mapping[str, Any]) -> None:
    """Refuse what would be ignored; the field of a setting is one of the object ``siftlm``."""
    fields, settings = list(SELECT_SCHEMA["properties"]), sorted({"memory", *REQUEST_SETTINGS})
    unknown = next((name for name in body if name not in fields), None)
    if unknown is None:
        return
    if unknown in settings:
        message = f'{unknown} belongs under siftlm: send "siftlm": {{"{unknown}": …}}'
    else:
        message = (
            f"unknown field {unknown[:40]!r}{did_you_mean(unknown[:40], [*fields, *settings]) or '.'} "
            f"Known: {', '.join(fields)}; and under siftlm: {', '.join(settings)}"
        )
    raise BadRequest(message, param=unknown[:40], code="unsupported_parameter")


def _parse_mode(modes: ModeParser, model: str, settings: Mapping[str, Any], needs: AccessCheck) -> Mode:
    settings = {name: value for name, value in settings.items() if value is not None}
    if settings.get("method") == BASE_MODE:
        raise BadRequest("the base model is not tuned, so there is nothing to select", param="siftlm.method")
    if model.partition(":")[2].partition("@")[0] in ("", BASE_MODE) and "method" not in settings:
        settings = {"method": AUTO_MODE, "n": DEFAULT_N, **settings}
    return modes.parse(model, settings, needs)


def run_selection(
    model: Any, prompt: str, settings: Mapping[str, Any], *, near: bool
) -> tuple[Found, Neighbourhood | None]:
    """The selection, and with ``near`` its neighbourhood in the same snapshot. Runs on the model's thread."""
    if not near:
        return model.select(prompt, **settings), None
    memory = model.memory
    if not isinstance(memory, Memory):
        raise InvalidInput(f"{setting('plane')} needs a memory of siftlm's own; this one is an outside store")
    k = model.settings(**settings).get("k", DEFAULT_K) or MAX_PLANE_CANDIDATES
    with memory.snapshot() as snapshot:  # which the search inside uses as well
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
    """The picks, with the reason for each and the uncertainty that it removed."""
    selection = found.selection
    plain = selection.to_dict()
    left = plain["uncertainty"]
    return {
        "method": selection.method,
        "noise": selection.noise,
        "stopped": selection.stopped,
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
    return [{"relevance": relevance, "overlap": overlap, "served": served} for relevance, overlap, served in each]


def _dynamics_json(first: float | None, before: float | None, after: float | None) -> dict[str, float | None]:
    """The uncertainty that a pick removed, and the shares of the initial uncertainty that it removed and left."""
    if not first or before is None or after is None:
        return {"took": None, "share": None, "left": None}
    return {"took": before - after, "share": (before - after) / first, "left": after / first}


def plane_json(found: Found, near: Neighbourhood) -> dict[str, Any]:
    """The positions of prompt, candidates and picks in a plane."""
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
