"""The names of models say how they learn: ``NAME`` not at all, ``NAME:sift-50`` from 50 texts that SIFT selects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from siftlm.errors import InvalidInput, UnknownName
from siftlm.local import LocalModel
from siftlm.recipes import RECIPES, find
from siftlm.selection import methods
from siftlm.serving.errors import BadRequest, NotFound
from siftlm.serving.events import Mode

# What the published tables call it.
METHOD_ALIASES = {"nn": "nearest"}
BASE_MODE, AUTO_MODE, CONTEXT_MODE = "base", "auto", "context"
# α of the adaptive rule that ends a selection in the mode ``auto``, and the least share of the uncertainty that the
# texts must take away for tuning to begin at all.
AUTO_ADAPTIVE, AUTO_DECIDE = 0.1, 0.02
LISTED_MODES = (AUTO_MODE, "sift-50", "sift-20", "nn-50", "context-10")
"""What ``/v1/models`` names; any other number and method works as well."""
MODE_PATTERN = re.compile(r"(?P<way>[a-z][a-z0-9_.+-]*?)(?:-(?P<n>[0-9]{1,4}))?")
# Settings of a local model that a request may choose. Whatever could reach a file, or cost without limit, is not there.
REQUEST_SETTINGS = frozenset(
    {
        "n",
        "method",
        "noise",
        "k",
        "kernel",
        "use",
        "decide",
        "rate",
        "order",
        "passes",
        "adaptive",
        "until",
        "min_gain",
        "replacement",
        "per_document",
        "without_copies",
        "candidates",
        "where",
        "tokens",
        "seconds",
    }
)
SETTING_MAXIMA = {"n": 200, "k": 5000, "passes": 5}
SCALAR_TYPES = (bool, int, float, str)
AccessCheck = Callable[[str, bool], object]
"""Raises where a memory, which the request names or not, is not to be read by whoever asks."""


class ModeParser:
    """Reads names of models and the field ``siftlm`` of requests."""

    def __init__(self, name: str, models: Mapping[str, LocalModel]) -> None:
        self.name = name.rstrip("/").rpartition("/")[2]
        self._models = models

    @property
    def memories(self) -> list[str]:
        """Their names; the first is the default."""
        return list(self._models)

    def names(self, memories: Sequence[str] | None = None) -> list[str]:
        """Of all models that are worth listing, for somebody who may read these memories."""
        found = [self.name]
        for memory in self.memories if memories is None else memories:
            at = "" if memory == self.memories[0] else f"@{memory}"
            found += [f"{self.name}:{mode}{at}" for mode in LISTED_MODES]
        return found

    def parse(self, model: str, extra: Mapping[str, Any] | None = None, needs: AccessCheck = lambda *_: None) -> Mode:
        """What a request asks for, by the name of its model and by its field ``siftlm``, which wins.

        ``needs`` is asked before anything is said that would tell whether there is such a memory.
        """
        base, _, rest = model.partition(":")
        if base.rpartition("/")[2] != self.name:
            known = ", ".join(self.names()[:4])
            raise NotFound(
                f"the model {model!r:.80} does not exist; there are {known}, …", param="model", code="model_not_found"
            )
        way, _, memory = rest.partition("@")
        settings = self._of_name(model, way)
        given = dict(extra or {})
        named = given.pop("memory", None) or memory
        memory = named or (self.memories[0] if self.memories else "")
        for name, value in given.items():
            settings[name] = self._checked(name, value)
        if given and "method" not in settings and "use" not in settings:
            settings["method"] = "sift"
        method = settings.pop("method", BASE_MODE)
        if method == BASE_MODE:
            if settings:
                raise BadRequest(
                    f"siftlm.{next(iter(settings))} is a setting of a model that learns, and the mode is base: name "
                    f"the model {self.name}:sift-50, or give siftlm.method",
                    param="siftlm",
                )
            return Mode(BASE_MODE, None, {})
        needs(memory, bool(named))
        if memory not in self._models:
            raise NotFound(f"there is no memory {memory!r:.60}", param="siftlm.memory", code="memory_not_found")
        if method == CONTEXT_MODE:
            settings = {"method": "sift", **settings, "use": "context"}
        elif method == AUTO_MODE:
            settings = {"adaptive": AUTO_ADAPTIVE, "decide": AUTO_DECIDE, **settings}
        else:
            settings["method"] = METHOD_ALIASES.get(method, method) if isinstance(method, str) else method
        self._check(self._models[memory], settings)
        return Mode(method + (f"-{settings['n']}" if "n" in settings else ""), memory, settings)

    def effective_settings(self, mode: Mode) -> dict[str, Any]:
        """What a request in this mode goes by: what it says itself, what calibration chose, what is left as it is."""
        if mode.memory is None:
            return {}
        settings = self._models[mode.memory].settings(**mode.settings)
        plain = {
            name: value
            for name, value in settings.items()
            if name in REQUEST_SETTINGS and isinstance(value, SCALAR_TYPES)
        }
        return {"memory": mode.memory, **plain}

    def _check(self, model: LocalModel, settings: Mapping[str, Any]) -> None:
        """A wrong value is said before the request waits."""
        try:
            model.settings(**settings)
        except UnknownName:
            raise
        except InvalidInput as error:
            method = settings.get("method")
            if method is None or _method_works(model, method):
                raise
            there = ", ".join(name for name in (*methods(), *RECIPES) if _method_works(model, name))
            raise BadRequest(
                f"the method {method!r:.40} needs more than a prompt, such as what a classifier says of each text, and "
                f"no request can give that; there are {there}",
                param="siftlm.method",
                code="invalid_value",
            ) from error

    def _of_name(self, model: str, way: str) -> dict[str, Any]:
        if not way or way == BASE_MODE:
            return {}
        found = MODE_PATTERN.fullmatch(way)
        if found is None:
            raise NotFound(
                f"the model {model!r:.80} does not exist: behind the colon comes a method and a number, such "
                f"as {self.name}:sift-50",
                param="model",
                code="model_not_found",
            )
        settings: dict[str, Any] = {"method": found["way"]}
        if found["n"]:
            settings["n"] = self._checked("n", int(found["n"]))
        return settings

    def _checked(self, name: str, value: Any) -> Any:
        if name not in REQUEST_SETTINGS:
            raise BadRequest(
                f"siftlm.{name:.40} is not a setting of a request; there are {', '.join(sorted(REQUEST_SETTINGS))}",
                param=f"siftlm.{name:.40}",
            )
        most = SETTING_MAXIMA.get(name)
        if most is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
            raise BadRequest(
                f"siftlm.{name} must be a whole number from 1 to {most}, got {value!r:.40}", param=f"siftlm.{name}"
            )
        return value


def _method_works(model: LocalModel, method: Any) -> bool:
    """With a prompt and a memory, and nothing else."""
    try:
        model.memory.check(1, method=find(method).name)
    except InvalidInput:
        return False
    return True
