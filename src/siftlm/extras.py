"""Optional libraries: imported, or an error says how to install them; and the bundled model's folder."""

from __future__ import annotations

import importlib
from pathlib import Path
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


TINY_MODEL = "siftlm-tiny"


def bundled_model() -> Path:
    """The folder of ``siftlm-tiny``."""
    return Path(__file__).parent / "controller" / TINY_MODEL
