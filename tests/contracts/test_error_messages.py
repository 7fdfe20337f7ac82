"""What an error says, wherever it is shown: the marks of settings are seen by `spelled` and by nobody else."""

from __future__ import annotations

import json
import pickle

import pytest

from siftlm import Search, Tuning
from siftlm.errors import Conflict, InvalidInput, Locked, SiftlmError, UnknownName, Unwritable, setting

MARKS = ("\ue000", "\ue001", "\ue002")


def as_flags(name, value):
    return f"--{name}" if value is None else f"--{name} {value}"


def made(kind):
    return kind(f"{setting('k', None)} and {setting('residual', True)} exclude {setting('where')}")


@pytest.mark.parametrize("kind", [SiftlmError, InvalidInput, Conflict, Locked, Unwritable])
def test_marks_are_never_shown(kind):
    error = made(kind)
    shown = [str(error), repr(error), str(error.args), f"{error!r}", repr(RuntimeError(error)), json.dumps(error.args)]
    assert not any(mark in text for text in shown for mark in MARKS)
    assert str(error) == error.args[0] == "k=None and residual=True exclude where"
    assert error.settings == ("k", "residual", "where")


@pytest.mark.parametrize("kind", [InvalidInput, Locked])
def test_an_error_travels_between_processes_with_its_settings(kind):
    again = pickle.loads(pickle.dumps(made(kind)))
    assert (type(again), str(again), again.settings) == (kind, str(made(kind)), made(kind).settings)
    assert again.spelled(as_flags) == "--k None and --residual True exclude --where"


def test_the_error_around_an_error_names_the_same_settings():
    outer = InvalidInput(f"prompt 3: {made(Conflict).marked}")
    assert str(outer) == "prompt 3: k=None and residual=True exclude where"
    assert outer.settings == ("k", "residual", "where")


def test_a_text_of_the_user_is_no_setting():
    text = "a \ue000k\ue002 = \ue000n\ue0013\ue002"
    error = InvalidInput(f"{setting('where')}: cannot read {text}")
    assert error.settings == ("where",)
    assert error.spelled(as_flags) == f"--where: cannot read {text}"
    assert text in str(error)


def test_errors_with_a_number_of_the_system_and_with_fields_of_their_own_stay_what_they_are():
    assert str(Unwritable(28, "no space")) == Unwritable(28, "no space").spelled(as_flags) == "[Errno 28] no space"
    unknown = UnknownName("method", "shift", ["sift"])
    assert pickle.loads(pickle.dumps(unknown)).known == ["sift"]
    assert str(unknown) == unknown.spelled(as_flags)


def test_an_unknown_value_of_a_setting_names_the_setting_and_an_unknown_noun_does_not():
    with pytest.raises(UnknownName) as caught:
        Tuning(order="reverse")
    assert caught.value.settings == pickle.loads(pickle.dumps(caught.value)).settings == ("order",)
    assert UnknownName("kind", "cod", ["code"]).settings == ()


def test_a_check_names_its_setting():
    with pytest.raises(InvalidInput, match="k must be a whole number") as caught:
        Search(k=-1)
    assert caught.value.settings == ("k",)
    assert not any(mark in repr(caught.value) for mark in MARKS)
