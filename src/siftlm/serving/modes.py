"""Names of models: ``NAME`` is the base model, and ``NAME:sift-50`` is tuned on 50 texts that SIFT selects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from siftlm.errors import InvalidInput, UnknownName
from siftlm.local import LocalModel
from siftlm.recipes import RECIPES, find
from siftlm.selection import methods
from siftlm.serving.errors import BadRequest, NotFound, spell_as_json
from siftlm.serving.events import Mode

# The name in published tables.
METHOD_ALIASES = {"nn": "nearest"}
BASE_MODE, AUTO_MODE, CONTEXT_MODE = "base", "auto", "context"
LISTED_MODES = (AUTO_MODE, "sift-50", "sift-20", "nn-50", "context-10")
"""The modes that ``/v1/models`` lists; any other method and number works as well."""
MODE_PATTERN = re.compile(r"(?P<method>[a-z][a-z0-9_.+-]*?)(?:-(?P<n>[0-9]{1,4}))?")
# Settings of a local model that a request may choose: none that reaches a file or costs without limit.
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
        "min_growth",
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
"""Called with a memory and whether the request named it; raises if the caller may not read it."""


class ModeParser:
    """Parses names of models and the field ``siftlm`` of requests."""

    def __init__(self, name: str, models: Mapping[str, LocalModel]) -> None:
        self.name = name.rstrip("/").rpartition("/")[2]
        self._models = models

    @property
    def memories(self) -> list[str]:
        """The names of the memories; the first is the default."""
        return list(self._models)

    def names(self, memories: Sequence[str] | None = None) -> list[str]:
        """The names of common models, for a caller who may read these memories."""
        names = [self.name]
        for memory in self.memories if memories is None else memories:
            at = "" if memory == self.memories[0] else f"@{memory}"
            names += [f"{self.name}:{mode}{at}" for mode in LISTED_MODES]
        return names

    def parse(self, model: str, extra: Mapping[str, Any] | None = None, needs: AccessCheck = lambda *_: None) -> Mode:
        """The mode of a request, from its model's name and its field ``siftlm``, which takes precedence.

        ``needs`` is called before any error that would reveal whether the memory exists.
        """
        base, _, rest = model.partition(":")
        if base.rpartition("/")[2] != self.name:
            known = ", ".join(self.names()[:4])
            raise NotFound(
                f"the model {model!r:.80} does not exist; available are {known}, …",
                param="model",
                code="model_not_found",
            )
        suffix, _, memory = rest.partition("@")
        settings = self._suffix_settings(model, suffix)
        # Null is as good as left out, as in every other field of a request.
        overrides = {name: value for name, value in (extra or {}).items() if value is not None}
        named = overrides.pop("memory", None) or memory
        memory = named or (self.memories[0] if self.memories else "")
        for name, value in overrides.items():
            settings[name] = self._checked(name, value)
        if overrides and "method" not in settings and "use" not in settings:
            settings["method"] = AUTO_MODE
        method = settings.pop("method", BASE_MODE)
        if method == BASE_MODE:
            if settings:
                raise BadRequest(
                    f"siftlm.{next(iter(settings))} has no effect on the base model: use the model "
                    f"{self.name}:sift-50, or set siftlm.method",
                    param=f"siftlm.{next(iter(settings))}",
                )
            return Mode(BASE_MODE, None, {})
        needs(memory, bool(named))
        if memory not in self._models:
            raise NotFound(f"there is no memory {memory!r:.60}", param="siftlm.memory", code="memory_not_found")
        if method == CONTEXT_MODE:
            settings = {**settings, "use": "context"}
        elif method == AUTO_MODE:
            settings = {"use": "auto", **settings}
        else:
            settings["method"] = METHOD_ALIASES.get(method, method) if isinstance(method, str) else method
        self._check(self._models[memory], settings)
        return Mode(method + (f"-{settings['n']}" if "n" in settings else ""), memory, settings)

    def effective_settings(self, mode: Mode) -> dict[str, Any]:
        """The settings of a request in this mode: its own, those that calibration chose, and the defaults."""
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
        """Raise on a wrong value now, before the request waits in the queue."""
        try:
            model.settings(**settings)
        except UnknownName:
            raise
        except InvalidInput as error:
            method = settings.get("method")
            if method is None or _method_works(model, method):
                raise
            usable = ", ".join(name for name in (*methods(), *RECIPES) if _method_works(model, name))
            raise BadRequest(
                f"the method {method!r:.40} needs more than a prompt, such as a classifier's outputs, which no request "
                f"can send; available are {usable}",
                param="siftlm.method",
                code="invalid_value",
            ) from error

    def _suffix_settings(self, model: str, suffix: str) -> dict[str, Any]:
        if not suffix or suffix == BASE_MODE:
            return {}
        match = MODE_PATTERN.fullmatch(suffix)
        if match is None:
            raise NotFound(
                f"the model {model!r:.80} does not exist: the colon must be followed by a method and a number, as in "
                f"{self.name}:sift-50",
                param="model",
                code="model_not_found",
            )
        settings: dict[str, Any] = {"method": match["method"]}
        if match["n"]:
            settings["n"] = self._checked("n", int(match["n"]))
        return settings

    def _checked(self, name: str, value: Any) -> Any:
        if name not in REQUEST_SETTINGS:
            raise BadRequest(
                f"siftlm.{name:.40} is not a setting of a request; available are {', '.join(sorted(REQUEST_SETTINGS))}",
                param=f"siftlm.{name:.40}",
                code="unsupported_parameter",
            )
        most = SETTING_MAXIMA.get(name)
        if most is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
            raise BadRequest(
                f"siftlm.{name} must be a whole number from 1 to {most}, got {value!r:.40}", param=f"siftlm.{name}"
            )
        return value


def setting_error(error: InvalidInput, settings: Mapping[str, Any], otherwise: str = "siftlm") -> BadRequest:
    """A wrong setting as an error of the request, which names the setting if the request has set it."""
    named = [error.what] if isinstance(error, UnknownName) else error.settings
    name = next((name for name in named if name in settings), None)
    message = error.spelled(_spell_as_field)
    return BadRequest(message, param=f"siftlm.{name}" if name else otherwise, code="invalid_value")


def _spell_as_field(name: str, value: str | None) -> str:
    """A setting of a request as the field that it is."""
    return spell_as_json(f"siftlm.{name}" if name in REQUEST_SETTINGS else name, value)


def _method_works(model: LocalModel, method: Any) -> bool:
    """True if a method needs only a prompt and a memory."""
    try:
        model.memory.check(1, method=find(method).name)
    except InvalidInput:
        return False
    return True
