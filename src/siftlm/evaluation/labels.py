"""Labels of methods, split and sorted; the label of a difference; and a run's question in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from siftlm.evaluation.fingerprints import bare_name

# A plus may also be in a number or in the name of a file.
SETTINGS_SEPARATOR = re.compile(r"\+(?=[a-z_]+=)")
# Between methods, and not inside betas=(0.9,0.99).
METHOD_SEPARATOR = re.compile(r",(?![^()\[\]{}]*[)\]}])")
BASE_METHOD, INTERPOLATION_METHOD = "base", "interpolation"
# The order of columns; methods in neither list stand between them, by name.
FIRST_METHODS = (BASE_METHOD, "context", INTERPOLATION_METHOD, "dynamic", "random", "tttlm", "nn", "nearest", "nn-f")
LAST_METHODS = ("sift", "sift-fast", "auto", "calibrated")


def split_labels(labels: str) -> list[str]:
    """The labels in a list separated by commas.

    >>> split_labels("nn, sift+betas=(0.9,0.99),")
    ['nn', 'sift+betas=(0.9,0.99)']
    """
    return [label.strip() for label in METHOD_SEPARATOR.split(labels) if label.strip()]


def without_folder(method: str) -> str:
    """The label, without the folder and the suffix of a method that is a file.

    >>> without_folder("methods/mine.py+share=0.5"), without_folder("sift+noise=1")
    ('mine+share=0.5', 'sift+noise=1')
    """
    name, *settings = SETTINGS_SEPARATOR.split(method)
    return "+".join([PurePath(name).stem, *settings]) if name.endswith(".py") else method


def method_name(method: str) -> str:
    """The method's name without settings.

    >>> method_name("sift+noise=0.1")
    'sift'
    """
    return SETTINGS_SEPARATOR.split(method)[0]


def split_noise(method: str) -> tuple[str, float | None]:
    """The label without λ, and λ.

    >>> split_noise("sift+noise=1e+2+k=1000"), split_noise("sift")
    (('sift+k=1000', 100.0), ('sift', None))
    """
    name, *settings = SETTINGS_SEPARATOR.split(method)
    named = [one for one in settings if one.startswith("noise=")]
    try:
        noise = float(named[0].removeprefix("noise="))
    except (IndexError, ValueError):
        return method, None
    return "+".join([name, *(one for one in settings if one not in named)]), noise


def difference_label(method: str, against: str) -> str:
    """A difference of two methods, in figures where lower is better.

    >>> difference_label("sift", "nn")
    'sift − nn'
    """
    return f"{method} − {against}"


def method_sort_key(method: str) -> tuple[Any, ...]:
    """The sort key of labels: plain methods first, SIFT last; settings by their numbers.

    >>> sorted(["sift+noise=10", "sift+noise=2", "mmr", "sift+noise=2+k=9", "sift", "nn", "base"], key=method_sort_key)
    ['base', 'nn', 'mmr', 'sift', 'sift+noise=2', 'sift+noise=10', 'sift+noise=2+k=9']
    """
    name = method_name(method)
    place = (
        FIRST_METHODS.index(name)
        if name in FIRST_METHODS
        else 50 + (LAST_METHODS.index(name) + 1 if name in LAST_METHODS else 0)
    )
    plain, noise = split_noise(method)
    return (place, name, _natural_key(plain), -1.0 if noise is None else noise, method)


def _natural_key(text: str) -> tuple[tuple[str, float], ...]:
    pieces = re.split(r"((?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return tuple((piece, 0.0) if at % 2 == 0 else ("", float(piece)) for at, piece in enumerate(pieces))


def describe_question(question: Mapping[str, Any]) -> dict[str, str]:
    """The run's question in words, for captions, without the folders of a machine."""
    model, memory, protocol = (question.get(name) or {} for name in ("model", "memory", "protocol"))
    name = bare_name(str(model.get("name", "a model")))
    size = model.get("parameters")
    words = {
        "model": name + (f" ({size:,} parameters, {_engine(question)})" if size else ""),
        "memory": _memory(memory),
        "protocol": str(protocol.get("name", "?")) + _prefix(protocol),
        "n": str(protocol.get("n", "?")),
        "copies": str(protocol.get("copies", "report")),
    }
    corpus = (question.get("corpus") or {}).get("name")
    if not corpus:
        return words
    return {**words, "corpus": " and ".join(PurePath(one).name for one in str(corpus).split(" and "))}


def _engine(question: Mapping[str, Any]) -> str:
    engine = question.get("engine") or {}
    return str(engine.get("engine", "full")) if isinstance(engine, Mapping) else str(engine)


def _memory(memory: Mapping[str, Any]) -> str:
    name = bare_name(str(memory.get("embedder", "?")))
    return f"{memory['passages']:,} passages ({name})" if "passages" in memory else f"of vectors by {name}"


def _prefix(protocol: Mapping[str, Any]) -> str:
    return f" ({protocol['prefix']} characters)" if "prefix" in protocol else ""
