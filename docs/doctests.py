"""What the reference reads otherwise than Python: examples in docstrings, and the table of the package's public names.

Examples become blocks of code; Markdown would take ``>>>`` for quotations.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

# From a prompt to the next empty line, unless it is in a block already.
EXAMPLE = re.compile(r"(?<!```pycon\n)^(?P<indent> *)>>> .*(?:\n(?P=indent).+)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The text with a fence around each example."""
    return EXAMPLE.sub(lambda found: f"{found['indent']}```pycon\n{found[0]}\n{found['indent']}```", text)


class Doctests(griffe.Extension):
    """Called for every object whose docstring is read, and for every module."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ARG002
        """Fence its examples."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_module_members(self, *, mod: griffe.Module, **kwargs: Any) -> None:  # noqa: ARG002
        """Work ``__all__`` of the package out, which is made from the table ``_HOME``."""
        if mod.path == "siftlm":
            mod.exports = ["__version__", *ast.literal_eval(str(mod["_HOME"].value))]
