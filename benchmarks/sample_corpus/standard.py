"""The standard library's own source texts: found, read and named, but never imported."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Tests, programs that happen to be installed with the library, and texts that are data.
LEFT_OUT = frozenset(
    {
        "__phello__",
        "_bundled",
        "idle_test",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "test",
        "tests",
        "turtledemo",
    }
)


@dataclass(frozen=True)
class Module:
    """A module's name and source text."""

    name: str
    text: str


def where() -> list[Path]:
    """Where the library may be, most likely place first: a folder, or a zip file that Python starts from."""
    places = [Path(sysconfig.get_paths()["stdlib"])]
    if getattr(os, "__file__", None):
        places.append(Path(os.__file__).parent)
    places += [Path(entry) for entry in sys.path if entry.endswith(".zip")]
    return list(dict.fromkeys(places))


def modules(places: list[Path] | None = None) -> list[Module]:
    """Read the modules of the first of these places that has any, in the order of their names."""
    for place in where() if places is None else places:
        found = [Module(name, text) for name, data in _files(place) if (text := _decoded(data)).strip()]
        if found:
            return sorted(found, key=lambda module: module.name)
    return []


def _files(place: Path) -> Iterator[tuple[str, bytes]]:
    if place.is_dir():
        for path in place.rglob("*.py"):
            if name := _name(PurePosixPath(path.relative_to(place).as_posix())):
                yield name, path.read_bytes()
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            for member in archive.namelist():
                if name := _name(PurePosixPath(member)):
                    yield name, archive.read(member)


def _name(path: PurePosixPath) -> str | None:
    """Name the module of a file, or None where the file is none of ours.

    What was installed beside the library is not in ``sys.stdlib_module_names``, nor is the record of how Python was
    built (``_sysconfigdata…``), which tells paths of the machine. ``site-packages`` is not even an identifier.

    >>> _name(PurePosixPath("json/__init__.py")), _name(PurePosixPath("site-packages/json/x.py"))
    ('json', None)
    """
    parts = path.with_suffix("").parts
    if path.suffix != ".py" or parts[0] not in sys.stdlib_module_names or parts[0].startswith("_sysconfig"):
        return None
    if LEFT_OUT.intersection(parts) or not all(part.isidentifier() for part in parts):
        return None
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _decoded(data: bytes) -> str:
    """Read as Python does, with the encoding that the file names; nothing where that fails."""
    try:
        return importlib.util.decode_source(data)
    except (UnicodeDecodeError, SyntaxError):
        return ""
