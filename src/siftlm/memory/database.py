"""The source of truth: an SQLite database of documents, passages, where each passage stands, and which rows live.

documents   one for each text of the caller: its key (the caller's own id) and its metadata
passages    one for each distinct text; its row is also that of its vector
places      which passage is where in which document; a text that was added twice has two places
dead        rows whose passage was deleted; their vectors go with the next compaction
blocks      the rows that were appended to the vectors' file together, and their checksum
inputs      how far each input has been read, so that a killed build goes on there
bands       MinHash keys of the passages, where near-duplicates are looked for
words       the full-text index over the passages
spaced      the passages as that index reads them
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from siftlm.errors import Damaged, InvalidInput, setting
from siftlm.memory import durability, keywords

DATABASE_FILE = "texts.sqlite"
# Values of one statement's list: SQLite takes 32,766 parameters, and a filter may need many as well.
MAX_SQL_PARAMETERS = 900
# Messages of SQLite about a file that was changed, where it does not know that it was.
DAMAGE_MESSAGES = ("no such", "Could not decode", "malformed", "vtable constructor", "unsupported file format")

SCHEMA = """
CREATE TABLE documents (id INTEGER PRIMARY KEY, key TEXT, meta TEXT, digest BLOB NOT NULL);
CREATE INDEX documents_key ON documents (key) WHERE key IS NOT NULL;
CREATE TABLE passages (row INTEGER PRIMARY KEY, digest BLOB NOT NULL, text TEXT NOT NULL);
CREATE UNIQUE INDEX passages_digest ON passages (digest);
CREATE TABLE places (
    document INTEGER NOT NULL, part INTEGER NOT NULL, row INTEGER NOT NULL, start INTEGER NOT NULL,
    near INTEGER NOT NULL, PRIMARY KEY (document, part)
) WITHOUT ROWID;
CREATE INDEX places_row ON places (row, document);
CREATE TABLE dead (seq INTEGER PRIMARY KEY, row INTEGER NOT NULL UNIQUE);
CREATE TABLE blocks (first INTEGER PRIMARY KEY, rows INTEGER NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE inputs (
    recipe TEXT PRIMARY KEY, name TEXT NOT NULL, next INTEGER NOT NULL, finished INTEGER NOT NULL,
    documents INTEGER NOT NULL, bad INTEGER NOT NULL, complaints TEXT NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE bands (key INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (key, row)) WITHOUT ROWID;
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
# What FTS5 collects before it writes: four times its default, so that fewer parts of the index have to be merged.
WORDS_BUFFER_BYTES = 1 << 22
COUNTERS = {"rows": 0, "version": 0, "next_document": 0, "dead": 0, "removed": 0}
FULL_TEXT_SCHEMA = f"""
CREATE VIEW spaced AS SELECT row, {keywords.PREPARE_FUNCTION}(text) AS text FROM passages;
CREATE VIRTUAL TABLE words USING fts5(
    text, content='spaced', content_rowid='row', tokenize="{keywords.TOKENIZERS[keywords.SPACED].fts5}"
);
CREATE VIRTUAL TABLE vocabulary USING fts5vocab('words', 'row');
INSERT INTO words (words, rank) VALUES ('hashsize', {WORDS_BUFFER_BYTES});
"""


def text_digest(text: str) -> bytes:
    """The digest of a text: equal for equal texts, and for no others."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def text_digests(texts: Iterable[str]) -> list[bytes]:
    """The digest of each text."""
    digest = hashlib.blake2b
    return [digest(text.encode("utf-8"), digest_size=16).digest() for text in texts]


class PassagePosition(NamedTuple):
    """The position of a passage in its document."""

    start: int
    near: int
    digest: bytes
    """The digest of the passage's text."""


def record_digest(key: str | None, meta: str | None, places: Iterable[PassagePosition]) -> bytes:
    """The digest of a document and all that is known of it, so that `verify` can tell whether it was changed."""
    content = [_with_length(key), _with_length(meta)]
    for place in places:
        content += (b"%d:%d:" % (place[0], place[1]), place[2])
    return hashlib.blake2b(b"".join(content), digest_size=16).digest()


def record_digests(
    keys: Sequence[str | None],
    metas: Sequence[str | None],
    counts: Sequence[int] | None,
    starts: Sequence[int],
    nears: Sequence[int],
    digests: Sequence[bytes],
) -> list[bytes]:
    """`record_digest` of documents that follow each other: ``counts`` of the places are a document's, None for one."""
    digest = hashlib.blake2b
    places = [b"%d:%d:%b" % place for place in zip(starts, nears, digests, strict=True)]
    if counts is not None:
        following = iter(places)
        places = [b"".join(islice(following, count)) for count in counts]
    contents = zip(map(_with_length, keys), map(_with_length, metas), places, strict=True)
    return [digest(b"".join(content), digest_size=16).digest() for content in contents]


def _with_length(text: str | None) -> bytes:
    if text is None:
        return b"-:"
    raw = text.encode("utf-8")
    return b"%d:%b" % (len(raw), raw)


def input_digest(*values: str | int) -> bytes:
    """The digest of a row of ``inputs``."""
    return text_digest("\0".join(str(value) for value in values))


def state_checksum(state: Mapping[str, int]) -> int:
    """The checksum of all counters but itself."""
    plain = ",".join(f"{name}={state[name]}" for name in sorted(state) if name != "checksum")
    return zlib.crc32(plain.encode())


def write_state(connection: sqlite3.Connection, state: Mapping[str, int], table: str = "state") -> None:
    """Write all counters, with their checksum."""
    full = {**state, "checksum": state_checksum(state)}
    connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", full.items())


def create_database(folder: Path, *, full_text: bool) -> None:
    """Create an empty database, safely on disk."""
    path = folder / DATABASE_FILE
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        write_state(connection, COUNTERS)
        if full_text:
            _create_words(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    durability.sync_folder(folder)


def _create_words(connection: sqlite3.Connection) -> None:
    try:
        for statement in FULL_TEXT_SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
    except sqlite3.OperationalError as error:
        if "fts5" not in str(error):
            raise
        raise InvalidInput(
            f"this Python's SQLite has no full-text search (FTS5): build the memory with {setting('full_text', False)}"
        ) from error


def connect_writer(folder: Path) -> sqlite3.Connection:
    """A connection that writes; transactions are begun and ended by hand."""
    connection = _connect(folder, f"{(folder / DATABASE_FILE).resolve().as_uri()}?mode=rw")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA cache_size = -8192")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = ON")  # the view of the full-text index calls a function of ours
    keywords.add_prepare_function(connection, keywords.SPACED)
    return connection


def connect_reader(folder: Path) -> sqlite3.Connection:
    """A connection that cannot write, not even where the folder itself cannot be written to."""
    uri = (folder / DATABASE_FILE).resolve().as_uri()
    if connect_immutable(folder) is not None:
        return _connect(folder, f"{uri}?immutable=1")
    # A reader writes a little, too: who reads what, for the writers.
    with durability.translate_write_errors(folder / DATABASE_FILE):
        connection = _connect(folder, f"{uri}?mode=rw")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA mmap_size = 1073741824")
    return connection


def connect_immutable(folder: Path) -> tuple[int, int] | None:
    """The database's time of change and size, where nothing may be written beside it; elsewhere None.

    There SQLite cannot notice that others write to the database, which has no journal; these numbers change with it.
    """
    if os.access(folder, os.W_OK) or (folder / f"{DATABASE_FILE}-wal").exists():
        return None
    with contextlib.suppress(FileNotFoundError):
        status = (folder / DATABASE_FILE).stat()
        return status.st_mtime_ns, status.st_size
    return None


def _connect(folder: Path, uri: str) -> sqlite3.Connection:
    path = folder / DATABASE_FILE
    if not path.exists():
        raise Damaged(f"{path}: is gone")
    with translate_database_errors(path):
        # Each thread has a connection of its own; only closing may happen from another.
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60, check_same_thread=False)
        try:
            connection.execute("SELECT value FROM state WHERE name = 'version'").fetchone()
        except UnicodeDecodeError as error:  # a message of SQLite that quotes bytes of the file
            connection.close()
            raise Damaged(f"{path}: {error}") from error
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def translate_database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about a broken file into `Damaged` with the file's name."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if any(words in str(error) for words in DAMAGE_MESSAGES):
            raise Damaged(f"{path}: {error}: it is damaged, or not a memory's database") from error
        raise
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{path}: {error}; siftlm verify says more") from error


def read_state(connection: sqlite3.Connection) -> dict[str, int]:
    """All counters, or `Damaged` where they are not as they were written."""
    state = dict(connection.execute("SELECT name, value FROM state"))
    if not all(isinstance(name, str) for name in state) or state.get("checksum") != state_checksum(state):
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        raise Damaged(f"{path}: the counters were changed")
    return state


def select_in(
    connection: sqlite3.Connection, statement: str, values: Sequence[Any], parameters: Sequence[Any] = ()
) -> Iterator[tuple[Any, ...]]:
    """The rows of a statement in which ``{}`` stands for the list of values, however many; ``parameters`` follow it."""
    for start in range(0, len(values), MAX_SQL_PARAMETERS):
        some = values[start : start + MAX_SQL_PARAMETERS]
        yield from connection.execute(statement.format(", ".join("?" * len(some))), [*some, *parameters])
