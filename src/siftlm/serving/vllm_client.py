"""vLLM over HTTP: the model it serves, loading and unloading adapters, and completions token by token."""

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
from siftlm.errors import InvalidInput, SiftlmError, setting
from siftlm.serving.errors import BadGateway, DeadlineExceeded

logger = logging.getLogger(__name__)
# Seconds for connecting, and for loading an adapter.
CONNECT_SECONDS, ADMIN_SECONDS = 10.0, 60.0
TOKEN_ID_PREFIX = "token_id:"
LOGPROB_FIELDS = ("tokens", "token_logprobs", "top_logprobs")
VLLM_COMMAND = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve … --enable-lora --max-lora-rank {rank}"


class CallAborted(Exception):
    """The call was aborted with `VllmCall.abort`."""


class VllmError(Exception):
    """vLLM answered with an error."""

    def __init__(self, status: int, message: str, *, from_vllm: bool) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.from_vllm = from_vllm
        """False if there is no such route, so the error is the web framework's."""


@dataclass(frozen=True)
class ServedModel:
    """The model that a vLLM serves."""

    name: str
    context: int | None
    """Tokens that it reads at most."""


class VllmCall:
    """One request and its response, which another thread may end with `abort`."""

    def __init__(
        self, url: str, key: str | None, path: str, timeout: float, deadline: float | None, *, starting: bool = False
    ) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connection(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)
        self._path, self._key = parts.path + path, key
        self._timeout, self._deadline = timeout, deadline
        self._socket: socket.socket | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._closed = False
        self._starting = starting

    def send(self, body: Mapping[str, Any] | None) -> None:
        """Send the request, and wait for the response's head; `VllmError` if its status is not 200."""
        with self._explained():
            self._connection.connect()
            self._socket = self._connection.sock  # http.client drops it once the response begins
            if self._closed:
                raise CallAborted
            self._set_timeout()
            headers = {"Content-Type": "application/json"}
            if self._key is not None:
                headers["Authorization"] = f"Bearer {self._key}"
            content = None if body is None else json.dumps(body).encode()
            self._connection.request("GET" if body is None else "POST", self._path, content, headers)
            self._answer = self._connection.getresponse()
            if self._answer.status != 200:
                raise _vllm_error(self._answer.status, self._answer.read())

    def read(self) -> bytes:
        """The whole response body."""
        with self._explained():
            return b"" if self._answer is None else self._answer.read()

    def events(self) -> Iterator[dict[str, Any]]:
        """The server-sent events, up to ``[DONE]``."""
        while True:
            with self._explained():
                self._set_timeout()
                line = b"" if self._answer is None else self._answer.readline()
            if not line:
                raise self._failure("vLLM closed the connection in the middle of a response")
            if line.startswith(b"data:"):
                content = line[5:].strip()
                if content == b"[DONE]":
                    return
                chunk = _parse_response(content)
                if not isinstance(chunk, dict) or "choices" not in chunk:
                    raise VllmError(500, _error_message(chunk), from_vllm=True)
                yield chunk

    def abort(self) -> None:
        """End the call, from another thread; the thread that waits for the response gets `CallAborted`."""
        self._closed = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; called by the thread that made the call."""
        if self._answer is not None:
            self._answer.close()  # it may own the connection
        self._connection.close()

    # --- inside

    def _set_timeout(self) -> None:
        """Limit the next read by the timeout and the deadline."""
        left = self._timeout if self._deadline is None else min(self._timeout, self._deadline - time.monotonic())
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
            if self._deadline is not None and time.monotonic() >= self._deadline - 0.01:
                raise DeadlineExceeded("the request was not finished before its deadline") from error
            if self._socket is None:
                raise self._failure("vLLM cannot be reached", error) from error
            if isinstance(error, TimeoutError):
                raise self._failure(f"vLLM has not responded for {self._timeout:g} s", error) from error
            raise self._failure("vLLM closed the connection in the middle of a response", error) from error

    def _failure(self, message: str, error: Exception | None = None) -> Exception:
        if self._closed:
            return CallAborted()
        if self._starting:  # there are no clients yet, and the operator wants the details
            return BadGateway(f"{message}: {error}")
        logger.error("%s: %s", message, error)
        return BadGateway(message)


class VllmClient:
    """A client of one vLLM server.

    Args:
        url: the server's address, with or without ``/v1``.
        key: its API key (its ``--api-key``).
        timeout: seconds without data after which a call fails.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 120.0) -> None:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            valid = False
        if not valid or parts.query or parts.fragment or parts.username:
            raise InvalidInput(f"{setting('vllm')} must be an address such as http://127.0.0.1:8001, got {url!r}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key, self._timeout = key, timeout

    def served_model(self, prefer: str = "") -> ServedModel:
        """The base model, under the name ``prefer`` if that is one of its names."""
        try:
            listed = self._request("/v1/models", starting=True)["data"]
            cards = [card for card in listed if card.get("parent") is None]
            card = next((card for card in cards if card["id"] == prefer), cards[0])
            return ServedModel(str(card["id"]), card.get("max_model_len"))
        except VllmError as error:
            raise BadGateway(f"vLLM does not list its models: {error.message}") from error
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise BadGateway("the server at the address of vLLM does not answer /v1/models as vLLM does") from error

    def check_runtime_adapters(self, rank: int) -> None:
        """Raise if the server does not load adapters at run time."""
        try:
            self._request("/v1/unload_lora_adapter", {"lora_name": "siftlm-none"}, starting=True)
        except VllmError as error:
            if error.from_vllm and error.status in (400, 404):
                return  # the route exists, and the adapter does not
            raise _adapters_refused(error, rank) from error

    def load(self, name: str, folder: str, rank: int) -> None:
        """Load an adapter as the model ``name``; does nothing if it is already loaded."""
        try:
            self._request("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        except VllmError as error:
            if "already been loaded" not in error.message:  # by an earlier call that timed out here
                logger.error("vLLM did not load %s: %s", folder, error.message)
                raise _adapters_refused(error, rank, folder) from error

    def unload(self, name: str) -> bool:
        """Unload an adapter; False if the server cannot be reached."""
        try:
            self._request("/v1/unload_lora_adapter", {"lora_name": name})
        except VllmError as error:  # it has been restarted since
            logger.warning("vLLM did not unload %s: %s", name, error.message)
        except (BadGateway, DeadlineExceeded):
            return False
        return True

    def call(self, path: str, deadline: float | None = None) -> VllmCall:
        """A call that another thread can abort."""
        return VllmCall(self.url, self._key, path, self._timeout, deadline)

    def _request(self, path: str, body: Mapping[str, Any] | None = None, *, starting: bool = False) -> Any:
        call = VllmCall(self.url, self._key, path, min(self._timeout, ADMIN_SECONDS), None, starting=starting)
        try:
            call.send(body)
            return _parse_response(call.read())
        finally:
            call.close()


def _adapters_refused(error: VllmError, rank: int, folder: str = "") -> BadGateway:
    command = VLLM_COMMAND.format(rank=rank)
    if not error.from_vllm:
        return BadGateway(f"vLLM does not load adapters at run time: start it with {command}")
    message = error.message.replace(folder, "FOLDER") if folder else error.message  # clients must not see paths
    return BadGateway(
        f"vLLM refused the adapter: {message}; it must see the folder of adapters and be started with {command}"
    )


def _vllm_error(status: int, content: bytes) -> VllmError:
    body = _parse_response(content)
    # vLLM sends {"error": {…}}, older versions {"object": "error", "message": …}; {"detail": …} means no such route.
    from_vllm = isinstance(body, dict) and ("error" in body or "message" in body)
    return VllmError(status, _error_message(body) or f"HTTP status {status}", from_vllm=from_vllm)


def _error_message(body: Any) -> str:
    for _ in range(2):
        if isinstance(body, dict):
            body = next((body[name] for name in ("error", "message", "detail") if name in body), "")
    return str(body)[:500]


def _parse_response(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:  # load_lora_adapter answers with plain text
        return content.decode("utf-8", "replace")


def drawn_tokens(chunk: Mapping[str, Any], *, measured: bool) -> Iterator[SampledToken | str]:
    """The tokens of a chunk, with ``measured`` their log-likelihoods as well, and at the end the finish reason."""
    for choice in chunk["choices"]:
        logprobs = choice.get("logprobs") or {}
        for name, logprob, top in zip(*(logprobs.get(key) or () for key in LOGPROB_FIELDS), strict=True):
            if not measured:
                yield SampledToken(_token_id(name))
                continue
            alternatives = sorted(
                ((_token_id(token), value) for token, value in (top or {}).items()), key=lambda pair: -pair[1]
            )
            yield SampledToken(_token_id(name), logprob, tuple(alternatives))
        reason = choice.get("finish_reason")
        if reason in ("stop", "length"):
            yield str(reason)
        elif reason is not None:
            raise BadGateway(f"vLLM ended the completion: {reason}")


def _token_id(name: str) -> int:
    if not name.startswith(TOKEN_ID_PREFIX):
        raise BadGateway("this version of vLLM is too old: it does not return token ids (return_tokens_as_token_ids)")
    return int(name[len(TOKEN_ID_PREFIX) :])


class AdapterLoader(Protocol):
    """A server that loads adapters: `VllmClient`, or a fake."""

    def load(self, name: str, folder: str, rank: int) -> None:
        """Load an adapter."""

    def unload(self, name: str) -> bool:
        """Unload an adapter; False if the server cannot be reached."""


@dataclass(eq=False)
class StoredAdapter:
    """An adapter in the folder."""

    name: str
    """Unique for good: vLLM caches results by the adapter's name."""
    folder: Path
    users: int = 0
    loaded: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class AdapterFolder:
    """Adapters on disk that another server decodes with. May be used from any thread.

    Args:
        loader: the server that loads them.
        folder: where to save adapters, in a new subfolder; the server must see it at the same path.
        most: adapters to keep, in use or not; more only while all are in use.
        rank: the rank of the adapters.
    """

    def __init__(self, loader: AdapterLoader, folder: str | os.PathLike[str], *, most: int, rank: int) -> None:
        self._loader, self._most, self._rank = loader, most, rank
        self._run = f"siftlm-{secrets.token_hex(4)}"
        self.folder = Path(folder).resolve() / self._run
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise SiftlmError(f"cannot write adapters to {folder}: {error.strerror or error}") from error
        self._kept: OrderedDict[Hashable, StoredAdapter] = OrderedDict()
        self._lock = threading.Lock()
        self._count = 0

    def __len__(self) -> int:
        return len(self._kept)

    def hold(self, key: Hashable) -> StoredAdapter:
        """The adapter of this key, kept until it is released. Its folder exists once the adapter is saved."""
        with self._lock:
            adapter = self._kept.get(key)
            if adapter is None:
                self._count += 1
                name = f"{self._run}-{self._count}"
                adapter = self._kept[key] = StoredAdapter(name, self.folder / name)
            self._kept.move_to_end(key)
            adapter.users += 1
            return adapter

    def release(self, adapter: StoredAdapter) -> None:
        """Give up one use of an adapter."""
        with self._lock:
            adapter.users -= 1

    def load(self, adapter: StoredAdapter, *, again: bool = False) -> None:
        """Make sure that the server has loaded the adapter; ``again`` if it may have been restarted."""
        self._evict()
        with adapter.lock:
            if again or not adapter.loaded:
                self._loader.load(adapter.name, str(adapter.folder), self._rank)
                adapter.loaded = True

    def clear(self) -> None:
        """Unload and delete all adapters."""
        with self._lock:
            gone = list(self._kept.values())
            self._kept.clear()
        reachable = True
        for adapter in gone:
            reachable = self._drop(adapter, reachable=reachable)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- inside

    def _evict(self) -> None:
        """Drop the least recently used adapters that exceed the limit and are not in use."""
        gone: list[StoredAdapter] = []
        with self._lock:
            for key, adapter in list(self._kept.items()):
                if len(self._kept) <= self._most:
                    break
                if not adapter.users:
                    gone.append(self._kept.pop(key))
        for adapter in gone:
            self._drop(adapter)

    def _drop(self, adapter: StoredAdapter, *, reachable: bool = True) -> bool:
        """Unload and delete an adapter; False if the server cannot be reached."""
        with adapter.lock:
            if adapter.loaded and reachable:
                reachable = self._loader.unload(adapter.name)
            shutil.rmtree(adapter.folder, ignore_errors=True)
        return reachable
