"""The page at ``/``: files of this package, sent as they are, which load nothing from anywhere else."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Any

from siftlm import extras

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX_FILE = "index.html"
# Nothing but our own files, no script or style inside the page, no frame around it, and no string turned into HTML.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# The address of a file holds the hash of all of them, so what was fetched once stays right for ever.
IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


@cache
def page_version() -> str:
    """It changes with any of the files."""
    whole = hashlib.sha256()
    for name, content in sorted(_read_page_files().items()):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()[:16]


@cache
def page_files() -> dict[str, bytes]:
    """What is sent, by name: in the index every address holds the `page_version`."""
    stored = _read_page_files()
    return {**stored, INDEX_FILE: stored[INDEX_FILE].replace(b"page/VERSION/", f"page/{page_version()}/".encode())}


@cache
def _read_page_files() -> dict[str, bytes]:
    folder = resources.files("siftlm.serving") / "page"
    return {item.name: item.read_bytes() for item in folder.iterdir() if _file_suffix(item.name) in CONTENT_TYPES}


def _file_suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]


def page_routes() -> Any:
    """A FastAPI router for ``/`` and ``/page/…``; all addresses are relative, so a prefix before it does no harm."""
    fastapi = extras.load("fastapi", "serve")
    router = fastapi.APIRouter(include_in_schema=False)
    held = page_files()
    tag = f'"{page_version()}"'
    index = {**SECURITY_HEADERS, "Cache-Control": "no-cache", "ETag": tag}

    async def page(request: Any) -> Any:
        if tag in request.headers.get("if-none-match", ""):
            return fastapi.Response(status_code=304, headers=index)
        return fastapi.Response(held[INDEX_FILE], media_type=CONTENT_TYPES[".html"], headers=index)

    router.add_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    for name, content in held.items():
        if name != INDEX_FILE:
            router.add_route(
                f"/page/{page_version()}/{name}",
                _file_sender(fastapi, name, content),
                methods=["GET", "HEAD"],
                include_in_schema=False,
            )
    return router


def _file_sender(fastapi: Any, name: str, content: bytes) -> Any:
    headers = {**SECURITY_HEADERS, "Cache-Control": IMMUTABLE_CACHE_CONTROL}
    kind = CONTENT_TYPES[_file_suffix(name)]

    async def send(_: Any) -> Any:
        return fastapi.Response(content, media_type=kind, headers=headers)

    return send
