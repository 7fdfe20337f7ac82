"""The one place where an optional library is imported: it arrives, or the error says how to install it."""

from __future__ import annotations

import importlib
from typing import Any

from siftlm.errors import MissingExtra


def load(library: str, extra: str) -> Any:
    """Import ``library``, or raise `MissingExtra` with the command that installs it.

    >>> load("json", "anything").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        # A library that is there but broken must not be reported as absent.
        if error.name is not None and error.name.split(".")[0] == library.split(".")[0]:
            raise MissingExtra(library, extra) from error
        raise
