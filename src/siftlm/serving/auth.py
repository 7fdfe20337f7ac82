"""API keys: who asks, and which memories they may read and write.

A key is 32 random bytes, so a plain hash of it is all that has to be kept, and nothing slower is needed: nobody can try
them all. The file is JSON, readable by its owner alone:

    {"version": 1, "keys": [{"name": "ann", "hash": "…", "made": "…", "memories": {"docs": "write", "*": "read"}}]}
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from siftlm.errors import Conflict, InvalidInput, SiftlmError, UnknownName
from siftlm.memory import durability
from siftlm.serving.errors import NotAllowed, ServingError

KEY_PREFIX = "sift-"
RIGHTS = ("read", "write")
ANY_MEMORY = "*"
KEY_FILE_VERSION = 1
KEY_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,59}")
KEY_HASH_PATTERN = re.compile(r"[0-9a-f]{64}")
# Seconds to wait for another process that changes the file.
KEY_FILE_LOCK_SECONDS = 10.0

_log = logging.getLogger("siftlm.serving")


@dataclass(frozen=True)
class Caller:
    """Whoever a request comes from."""

    name: str
    memories: Mapping[str, str] = field(default_factory=dict)
    """Memory -> ``read`` or ``write``, which includes reading; ``*`` speaks for those that are not named."""

    def may(self, memory: str, right: str) -> bool:
        """Is that allowed?

        >>> ann = Caller("ann", {"docs": "write", "*": "read"})
        >>> ann.may("docs", "write"), ann.may("wiki", "read"), ann.may("wiki", "write")
        (True, True, False)
        """
        held = self.memories.get(memory, self.memories.get(ANY_MEMORY))
        return held is not None and RIGHTS.index(held) >= RIGHTS.index(right)

    def needs(self, memory: str, right: str, *, named: bool = True) -> None:
        """Go on only if that is allowed. It does not tell whether there is such a memory.

        Nor what the default memory is called: where it is not ``named`` in the request, it is not in the answer.
        """
        if not self.may(memory, right):
            which = f"the memory {memory!r:.60}" if named else "the default memory; name another one"
            raise NotAllowed(f"the key {self.name!r} may not {right} {which}", known=True)

    def reads(self, memory: str, named: bool) -> None:
        """As `needs`; what `siftlm.serving.modes.ModeParser.parse` asks."""
        self.needs(memory, "read", named=named)


ANONYMOUS_CALLER = Caller("anybody", {ANY_MEMORY: "write"})
"""Where no keys are asked for."""


@dataclass(frozen=True)
class ApiKey:
    """What is kept of one."""

    name: str
    hash: str
    made: str
    memories: Mapping[str, str]


class ApiKeys:
    """The keys of a file, as it is at each request."""

    def __init__(self, path: Path, stamp: tuple[int, ...], keys: Sequence[ApiKey]) -> None:
        self._path, self._lock = path, threading.Lock()
        self._seen: tuple[tuple[int, ...], Sequence[ApiKey] | None] = (stamp, keys)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ApiKeys:
        """Of a file that is there; what is wrong with it is an error now, and later it refuses everybody."""
        found = Path(path).absolute()
        stamp, keys = _file_stamp(found), _read_file(found)
        return cls(found, stamp, keys)

    def of(self, header: str | None) -> Caller:
        """Who sends this ``Authorization`` header.

        A key that was revoked meanwhile is not known any more: the file is looked at each time, and read when it has
        changed.
        """
        scheme, _, given = (header or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise NotAllowed("an API key is needed: send the header 'Authorization: Bearer sift-…'")
        mine, found = _hash_key(given.strip()), None
        for key in self._now():  # all of them: how long it takes tells nothing
            if hmac.compare_digest(key.hash, mine):
                found = key
        if found is None:
            raise NotAllowed("this API key is not known, or was revoked")
        return Caller(found.name, found.memories)

    def _now(self) -> Sequence[ApiKey]:
        stamp = _file_stamp(self._path)
        with self._lock:
            if stamp != self._seen[0]:
                try:
                    self._seen = stamp, _read_file(self._path)
                except (SiftlmError, OSError) as error:
                    _log.error("no request is allowed until the file of keys can be read: %s", error)
                    self._seen = stamp, None
            keys = self._seen[1]
        if keys is None:
            raise ServingError("the server's keys cannot be read; its log says why", code="keys_unreadable")
        return keys


def list_keys(path: str | os.PathLike[str]) -> list[ApiKey]:
    """All keys of a file, in the order in which they were made."""
    return list(_read_file(Path(path)))


def add_key(path: str | os.PathLike[str], name: str, memories: Mapping[str, str]) -> str:
    """Make a key and return it; the file, which is made if it is not there, keeps only its hash."""
    if not KEY_NAME_PATTERN.fullmatch(name):
        raise InvalidInput(f"the name of a key is made of letters, digits and . _ @ -, at most 60, got {name!r}")
    rights = _check_rights(f"the key {name!r}", memories)
    key = KEY_PREFIX + secrets.token_urlsafe(32)

    def added(keys: list[ApiKey]) -> list[ApiKey]:
        if any(one.name == name for one in keys):
            raise Conflict(f"{path}: there is a key {name!r} already: revoke it first, or choose another name")
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return [*keys, ApiKey(name, _hash_key(key), made, rights)]

    _update_file(Path(path), f"adding the key {name}", added)
    return key


def revoke_key(path: str | os.PathLike[str], name: str) -> None:
    """Forget a key: the next request that comes with it is refused."""
    list_keys(path)  # so that none is made where there was none

    def without(keys: list[ApiKey]) -> list[ApiKey]:
        if all(key.name != name for key in keys):
            raise UnknownName("key", name, [key.name for key in keys])
        return [key for key in keys if key.name != name]

    _update_file(Path(path), f"revoking the key {name}", without)


# --- the file


def _update_file(path: Path, doing: str, change: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
    path = path.resolve()  # a link stays one
    with durability.writer_lock(path.parent, doing, wait=KEY_FILE_LOCK_SECONDS, name=f"{path.name}.lock"):
        known = list_keys(path) if path.exists() else []
        content = {"version": KEY_FILE_VERSION, "keys": [asdict(key) for key in change(known)]}
        _write_file(path, (json.dumps(content, indent=2) + "\n").encode())


def _write_file(path: Path, content: bytes) -> None:
    """The whole of it or nothing, for the owner of the old one."""
    new = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # of a process that was killed
    with (
        durability.translate_write_errors(path),
        os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
    ):
        if hasattr(os, "fchown") and path.exists():  # root adds a key for a server that runs as somebody else
            _keep_owner(file.fileno(), path)
        file.write(content)
        durability.sync_file(file)
    os.replace(new, path)
    durability.sync_folder(path.parent)


def _keep_owner(descriptor: int, path: Path) -> None:
    owner = path.stat()
    try:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except PermissionError:
        raise InvalidInput(f"{path}: belongs to somebody else: run this as they, or as root") from None


def _read_file(path: Path) -> list[ApiKey]:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read()
    except FileNotFoundError:
        raise InvalidInput(f"{path}: there is no such file; siftlm keys add {path} NAME makes one") from None
    if os.name != "nt" and mode & 0o022:
        raise InvalidInput(f"{path}: others may write to it, and so let themselves in: chmod 600 {path}")
    try:
        content = json.loads(raw)
        if content["version"] != KEY_FILE_VERSION:
            raise InvalidInput(
                f"{path}: is of version {content['version']!r}, and this siftlm reads {KEY_FILE_VERSION}"
            )
        return [_parse_key(path, entry) for entry in content["keys"]]
    except InvalidInput:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path}: is no file of keys: {error!r}") from error


def _parse_key(path: Path, entry: Mapping[str, Any]) -> ApiKey:
    name, kept = str(entry["name"]), str(entry["hash"])
    if not KEY_HASH_PATTERN.fullmatch(kept):
        raise InvalidInput(f"{path}: the hash of the key {name!r} is none")
    return ApiKey(name, kept, str(entry["made"]), _check_rights(f"{path}: the key {name!r}", entry["memories"]))


def _check_rights(whose: str, memories: Mapping[str, str]) -> dict[str, str]:
    for memory, right in memories.items():
        if right not in RIGHTS:
            raise InvalidInput(f"{whose}: what may be done to {memory!r} is read or write, got {right!r}")
    return dict(memories)


def _hash_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _file_stamp(path: Path) -> tuple[int, ...]:
    """Another one whenever the file may have changed; of one that is gone, ()."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
