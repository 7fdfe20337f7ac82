"""Examples in docstrings become blocks of code in the reference; Markdown would take ``>>>`` for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

# From a prompt to the next empty line, unless it is in a block already.
EXAMPLE = re.compile(r"(?<!```pycon\n)^(?P<indent> *)>>> .*(?:\n(?P=indent).+)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The text with a fence around each example."""
    return EXAMPLE.sub(lambda found: f"{found['indent']}```pycon\n{found[0]}\n{found['indent']}```", text)


class Doctests(griffe.Extension):
    """Told of every object whose docstring is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ARG002
        """Fence its examples."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
