"""vLLM over HTTP: the model it serves, adapters loaded and unloaded, continuations token by token."""

from __future__ import annotations

import http.client
import json
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from siftlm.controller import SampledToken
from siftlm.errors import InvalidInput, SiftlmError
from siftlm.serving.errors import BadGateway, DeadlineExceeded

logger = logging.getLogger(__name__)
# Seconds that it may take to be connected, and for an adapter to be loaded.
CONNECT_SECONDS, ADMIN_SECONDS = 10.0, 60.0
TOKEN_ID_PREFIX = "token_id:"
LOGPROB_FIELDS = ("tokens", "token_logprobs", "top_logprobs")
VLLM_COMMAND = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve … --enable-lora --max-lora-rank {rank}"


class CallAborted(Exception):
    """We hung up ourselves."""


class VllmError(Exception):
    """vLLM said no."""

    def __init__(self, status: int, message: str, *, spoken: bool) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.spoken = spoken
        """Was it vLLM's own word, and not that of a server that knows no such route?"""


@dataclass(frozen=True)
class ServedModel:
    """What a vLLM serves."""

    name: str
    context: int | None
    """The most tokens that it reads at once."""


class VllmCall:
    """One request and its answer, which another thread may break off with `break_off`."""

    def __init__(
        self, url: str, key: str | None, path: str, patience: float, until: float | None, *, starting: bool = False
    ) -> None:
        parts = urlsplit(url)
        made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = made(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)
        self._path, self._key = parts.path + path, key
        self._patience, self._until = patience, until
        self._socket: socket.socket | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._closed = False
        self._starting = starting

    def send(self, body: Mapping[str, Any] | None) -> None:
        """Ask, and wait for the head of the answer; `VllmError` where it is not 200."""
        with self._explained():
            self._connection.connect()
            self._socket = self._connection.sock  # http.client forgets it when the answer begins
            if self._closed:
                raise CallAborted
            self._wait()
            headers = {"Content-Type": "application/json"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            content = None if body is None else json.dumps(body).encode()
            self._connection.request("GET" if body is None else "POST", self._path, content, headers)
            self._answer = self._connection.getresponse()
            if self._answer.status != 200:
                raise _vllm_error(self._answer.status, self._answer.read())

    def read(self) -> bytes:
        """All of the answer."""
        with self._explained():
            return b"" if self._answer is None else self._answer.read()

    def events(self) -> Iterator[dict[str, Any]]:
        """The server-sent events, until the one that says that it was the last."""
        while True:
            with self._explained():
                self._wait()
                line = b"" if self._answer is None else self._answer.readline()
            if not line:
                raise self._broken("vLLM broke off in the middle of an answer")
            if line.startswith(b"data:"):
                content = line[5:].strip()
                if content == b"[DONE]":
                    return
                found = _parse_response(content)
                if not isinstance(found, dict) or "choices" not in found:
                    raise VllmError(500, _error_message(found), spoken=True)
                yield found

    def break_off(self) -> None:
        """From another thread: who waits for the answer gets `CallAborted`."""
        self._closed = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """By who made it, at the end."""
        if self._answer is not None:
            self._answer.close()  # it may have taken the connection over
        self._connection.close()

    # --- inside

    def _wait(self) -> None:
        """So long may the next answer take."""
        left = self._patience if self._until is None else min(self._patience, self._until - time.monotonic())
        if left <= 0:
            raise TimeoutError
        if self._socket is not None:
            self._socket.settimeout(left)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if self._closed:
                raise CallAborted from error
            if self._until is not None and time.monotonic() >= self._until - 0.01:
                raise DeadlineExceeded("the time of this request was up before its answer was there") from error
            if self._socket is None:
                raise self._broken("vLLM cannot be reached", error) from error
            if isinstance(error, TimeoutError):
                raise self._broken(f"vLLM has said nothing for {self._patience:g} s", error) from error
            raise self._broken("vLLM broke off in the middle of an answer", error) from error

    def _broken(self, said: str, error: Exception | None = None) -> Exception:
        if self._closed:
            return CallAborted()
        if self._starting:  # nobody is asking yet, and who starts the server wants to know all of it
            return BadGateway(f"{said}: {error}")
        logger.error("%s: %s", said, error)
        return BadGateway(said)


class VllmClient:
    """A vLLM.

    Args:
        url: of its server, with or without ``/v1``.
        key: that it asks for (its ``--api-key``).
        patience: seconds that it may be silent.
    """

    def __init__(self, url: str, key: str | None = None, *, patience: float = 120.0) -> None:
        try:
            parts = urlsplit(url)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            fine = False
        if not fine or parts.query or parts.fragment or parts.username:
            raise InvalidInput(f"the address of vLLM must look like http://127.0.0.1:8001, got {url!r}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key, self._patience = key, patience

    def served(self, prefer: str = "") -> ServedModel:
        """Its base model; where it has several names, ``prefer`` is taken if it is one of them."""
        try:
            found = self._asked("/v1/models", starting=True)["data"]
            cards = [card for card in found if card.get("parent") is None]
            card = next((card for card in cards if card["id"] == prefer), cards[0])
            return ServedModel(str(card["id"]), card.get("max_model_len"))
        except VllmError as error:
            raise BadGateway(f"vLLM does not say which models it serves: {error.message}") from error
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise BadGateway("what is at the address of vLLM does not answer /v1/models as vLLM does") from error

    def check_runtime_adapters(self, rank: int) -> None:
        """Raise where it takes no adapters while it runs."""
        try:
            self._asked("/v1/unload_lora_adapter", {"lora_name": "siftlm-none"}, starting=True)
        except VllmError as error:
            if error.spoken and error.status in (400, 404):
                return  # it knows the route, and no such adapter
            raise _adapters_refused(error, rank) from error

    def load(self, name: str, folder: str, rank: int) -> None:
        """From now on ``name`` is a model of its own; harmless when it is already."""
        try:
            self._asked("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        except VllmError as error:
            if "already been loaded" not in error.message:  # as when we gave up too early, and it did not
                logger.error("vLLM did not load %s: %s", folder, error.message)
                raise _adapters_refused(error, rank, folder) from error

    def unload(self, name: str) -> bool:
        """Forget the adapter; False where nobody answers."""
        try:
            self._asked("/v1/unload_lora_adapter", {"lora_name": name})
        except VllmError as error:  # it has begun anew since
            logger.warning("vLLM did not unload %s: %s", name, error.message)
        except (BadGateway, DeadlineExceeded):
            return False
        return True

    def call(self, path: str, until: float | None = None) -> VllmCall:
        """A request that can be broken off."""
        return VllmCall(self.url, self._key, path, self._patience, until)

    def _asked(self, path: str, body: Mapping[str, Any] | None = None, *, starting: bool = False) -> Any:
        call = VllmCall(self.url, self._key, path, min(self._patience, ADMIN_SECONDS), None, starting=starting)
        try:
            call.send(body)
            return _parse_response(call.read())
        finally:
            call.close()


def _adapters_refused(error: VllmError, rank: int, folder: str = "") -> BadGateway:
    needed = VLLM_COMMAND.format(rank=rank)
    if not error.spoken:
        return BadGateway(f"vLLM takes no adapters while it runs; it must be started so: {needed}")
    said = error.message.replace(folder, "FOLDER") if folder else error.message  # clients learn no paths
    return BadGateway(f"vLLM does not take the adapter: {said}; it must be started so: {needed}, and see the folder")


def _vllm_error(status: int, content: bytes) -> VllmError:
    found = _parse_response(content)
    # {"error": {…}} is vLLM's, older ones say {"object": "error", "message": …}; {"detail": …} is: no such route.
    spoken = isinstance(found, dict) and ("error" in found or "message" in found)
    return VllmError(status, _error_message(found) or f"HTTP status {status}", spoken=spoken)


def _error_message(found: Any) -> str:
    for _ in range(2):
        if isinstance(found, dict):
            found = next((found[name] for name in ("error", "message", "detail") if name in found), "")
    return str(found)[:500]


def _parse_response(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:  # an answer of load_lora_adapter is plain text
        return content.decode("utf-8", "replace")


def drawn_tokens(chunk: Mapping[str, Any], *, measured: bool) -> Iterator[SampledToken | str]:
    """The tokens of a chunk, and at the end why there are no more; ``measured``: with how likely they were."""
    for choice in chunk["choices"]:
        told = choice.get("logprobs") or {}
        for name, logprob, top in zip(*(told.get(key) or () for key in LOGPROB_FIELDS), strict=True):
            if not measured:
                yield SampledToken(_token_id(name))
                continue
            likely = sorted(
                ((_token_id(token), value) for token, value in (top or {}).items()), key=lambda known: -known[1]
            )
            yield SampledToken(_token_id(name), logprob, tuple(likely))
        reason = choice.get("finish_reason")
        if reason in ("stop", "length"):
            yield str(reason)
        elif reason is not None:
            raise BadGateway(f"vLLM ended the answer: {reason}")


def _token_id(name: str) -> int:
    if not name.startswith(TOKEN_ID_PREFIX):
        raise BadGateway("vLLM does not say the numbers of tokens (return_tokens_as_token_ids): it is too old")
    return int(name[len(TOKEN_ID_PREFIX) :])


class AdapterLoader(Protocol):
    """Who speaks through them."""

    def load(self, name: str, folder: str, rank: int) -> None:
        """From now on it knows the adapter."""

    def unload(self, name: str) -> bool:
        """It forgets it; False: it is not there."""


@dataclass(eq=False)
class StoredAdapter:
    """One of them."""

    name: str
    """Never used again for another: vLLM knows what it has computed by the adapter's name."""
    folder: Path
    users: int = 0
    loaded: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class AdapterFolder:
    """From any thread.

    Args:
        loads: who speaks.
        folder: where adapters are put, in a folder of this shelf's own; ``loads`` sees it at the same path.
        most: adapters that are kept, in use or not; more only while all are in use.
        rank: of all of them.
    """

    def __init__(self, loads: AdapterLoader, folder: str | os.PathLike[str], *, most: int, rank: int) -> None:
        self._loads, self._most, self._rank = loads, most, rank
        self._run = f"siftlm-{secrets.token_hex(4)}"
        self.folder = Path(folder).resolve() / self._run
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise SiftlmError(f"no adapters can be written to {folder}: {error.strerror or error}") from error
        self._kept: OrderedDict[Hashable, StoredAdapter] = OrderedDict()
        self._lock = threading.Lock()
        self._made = 0

    def __len__(self) -> int:
        return len(self._kept)

    def hold(self, key: Hashable) -> StoredAdapter:
        """The adapter of this key, which stays until it is released; its folder is there if somebody has filled it."""
        with self._lock:
            adapter = self._kept.get(key)
            if adapter is None:
                self._made += 1
                name = f"{self._run}-{self._made}"
                adapter = self._kept[key] = StoredAdapter(name, self.folder / name)
            self._kept.move_to_end(key)
            adapter.users += 1
            return adapter

    def release(self, adapter: StoredAdapter) -> None:
        """It is not needed for now."""
        with self._lock:
            adapter.users -= 1

    def load(self, adapter: StoredAdapter, *, again: bool = False) -> None:
        """Make sure that it can be spoken through; ``again``: the other server may have forgotten it."""
        self._tidy()
        with adapter.lock:
            if again or not adapter.loaded:
                self._loads.load(adapter.name, str(adapter.folder), self._rank)
                adapter.loaded = True

    def clear(self) -> None:
        """Everything goes."""
        with self._lock:
            gone = list(self._kept.values())
            self._kept.clear()
        there = True
        for adapter in gone:
            there = self._drop(adapter, there=there)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- inside

    def _tidy(self) -> None:
        gone: list[StoredAdapter] = []
        with self._lock:
            for key, adapter in list(self._kept.items()):
                if len(self._kept) <= self._most:
                    break
                if not adapter.users:
                    gone.append(self._kept.pop(key))
        for adapter in gone:
            self._drop(adapter)

    def _drop(self, adapter: StoredAdapter, *, there: bool = True) -> bool:
        """Is the other server there?"""
        with adapter.lock:
            if adapter.loaded and there:
                there = self._loads.unload(adapter.name)
            shutil.rmtree(adapter.folder, ignore_errors=True)
        return there
