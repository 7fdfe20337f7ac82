"""An MCP server over memories: an assistant gets as many passages as it takes, and is told when more add nothing.

    siftlm mcp --memory notes

`siftlm.integrations._mcp_tools` holds the tools; here they get a server, and the server a transport: stdio, where a
client starts the process and talks to it, or streamable HTTP.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol

import anyio
import uvicorn
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations
from pydantic import TypeAdapter, ValidationError

from siftlm.errors import Conflict, InvalidInput, SiftlmError, UnknownName
from siftlm.integrations import _mcp_tools as tools
from siftlm.memory import Memory
from siftlm.network import bind_socket, capture_signals, is_loopback, refuse_open_host, server_url
from siftlm.validation import choice

MAX_CONCURRENT_CALLS = 4
# Seconds for open connections at the end of an HTTP server.
SHUTDOWN_SECONDS = 1
HTTP_PATH = "/mcp"
# How pydantic's messages begin.
SHOULD = re.compile(r"^\w+ should")
INSTRUCTIONS = """\
Passages of texts that somebody has indexed. `search` finds those that together tell most about a query, without \
near-copies of each other. It stops by itself: n is a maximum, and the answer says why it stopped and how much of the \
uncertainty about the query is left. When it says that more passages would add little, do not ask for more: ask \
another question, or another memory."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Reader(Protocol):
    """The sender of a request, such as `siftlm.serving.Caller`."""

    def may(self, memory: str, right: str) -> bool:
        """True if it has this right (``read``) on a memory."""


Readers = Callable[[str | None], Reader]
"""The reader with this ``Authorization`` header, or an error; such as `siftlm.serving.ApiKeys.of`."""


@dataclass(frozen=True)
class MemoryTool:
    """A tool: its function, with the schemas of its arguments and of its answer."""

    title: str
    run: Callable[[Mapping[str, Memory], Any], Any]
    arguments: TypeAdapter[Any]
    answer: TypeAdapter[Any]

    def listed(self, memories: Mapping[str, Memory]) -> Tool:
        """The tool as a client sees it, with the names of the memories."""
        names = f"Memories: {', '.join(memories) or 'none'}."
        lines = [" ".join(paragraph.split()) for paragraph in (self.run.__doc__ or "").split("\n\n")]
        return Tool(
            name=self.run.__name__,
            title=self.title,
            description="\n".join([*lines, names]),
            input_schema=self.arguments.json_schema(),
            output_schema=self.answer.json_schema(mode="serialization"),
            annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        )

    def parsed(self, given: Mapping[str, Any]) -> Any:
        """The arguments, or an `InvalidInput` that says what is wrong with which of them."""
        try:
            return self.arguments.validate_python(given)
        except ValidationError as error:
            known = self.arguments.json_schema()["properties"]
            raise InvalidInput("; ".join(_complaints(error.errors(), known))) from error


def _complaints(errors: Iterable[Mapping[str, Any]], known: Mapping[str, Any]) -> Iterator[str]:
    """Pydantic's errors as sentences of ours; those of one value, which has a choice of types, are one sentence."""
    about: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for error in errors:
        name = str(error["loc"][0])
        if error["type"] == "unexpected_keyword_argument":
            yield str(UnknownName("argument", name, known))
        elif error["type"] == "missing":
            yield f"the argument {name} is missing"
        else:
            place = name + "".join(f"[{at}]" for at in error["loc"][1:] if isinstance(at, int))
            about.setdefault((place, f"{error['input']!r:.60}"), []).append(
                (error["type"], SHOULD.sub("must", error["msg"]))
            )
    for (place, got), said in about.items():
        # A value of one of the types is not told that it has none of the others.
        wrong = [text for kind, text in said if not kind.endswith("_type")] or [text for _, text in said]
        yield f"{place} {' or '.join(dict.fromkeys(wrong)).replace(' or must ', ' or ')}, got {got}"


TOOLS = {
    tool.run.__name__: tool
    for tool in (
        MemoryTool(
            "Search a memory", tools.search, TypeAdapter(tools.SearchArguments), TypeAdapter(tools.SearchAnswer)
        ),
        MemoryTool(
            "Explain a search", tools.explain, TypeAdapter(tools.SearchArguments), TypeAdapter(tools.ExplainAnswer)
        ),
        MemoryTool(
            "Choose among texts", tools.select, TypeAdapter(tools.SelectArguments), TypeAdapter(tools.SelectAnswer)
        ),
        MemoryTool(
            "Measure repetition",
            tools.redundancy,
            TypeAdapter(tools.RedundancyArguments),
            TypeAdapter(tools.RedundancyAnswer),
        ),
    )
}


def create_server(memories: Mapping[str, Memory], readers: Readers | None = None) -> Server:
    """The MCP server of these memories, without a transport.

    Args:
        memories: the memories by name; the first is the default.
        readers: who may read what, over HTTP; None: everybody everything.
    """
    for name, memory in memories.items():
        if memory.manifest.embedder == "precomputed":
            raise Conflict(
                f"the memory {name!r} cannot be searched: its vectors are precomputed, so siftlm cannot embed a query"
            )
    threads = anyio.CapacityLimiter(MAX_CONCURRENT_CALLS)

    def readable(request: Any) -> Mapping[str, Memory]:
        if readers is None or request is None:
            return memories
        reader = readers(request.headers.get("authorization"))
        return {name: memory for name, memory in memories.items() if reader.may(name, "read")}

    def answer(name: str, given: Mapping[str, Any], request: Any) -> CallToolResult:
        try:
            tool = TOOLS[choice("tool", name, TOOLS)]
            own = readable(request)
            if not own:
                raise InvalidInput("this API key may read none of the memories")
            said = tool.run(own, tool.parsed(given))
        except (SiftlmError, OSError, MemoryError) as error:
            message = str(error) or "not enough memory"
            return CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)
        return CallToolResult(content=[TextContent(type="text", text=str(said))], structured_content=asdict(said))

    async def list_tools(context: Any, _: Any) -> ListToolsResult:
        own = readable(context.request)
        return ListToolsResult(tools=[tool.listed(own) for tool in TOOLS.values()])

    async def call_tool(context: Any, params: Any) -> CallToolResult:
        call = partial(answer, params.name, params.arguments or {}, context.request)
        return await anyio.to_thread.run_sync(call, limiter=threads)

    return Server(
        "siftlm",
        version=version("siftlm"),
        title="siftlm",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


# --- transports


def serve_stdio(memories: Mapping[str, Memory]) -> None:
    """Serve the client that started this process, until it closes stdin; Ctrl-C and SIGTERM end the process at once.

    stdout is the protocol's: whatever else is printed goes to stderr.
    """
    if any(getattr(stream, "buffer", None) is None for stream in (sys.stdin, sys.stdout)):
        raise SiftlmError("stdin or stdout is closed: a client starts this server with a pipe for each")
    server = create_server(memories)

    async def run() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    # Python would wait for the thread that reads stdin.
    with capture_signals(lambda *_: os._exit(0)):
        try:
            anyio.run(run)
        except Exception as error:
            if not _is_broken_pipe(error):
                raise


def _is_broken_pipe(error: BaseException) -> bool:
    """True if the client has gone: a broken pipe, alone or in the group that tasks raise together."""
    grouped = getattr(error, "exceptions", None)
    return isinstance(error, BrokenPipeError) if grouped is None else all(map(_is_broken_pipe, grouped))


def serve_http(
    memories: Mapping[str, Memory],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    readers: Readers | None = None,
    anybody: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve over streamable HTTP until Ctrl-C or SIGTERM. Every request stands alone: there are no sessions.

    Args:
        memories: the memories by name; the first is the default.
        host, port: where to listen; port 0 is any free one.
        readers: who a request is from, by its API key.
        anybody: allow a host that others can reach without API keys.
        on_ready: called with a line that says where the server listens.
    """
    refuse_open_host(host, keyed=readers is not None, anybody=anybody)
    # Without API keys, requests that a page of another site makes this machine's browser send must be refused.
    alone = readers is None and is_loopback(host)
    names = [f"[{name}]" if ":" in name else name for name in ("localhost", "127.0.0.1", "::1", host)] if alone else []
    app = create_server(memories, readers).streamable_http_app(
        streamable_http_path=HTTP_PATH,
        stateless_http=True,
        json_response=True,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=alone,
            allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
            allowed_origins=[form for name in names for form in (f"http://{name}", f"http://{name}:*")],
        ),
    )
    config = uvicorn.Config(
        app if readers is None else guarded(app, readers),
        log_level="warning",
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    http = uvicorn.Server(config)
    with bind_socket(host, port) as listening, capture_signals(http.handle_exit):
        if on_ready is not None:
            on_ready(f"siftlm: {server_url(host, listening.getsockname()[1])}{HTTP_PATH}  (Ctrl-C ends)")
        http.run(sockets=[listening])


def guarded(app: App, readers: Readers) -> App:
    """The application, for requests with an API key."""

    async def guard(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = next(
                (value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), None
            )
            try:
                readers(given)
            except SiftlmError as error:
                status, body = getattr(error, "status", 401), json.dumps({"error": str(error)}).encode()
                headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await app(scope, receive, send)

    return guard
