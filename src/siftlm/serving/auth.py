"""API keys: the caller behind a request, and the memories that it may read and write.

A key is 32 random bytes, which nobody can guess, so a fast hash of it is enough to store. The file is JSON, readable by
its owner alone:

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
# Seconds to wait for another process that is changing the file.
KEY_FILE_LOCK_SECONDS = 10.0

_log = logging.getLogger("siftlm.serving")


@dataclass(frozen=True)
class Caller:
    """The sender of a request."""

    name: str
    memories: Mapping[str, str] = field(default_factory=dict)
    """Memory -> ``read`` or ``write``, which includes reading; ``*`` stands for all that are not named."""

    def may(self, memory: str, right: str) -> bool:
        """True if the caller has this right (``read`` or ``write``) on a memory.

        >>> ann = Caller("ann", {"docs": "write", "*": "read"})
        >>> ann.may("docs", "write"), ann.may("wiki", "read"), ann.may("wiki", "write")
        (True, True, False)
        """
        held = self.memories.get(memory, self.memories.get(ANY_MEMORY))
        return held is not None and RIGHTS.index(held) >= RIGHTS.index(right)

    def needs(self, memory: str, right: str, *, named: bool = True) -> None:
        """Raise `NotAllowed` without this right.

        The error reveals neither whether the memory exists, nor the name of the default memory: a memory that the
        request did not name (``named``) is not named in the error.
        """
        if not self.may(memory, right):
            which = f"the memory {memory!r:.60}" if named else "the default memory; name another one"
            raise NotAllowed(f"the key {self.name!r} may not {right} {which}", known=True)

    def reads(self, memory: str, named: bool) -> None:
        """`needs` with the right to read, as the check of `siftlm.serving.modes.ModeParser.parse`."""
        self.needs(memory, "read", named=named)


ANONYMOUS_CALLER = Caller("anybody", {ANY_MEMORY: "write"})
"""The caller of every request to a server without keys."""


@dataclass(frozen=True)
class ApiKey:
    """A key as the file holds it."""

    name: str
    hash: str
    made: str
    memories: Mapping[str, str]


class ApiKeys:
    """The keys of a file, which is read again whenever it changes."""

    def __init__(self, path: Path, stamp: tuple[int, ...], keys: Sequence[ApiKey]) -> None:
        self._path, self._lock = path, threading.Lock()
        self._seen: tuple[tuple[int, ...], Sequence[ApiKey] | None] = (stamp, keys)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ApiKeys:
        """Read an existing file. A file that is broken raises here; if it breaks later, all requests are refused."""
        file = Path(path).absolute()
        stamp, keys = _file_stamp(file), _read_file(file)
        return cls(file, stamp, keys)

    def of(self, header: str | None) -> Caller:
        """The caller with this ``Authorization`` header.

        A revoked key is unknown at once: every call checks the file, and reads it again if it has changed.
        """
        scheme, _, key = (header or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise NotAllowed("an API key is required: send the header 'Authorization: Bearer sift-…'")
        hashed, match = _hash_key(key.strip()), None
        for known in self._current():  # compares all of them, so that the time reveals nothing
            if hmac.compare_digest(known.hash, hashed):
                match = known
        if match is None:
            raise NotAllowed("this API key is unknown or has been revoked")
        return Caller(match.name, match.memories)

    def _current(self) -> Sequence[ApiKey]:
        stamp = _file_stamp(self._path)
        with self._lock:
            if stamp != self._seen[0]:
                try:
                    self._seen = stamp, _read_file(self._path)
                except (SiftlmError, OSError) as error:
                    _log.error("all requests are refused until the file of keys can be read: %s", error)
                    self._seen = stamp, None
            keys = self._seen[1]
        if keys is None:
            raise ServingError("the server's keys cannot be read; its log says why", code="keys_unreadable")
        return keys


def list_keys(path: str | os.PathLike[str]) -> list[ApiKey]:
    """All keys of a file, oldest first."""
    return list(_read_file(Path(path)))


def add_key(path: str | os.PathLike[str], name: str, memories: Mapping[str, str]) -> str:
    """Create a key and return it; the file, created if necessary, holds only its hash."""
    if not KEY_NAME_PATTERN.fullmatch(name):
        raise InvalidInput(f"the name of a key must be at most 60 letters, digits and . _ @ -, got {name!r}")
    rights = _check_rights(f"the key {name!r}", memories)
    key = KEY_PREFIX + secrets.token_urlsafe(32)

    def append(keys: list[ApiKey]) -> list[ApiKey]:
        if any(one.name == name for one in keys):
            raise Conflict(f"{path}: the key {name!r} exists already: revoke it first, or choose another name")
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return [*keys, ApiKey(name, _hash_key(key), made, rights)]

    _update_file(Path(path), f"adding the key {name}", append)
    return key


def revoke_key(path: str | os.PathLike[str], name: str) -> None:
    """Remove a key: the next request with it is refused."""
    list_keys(path)  # raises if there is no file, which would be created otherwise

    def without(keys: list[ApiKey]) -> list[ApiKey]:
        if all(key.name != name for key in keys):
            raise UnknownName("key", name, [key.name for key in keys])
        return [key for key in keys if key.name != name]

    _update_file(Path(path), f"revoking the key {name}", without)


# --- the file


def _update_file(path: Path, doing: str, change: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
    path = path.resolve()  # keeps a symbolic link
    with durability.writer_lock(path.parent, doing, wait=KEY_FILE_LOCK_SECONDS, name=f"{path.name}.lock"):
        known = list_keys(path) if path.exists() else []
        content = {"version": KEY_FILE_VERSION, "keys": [asdict(key) for key in change(known)]}
        _write_file(path, (json.dumps(content, indent=2) + "\n").encode())


def _write_file(path: Path, content: bytes) -> None:
    """Replace the file atomically, and keep its owner."""
    new = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # left by a process that was killed
    with (
        durability.translate_write_errors(path),
        os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
    ):
        if hasattr(os, "fchown") and path.exists():  # root may add a key for a server of another user
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
        raise InvalidInput(f"{path}: belongs to another user: run this as that user or as root") from None


def _read_file(path: Path) -> list[ApiKey]:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read()
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file; siftlm keys add {path} NAME creates it") from None
    if os.name != "nt" and mode & 0o022:
        raise InvalidInput(f"{path}: other users can write to it, and so add keys: chmod 600 {path}")
    try:
        content = json.loads(raw)
        if content["version"] != KEY_FILE_VERSION:
            raise InvalidInput(
                f"{path}: has version {content['version']!r}; this siftlm reads version {KEY_FILE_VERSION}"
            )
        return [_parse_key(path, entry) for entry in content["keys"]]
    except InvalidInput:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path}: not a file of API keys: {error!r}") from error


def _parse_key(path: Path, entry: Mapping[str, Any]) -> ApiKey:
    name, kept = str(entry["name"]), str(entry["hash"])
    if not KEY_HASH_PATTERN.fullmatch(kept):
        raise InvalidInput(f"{path}: the hash of the key {name!r} is invalid")
    return ApiKey(name, kept, str(entry["made"]), _check_rights(f"{path}: the key {name!r}", entry["memories"]))


def _check_rights(subject: str, memories: Mapping[str, str]) -> dict[str, str]:
    for memory, right in memories.items():
        if right not in RIGHTS:
            raise InvalidInput(f"{subject}: the right on {memory!r} must be read or write, got {right!r}")
    return dict(memories)


def _hash_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _file_stamp(path: Path) -> tuple[int, ...]:
    """A stamp that changes whenever the file may have changed; () if there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
