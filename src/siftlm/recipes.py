"""Published procedures under one word, and the precedence of settings.

A recipe is a way to select together with the way to learn that was published with it. `LocalModel` takes its word
wherever it takes the name of a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siftlm.controller import Tuning, setting_names
from siftlm.errors import Conflict, UnknownName, setting
from siftlm.selection import problem
from siftlm.selection.problem import Method

# Settings of SIFT: who sets one of them and names no method means SIFT.
SETTINGS_OF_SIFT = ("noise", "kernel", "replacement", "residual", "known", "opposites", "features")
# Only what makes a procedure what it is: rates, numbers of texts and of candidates are the user's, or calibration's.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    # arXiv 2605.30337: a text is trained as often as its count, its gradient computed every other time.
    "hullft": {"method": "hull", "repeats": "grouped", "reuse": 2},
}


def find(method: Any) -> Method:
    """The method that is meant by its own name, by a recipe's word, or as a function.

    >>> find("hullft").name
    'hull'
    """
    settings, _ = merged({}, {"method": method})
    return problem.find_method(settings["method"])


def default_method(settings: Mapping[str, Any]) -> str:
    """The method of a call with these settings, none of which names one.

    `auto` where the model is tuned (docs/decisions/0051-step-aware-selection.md). `sift` for texts that are only read,
    where none is worth its tokens twice, and beside a setting that is SIFT's.

    >>> default_method({"n": 20}), default_method({"use": "context"}), default_method({"noise": 0.3})
    ('auto', 'sift', 'sift')
    """
    given = [settings.get(name) for name in SETTINGS_OF_SIFT]
    if settings.get("use") == "context" or any(value is not None and value is not False for value in given):
        return "sift"
    return "auto"


def merged(calibrated: Mapping[str, Any], *given: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The merged settings, and the word of the recipe among them, if there is one.

    What was given by name, last in a call, beats what a recipe implies, and this beats what calibration measured:
    ``reuse=3`` beside ``"hullft"`` means 3, wherever it stands. The recipe is that of the method in force; naming
    another method takes all of it back.

    Calibration measured one method. Beside another one only its settings of tuning and ``n`` are taken: how fast and
    how long this model learns from this memory. λ, kernel, k, and the rules when to stop and whether to begin
    were chosen for the picks of its own method. Another method would pick other texts with them, or refuse them,
    although nobody chose them for it.

    >>> merged({"method": "sift", "rate": 1e-3, "noise": 0.3}, {"reuse": 3}, {"method": "hullft"})
    ({'rate': 0.001, 'method': 'hull', 'repeats': 'grouped', 'reuse': 3}, 'hullft')
    """
    explicit = {name: value for one in given for name, value in one.items()}
    measured = calibrated.get("method", default_method(calibrated))
    word = explicit.get("method", measured if calibrated else default_method(explicit))
    if not callable(word) and not (isinstance(word, str) and word in RECIPES):
        try:
            problem.find_method(word)
        except UnknownName:
            raise UnknownName("method", word, (*problem.methods(), *RECIPES), is_setting=True) from None
    if word != measured:
        calibrated = {name: calibrated[name] for name in (*setting_names(), "n") if name in calibrated}
    if not isinstance(word, str) or word not in RECIPES:
        return {**calibrated, **explicit, "method": word}, None
    recipe = RECIPES[word]
    settings = {**calibrated, **recipe, **explicit, "method": recipe["method"]}
    _check_beside_recipe(word, settings, explicit)
    return settings, word


def _check_beside_recipe(word: str, settings: Mapping[str, Any], explicit: Mapping[str, Any]) -> None:
    """An error where what was given by name contradicts what the recipe implies; it says what is the recipe's."""
    try:
        Tuning().with_({name: settings[name] for name in setting_names() if name in settings})
    except Conflict as error:
        implied = [name for name in error.settings if name in RECIPES[word] and name not in explicit]
        if not implied:
            raise
        from_recipe = " and ".join(setting(name, settings[name]) for name in implied)
        given = " and ".join(setting(name, explicit[name]) for name in error.settings if name in explicit)
        raise Conflict(
            f"{error.marked}; {from_recipe} comes from the recipe {word!r}: leave out {given}, "
            f"or choose another {' and '.join(map(setting, implied))}"
        ) from error
