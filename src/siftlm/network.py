"""Listening on the network: hosts that only this machine reaches, sockets, addresses, signals that end a server."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from siftlm.errors import Conflict, SiftlmError, setting
from siftlm.validation import whole_number

# Connections that may wait to be accepted; uvicorn's default.
LISTEN_BACKLOG = 2048


def refuse_open_host(host: str, *, keyed: bool, anybody: bool) -> None:
    """Raise if others can reach the host, and neither API keys nor ``anybody`` say that they may."""
    if not keyed and not anybody and not is_loopback(host):
        raise Conflict(
            f"others can reach {setting('host', host)}: set {setting('keys')} to a file of API keys (siftlm keys add "
            f"FILE NAME creates one), or pass {setting('anybody', True)} to serve everybody"
        )


def bind_socket(host: str, port: int) -> socket.socket:
    """A listening socket, opened before the model is loaded: a port in use fails at once, and early clients wait."""
    whole_number("port", port, least=0, most=2**16 - 1)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(LISTEN_BACKLOG)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise SiftlmError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
    return listening


def is_loopback(host: str) -> bool:
    """True if only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_url(host: str, port: int) -> str:
    """The server's address.

    >>> server_url("::1", 8000)
    'http://[::1]:8000'
    """
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def capture_signals(on_signal: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle signals that arrive before or after uvicorn handles them.

    Once it has ended, uvicorn raises the signals that ended it again, which would end the process before its cleanup.
    """
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
