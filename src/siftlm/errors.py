"""Every error that siftlm raises on purpose.

    SiftlmError
    ├── InvalidInput      (also a ValueError)   a value is wrong; the message names it and its shape or row
    │   ├── Conflict                            two settings that are fine alone exclude each other
    │   │   └── WrongEmbedder                   the vectors on disk came from another embedder
    │   ├── UnknownName                         no such method; the message lists the known and the closest
    │   ├── NotAMemory                          the folder holds no memory, or one of a format we cannot read
    │   └── BadRecord                           a line or file of a corpus is unusable; the message says where
    ├── Locked            (also an OSError)     another process is writing; the message says which
    ├── Damaged           (also an OSError)     a file of a memory is not what was written; the message names it
    ├── Unwritable        (also an OSError)     the disk is full or refuses; what was there before still is
    └── MissingExtra      (also an ImportError) an optional library is absent; the message holds the command

A caller who wants to catch everything of ours catches ``SiftlmError``; a caller who only knows Python's own
errors still gets a ``ValueError``, an ``OSError`` or an ``ImportError``.

A message names settings with `setting`, so that every front end can spell them as its users write them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable
from functools import partial

# Around a setting inside a message while that is being written. The number is this process's own, so that no text of a
# user can hold such a mark.
_BEGIN, _VALUE, _END = f"\ue000{os.urandom(6).hex()}:", "\ue001", "\ue002"
_SETTING = re.compile(f"{_BEGIN}(.*?)(?:{_VALUE}(.*?))?{_END}", re.DOTALL)

Spelling = Callable[[str, str | None], str]
"""How to write a setting: its name, and the value it has in the message as Python writes it, or None."""


def setting(name: str, value: object = ...) -> str:
    """The name of a setting, with a value or alone, for the message of a `SiftlmError`.

    >>> error = InvalidInput(f"{setting('n')} is larger than the pool: pass {setting('replacement', True)}")
    >>> print(error)
    n is larger than the pool: pass replacement=True
    >>> error.spelled(lambda name, value: f"--{name} {value}" if value else f"--{name}")
    '--n is larger than the pool: pass --replacement True'
    """
    return _marked(name, None if value is ... else repr(value))


def _marked(name: str, value: str | None) -> str:
    return f"{_BEGIN}{name}{_END}" if value is None else f"{_BEGIN}{name}{_VALUE}{value}{_END}"


def _in_python(name: str, value: str | None) -> str:
    return name if value is None else f"{name}={value}"


class SiftlmError(Exception):
    """The root of all errors that siftlm raises on purpose."""

    def __init__(self, *args: object) -> None:
        message = str(args[0]) if args else ""
        # Text, name, value, text, name, value, ..., text.
        self._parts: tuple[str | None, ...] = tuple(_SETTING.split(message))
        plain = args if len(self._parts) == 1 else (self.spelled(_in_python), *args[1:])
        super().__init__(*plain)
        self.args = plain  # an OSError has taken them as they came

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that the message names, in order.

        >>> InvalidInput(f"{setting('k')} must be at least {setting('n')}").settings
        ('k', 'n')
        """
        return tuple(name for name in self._parts[1::3] if name is not None)

    @property
    def marked(self) -> str:
        """The message for use in the message of another error, which then names the same settings.

        >>> error = InvalidInput(f"{setting('k')} is wrong")
        >>> InvalidInput(f"prompt 3: {error.marked}").settings
        ('k',)
        """
        return self.spelled(_marked)

    def spelled(self, spelling: Spelling) -> str:
        """The message, with every setting written by ``spelling``."""
        if len(self._parts) == 1:
            return str(self)
        texts, names, values = self._parts[::3], self._parts[1::3], self._parts[2::3]
        written = [spelling(name or "", value) for name, value in zip(names, values, strict=True)]
        return "".join(f"{text}{one}" for text, one in zip(texts, [*written, ""], strict=True))


class InvalidInput(SiftlmError, ValueError):
    """A value that cannot be worked with: wrong shape, not finite, out of range."""


class Conflict(InvalidInput):
    """Two settings that exclude each other."""


class WrongEmbedder(Conflict):
    """Vectors of two embedders cannot be compared: the memory was built with another one."""


class NotAMemory(InvalidInput):
    """The folder holds no memory, or one whose format this version cannot read."""


class BadRecord(InvalidInput):
    """A record of a corpus that cannot be used; the message begins with its file and line."""


class Locked(SiftlmError, OSError):
    """Another process is writing to the memory; the message says which, and since when."""


class Damaged(SiftlmError, OSError):
    """A file of a memory is not what was written: truncated, changed or gone. The message names it."""


class Unwritable(SiftlmError, OSError):
    """The disk is full or refuses to be written; what was there before is still there."""


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "text"), counted(2000, "text")
    ('1 text', '2,000 texts')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The question whether the nearest of the known names is meant; empty where none is near.

    >>> did_you_mean("nosie", ["method", "noise"])
    "; did you mean 'noise'?"
    """
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5) if isinstance(name, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


class UnknownName(InvalidInput):
    """A name that is not registered.

    >>> print(UnknownName("method", "shift", ["sift", "nearest"]))
    unknown method 'shift'; did you mean 'sift'? Known: nearest, sift
    """

    def __init__(self, what: str, name: object, known: Iterable[str], *, is_setting: bool = False) -> None:
        """``is_setting``: ``what`` is the setting that holds the name, and not only a noun for it."""
        self.what, self.name, self.known, self.is_setting = what, name, sorted(known), is_setting
        hint = did_you_mean(name, self.known) or "."
        super().__init__(f"unknown {what} {name!r}{hint} Known: {', '.join(self.known)}")

    @property
    def settings(self) -> tuple[str, ...]:
        """The setting that holds the name; in the message it is a noun, which no front end spells otherwise."""
        return (self.what,) if self.is_setting else super().settings

    def __reduce__(self) -> tuple[Callable[..., UnknownName], tuple[str, object, list[str]]]:
        # partial: a class is called without keywords when it is unpickled.
        return partial(type(self), is_setting=self.is_setting), (self.what, self.name, self.known)


class MissingExtra(SiftlmError, ImportError):
    """An optional library is not installed.

    >>> print(MissingExtra("faiss", "faiss"))
    this needs the library 'faiss': pip install 'siftlm[faiss]'
    """

    def __init__(self, library: str, extra: str) -> None:
        self.module, self.extra = library, extra
        super().__init__(f"this needs the library {library!r}: pip install 'siftlm[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.module, self.extra)
