"""Keys: only who has one gets in, only as far as it goes, and only until it is revoked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.serving import ApiKeys, Caller, auth
from siftlm.serving.errors import NotAllowed, ServingError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_a_key_opens_what_it_was_made_for(file):
    ann = auth.add_key(file, "ann", {"docs": "write", "*": "read"})
    ben = auth.add_key(file, "ben", {"docs": "read"})
    known = ApiKeys.read(file)
    caller = known.of(bearer(ann))
    assert caller == Caller("ann", {"docs": "write", "*": "read"})
    assert known.of(f"bearer  {ben} ").name == "ben"
    assert not known.of(bearer(ben)).may("wiki", "read")
    with pytest.raises(NotAllowed, match="'ben' may not write the memory 'docs'") as refusal:
        known.of(bearer(ben)).needs("docs", "write")
    assert refusal.value.status == 403
    caller.needs("docs", "write")


@pytest.mark.parametrize(
    ("memories", "memory", "right", "may"),
    [
        ({"docs": "write"}, "docs", "read", True),
        ({"docs": "read"}, "docs", "write", False),
        ({"*": "write", "docs": "read"}, "docs", "write", False),  # what is named goes before what is not
        ({"*": "write", "docs": "read"}, "wiki", "write", True),
        ({}, "docs", "read", False),
    ],
)
def test_what_a_caller_may(memories, memory, right, may):
    assert Caller("ann", memories).may(memory, right) is may


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "sift-abc", "Bearer sift-wrong", "Bearer \udcff", "Bearer é"]
)
def test_nobody_else_gets_in(file, header):
    auth.add_key(file, "ann", {"*": "read"})
    with pytest.raises(NotAllowed) as refusal:
        ApiKeys.read(file).of(header)
    assert refusal.value.status == 401


def test_the_file_tells_no_key_and_is_private(file):
    made = {auth.add_key(file, f"key-{n}", {"*": "read"}) for n in range(5)}
    text = file.read_text()
    assert len(made) == 5
    assert all(key.startswith("sift-") and len(key) == 5 + 43 for key in made)
    assert not any(key.removeprefix("sift-") in text for key in made)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(file.parent.glob("*.new"))


def test_a_hash_is_no_key(file):
    auth.add_key(file, "ann", {"*": "read"})
    with pytest.raises(NotAllowed):
        ApiKeys.read(file).of(bearer(auth.list_keys(file)[0].hash))


def test_changes_count_without_a_restart(file):
    ann = auth.add_key(file, "ann", {"*": "read"})
    known = ApiKeys.read(file)
    assert known.of(bearer(ann)).name == "ann"
    ben = auth.add_key(file, "ben", {"*": "read"})
    assert known.of(bearer(ben)).name == "ben"
    auth.revoke_key(file, "ann")
    with pytest.raises(NotAllowed):
        known.of(bearer(ann))
    assert [key.name for key in auth.list_keys(file)] == ["ben"]
    known.of(bearer(ben))


def test_a_file_that_breaks_lets_nobody_in_until_it_is_mended(file, caplog):
    ann = auth.add_key(file, "ann", {"*": "read"})
    known, whole = ApiKeys.read(file), file.read_text()
    for broken in (whole[:-20], "[]", '{"version": 1}', '{"version": 7, "keys": []}'):
        file.write_text(broken)
        for _ in range(2):
            with pytest.raises(ServingError) as refusal:
                known.of(bearer(ann))
            assert str(file) not in str(refusal.value)
            assert refusal.value.status == 500
    assert str(file) in caplog.text
    file.unlink()
    with pytest.raises(ServingError):
        known.of(bearer(ann))
    file.write_text(whole)
    file.chmod(0o600)
    assert known.of(bearer(ann)).name == "ann"


@pytest.mark.skipif(os.name == "nt", reason="no such modes there")
def test_a_file_that_others_may_write_is_refused(file):
    auth.add_key(file, "ann", {"*": "read"})
    file.chmod(0o622)
    with pytest.raises(InvalidInput, match="chmod 600"):
        ApiKeys.read(file)
    file.chmod(0o444)
    assert ApiKeys.read(file)


def test_what_is_no_file_of_keys(file):
    with pytest.raises(InvalidInput, match=r"siftlm keys add .* creates it"):
        ApiKeys.read(file)
    auth.add_key(file, "ann", {"*": "read"})
    content = json.loads(file.read_text())
    content["keys"][0]["hash"] = ""
    file.write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="hash of the key 'ann'"):
        ApiKeys.read(file)


def test_wrong_names_and_rights(file):
    auth.add_key(file, "ann", {"*": "read"})
    with pytest.raises(Conflict, match="'ann' exists already"):
        auth.add_key(file, "ann", {"*": "read"})
    for name in ("", "a b", "a\n", "../x", "x" * 61):
        with pytest.raises(InvalidInput, match="name of a key"):
            auth.add_key(file, name, {"*": "read"})
    with pytest.raises(InvalidInput, match="read or write, got 'own'"):
        auth.add_key(file, "ben", {"docs": "own"})
    with pytest.raises(UnknownName, match="'ann'"):
        auth.revoke_key(file, "anne")
    assert [key.name for key in auth.list_keys(file)] == ["ann"]


def test_revoking_makes_no_file(file):
    with pytest.raises(InvalidInput):
        auth.revoke_key(file, "ann")
    assert not list(file.parent.iterdir())


def test_none_is_lost_when_many_are_added_at_once(file):
    program = (
        "import sys\nfrom siftlm.serving import auth\n"
        "for n in '12345':\n    auth.add_key(*sys.argv[1:2], sys.argv[2] + n, {})"
    )

    def process(name: str) -> int:
        return subprocess.run([sys.executable, "-c", program, str(file), name], check=False).returncode

    with ThreadPoolExecutor(6) as pool:
        run = pool.submit(process, "a")
        here = [pool.submit(auth.add_key, file, f"c{n}", {"*": "read"}) for n in range(8)]
        assert run.result() == 0
        made = [one.result() for one in here]
    assert len(auth.list_keys(file)) == 13
    assert len({key.hash for key in auth.list_keys(file)}) == 13
    known = ApiKeys.read(file)
    assert {known.of(bearer(key)).name for key in made} == {f"c{n}" for n in range(8)}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_root_adds_a_key_for_the_server_that_owns_the_file(file):
    auth.add_key(file, "ann", {"*": "read"})
    os.chown(file, 12345, 12345)
    auth.add_key(file, "ben", {"*": "read"})
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12345)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_link_to_the_file_stays_one(file, tmp_path):
    link = tmp_path / "link.json"
    auth.add_key(file, "ann", {"*": "read"})
    link.symlink_to(file)
    auth.add_key(link, "ben", {"*": "read"})
    assert link.is_symlink()
    assert [key.name for key in auth.list_keys(file)] == ["ann", "ben"]
