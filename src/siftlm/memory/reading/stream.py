"""The bytes of a file, unpacked where it is packed, and its lines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from siftlm.extras import load

_PLAIN_BYTES = 1 << 18
# Packed bytes may grow a thousandfold: they are unpacked a little at a time, less where they grow more.
_PACKED_BYTES = 1 << 14
_MIN_PACKED_BYTES = 1 << 7
_MAX_UNPACKED_BYTES = 1 << 18
_COMPRESSION_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPRESSION_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}


class BrokenStream(Exception):
    """The file cannot be read any further; the message says why."""


class ByteStream:
    """The unpacked content of a file, piece by piece; ``position`` counts the bytes as they lie on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def pieces(self) -> Iterator[bytes]:
        """The content; raises `BrokenStream` after the last byte that can be had."""
        try:
            with open(self.path, "rb") as file:
                packing = _compression(self.path, file.peek(4)[:4])
                raw = self._raw(file, _PLAIN_BYTES if packing is None else _PACKED_BYTES)
                yield from raw if packing is None else _decompress(raw, packing)
        except OSError as error:
            raise BrokenStream(f"cannot be read: {error.strerror or error}") from error

    def lines(self) -> Iterator[bytes]:
        """Its lines without the line feed; a byte order mark is dropped. The last one may lack its line feed."""
        rest: list[bytes] = []
        first = True
        for piece in self.pieces():
            head, *tail = piece.split(b"\n")
            rest.append(head)
            if not tail:
                continue
            line = b"".join(rest)
            yield line.removeprefix(b"\xef\xbb\xbf") if first else line
            first = False
            rest = [tail.pop()]
            yield from tail
        line = b"".join(rest)
        if line:
            yield line.removeprefix(b"\xef\xbb\xbf") if first else line

    def _raw(self, file: Any, size: int) -> Iterator[bytes]:
        while piece := file.read(size):
            self.position += len(piece)
            yield piece


def _compression(path: Path, head: bytes) -> str | None:
    for magic, packing in _COMPRESSION_MAGIC.items():
        if head.startswith(magic):
            return packing
    return _COMPRESSION_SUFFIXES.get(path.suffix.lower()) if head else None


def _decompress(raw: Iterator[bytes], packing: str) -> Iterator[bytes]:
    """Both kinds may be several packed streams in a row, each of which has to end properly."""
    start, failures = _decompressor(packing)
    unpacker, fed = None, _MIN_PACKED_BYTES
    for piece in raw:
        while piece:
            if unpacker is None:
                # Some writers fill up with zeros after the end.
                piece = piece.lstrip(b"\0")
                if not piece:
                    break
                unpacker = start()
            try:
                content = unpacker.decompress(piece[:fed])
            except failures as error:
                raise BrokenStream(f"is not a sound {packing} file: {error}") from error
            if content:
                yield content
            piece = unpacker.unused_data + piece[fed:] if unpacker.eof else piece[fed:]
            unpacker = None if unpacker.eof else unpacker
            if len(content) > _MAX_UNPACKED_BYTES:
                fed = max(fed // 4, _MIN_PACKED_BYTES)
            elif len(content) < _MAX_UNPACKED_BYTES // 2:
                fed = min(fed * 2, _PACKED_BYTES)
    if unpacker is not None:
        raise BrokenStream(
            f"ends in the middle of its {packing} stream: it was cut off, and what followed is not there"
        )


def _decompressor(packing: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    if packing == "gzip":
        return (lambda: zlib.decompressobj(wbits=31)), (zlib.error,)
    zstandard = load("zstandard", "memory")
    # The largest window that the format knows: corpora are often packed with `zstd --long=31`.
    unpack = zstandard.ZstdDecompressor(max_window_size=2**31)
    return unpack.decompressobj, (zstandard.ZstdError,)
