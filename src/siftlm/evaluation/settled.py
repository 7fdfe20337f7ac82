"""The settings of each method of a run: written with its first record, and the same for all that come after.

Looked at whenever a record is read: two processes that begin at once with different settings see each other's first
record before they write their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from siftlm.errors import Conflict
from siftlm.evaluation.ways.registry import BASELINE_FILE_SETTING


def settings_check(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], None]:
    """A look at one record: refused if it is of other settings than ours, wherever those came from.

    Args:
        path: of the run, to be named.
        settings: name of a method -> all that decides its results now.
    """
    asked = json.loads(json.dumps(settings))

    def look(record: Mapping[str, Any]) -> None:
        label = record["method"]
        old, now = record.get("settings"), asked.get(label)
        if old is None or now is None:
            return
        for name in old.keys() & now.keys():  # another version may have more
            if old[name] != now[name]:
                raise Conflict(
                    f"{path}: holds results of {label} with {_describe_change(label, name, old[name], now[name])}"
                )

    return look


def _describe_change(label: str, name: str, old: Any, now: Any) -> str:
    if name == BASELINE_FILE_SETTING:
        return f"another file than {label}'s is now: give --out another folder, or the file another name"
    return f"{name}={old!r}, and now it is {now!r}; give --out another folder, or write {label}+{name}=…"
