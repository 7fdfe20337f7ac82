"""Settings have one spelling: command line and server take fields of `Search` and `Tuning`, and nothing else."""

from __future__ import annotations

import pytest

from siftlm import Search, Tuning
from siftlm.call import LOCAL_SETTINGS
from siftlm.cli import arguments

KNOWN = {*Search.names(), *Tuning.names(), *LOCAL_SETTINGS}


def test_no_name_is_a_setting_of_two_things_but_the_seed():
    assert set(Search.names()) & set(Tuning.names()) == {"seed"}
    assert not set(LOCAL_SETTINGS) & {*Search.names(), *Tuning.names()}


def test_the_command_line_takes_fields_of_the_dataclasses():
    assert set(arguments.SEARCH_NAMES) <= {*Search.names(), *LOCAL_SETTINGS}
    assert list(arguments.TUNING_NAMES) == Tuning.names()


def test_the_server_takes_fields_of_the_dataclasses():
    pytest.importorskip("fastapi")
    from siftlm.serving.modes import REQUEST_SETTINGS

    assert set(REQUEST_SETTINGS) <= KNOWN
