"""The public names of `siftlm.serving`: all of them are there, and what is not installed is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

from siftlm import serving

WITHOUT = """
import sys
from siftlm.errors import MissingExtra

sys.modules[{library!r}] = None
import siftlm.serving

siftlm.serving.ApiKeys, siftlm.serving.add_key  # need nothing
for name in {names!r}:
    try:
        getattr(siftlm.serving, name)
    except MissingExtra as error:
        print(error)
"""


def test_every_public_name_is_there():
    pytest.importorskip("fastapi")
    pytest.importorskip("torch")
    assert sorted(serving._HOME) == serving.__all__
    assert [name for name in serving.__all__ if getattr(serving, name).__module__.split(".")[1] != "serving"] == []
    assert set(serving.__all__) <= set(dir(serving))
    with pytest.raises(AttributeError, match="no attribute 'served'"):
        serving.served  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "extra", "names"),
    [("fastapi", "serve", ["create_app", "serve"]), ("uvicorn", "serve", ["serve"]), ("torch", "tune", ["Job"])],
)
def test_a_library_that_is_missing_is_named_with_its_command(library, extra, names):
    code = WITHOUT.format(library=library, names=names)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stderr, ran.returncode) == ("", 0)
    message = f"this needs the library {library!r}: pip install 'siftlm[{extra}]'"
    assert ran.stdout.splitlines() == [message] * len(names)
