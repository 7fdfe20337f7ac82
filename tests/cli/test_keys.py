"""`siftlm keys` makes, lists and revokes keys."""

from __future__ import annotations

import json

import pytest

from siftlm.serving import ApiKeys, Caller
from siftlm.serving.errors import NotAllowed


@pytest.fixture
def file(folder):
    return folder / "keys.json"


def test_the_key_alone_goes_to_stdout(siftlm, file):
    status, out, err = siftlm("keys", "add", str(file), "ann")
    assert (status, out.count("\n")) == (0, 1)
    assert "cannot be shown again" in err
    assert ApiKeys.read(file).of(f"Bearer {out.strip()}") == Caller("ann", {"*": "read"})


def test_rights_are_given_by_memory(siftlm, file):
    _, key, _ = siftlm("keys", "add", str(file), "ann", "--memory", "docs=write", "--memory", "a=b=read")
    assert ApiKeys.read(file).of(f"Bearer {key.strip()}").memories == {"docs": "write", "a=b": "read"}


def test_the_list_shows_no_secret(siftlm, file):
    _, key, _ = siftlm("keys", "add", str(file), "ann", "--memory", "docs=write")
    siftlm("keys", "add", str(file), "benjamin")
    _, out, _ = siftlm("keys", "list", str(file))
    first, second = out.splitlines()
    assert first.startswith("ann       20")
    assert first.endswith("docs=write")
    assert second.startswith("benjamin  20")
    _, plain, _ = siftlm("keys", "list", str(file), "--json")
    assert [sorted(one) for one in json.loads(plain)] == [["made", "memories", "name"]] * 2
    assert "hash" not in plain + out
    assert key.strip() not in plain + out


def test_a_revoked_key_is_refused(siftlm, file):
    _, key, _ = siftlm("keys", "add", str(file), "ann")
    known = ApiKeys.read(file)
    status, out, _ = siftlm("keys", "revoke", str(file), "ann")
    assert (status, out) == (0, f"{file}: the key of ann is revoked\n")
    with pytest.raises(NotAllowed):
        known.of(f"Bearer {key.strip()}")


@pytest.mark.parametrize("right", ["docs", "docs=", "=read", "docs=own"])
def test_a_wrong_right_is_a_wrong_command_line(siftlm, file, right):
    status, out, err = siftlm("keys", "add", str(file), "ann", "--memory", right)
    assert (status, out) == (2, "")
    assert f"expected NAME=read or NAME=write, got '{right}'" in err
    assert not file.exists()


def test_what_is_not_there_is_said(siftlm, file):
    status, _, err = siftlm("keys", "list", str(file))
    assert (status, f"siftlm keys add {file} NAME creates it" in err) == (1, True)
    siftlm("keys", "add", str(file), "ann")
    assert siftlm("keys", "revoke", str(file), "anne")[0] == 1
    assert siftlm("keys", "add", str(file), "ann")[0] == 1


def test_the_help_teaches(siftlm):
    status, out, _ = siftlm("keys", "--help")
    assert status == 0
    assert "siftlm keys revoke" in out
    assert "Authorization: Bearer" in out
