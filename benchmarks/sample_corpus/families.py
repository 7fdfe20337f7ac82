"""What belongs together, and which of it is held out for prompts."""

from __future__ import annotations

import hashlib

# One in so many families is held out.
ONE_IN = 10
# Modules that are near copies of each other, or copied parts of each other: they stay on one side.
# Found by counting runs of three lines that two modules share, in Python 3.10 to 3.13.
KIN = (
    "abc _py_abc",
    "ast _ast_unparse dis opcode _opcode_metadata",
    "asyncio socket threading _threading_local multiprocessing concurrent subprocess queue",
    "asyncore asynchat smtpd",
    "cProfile profile pstats",
    "collections _collections_abc typing numbers annotationlib",
    "compression _compression bz2 lzma gzip",
    "time _strptime",
    "distutils sysconfig shutil site ctypes _osx_support _aix_support",
    "encodings uu codecs",
    "ftplib poplib smtplib imaplib nntplib telnetlib",
    "inspect pydoc xmlrpc xml",
    "path ntpath posixpath genericpath nturl2path",
    "pdb bdb debugger",
    "pickle pickletools copyreg _compat_pickle",
    "re sre_compile sre_constants sre_parse",
    "repl _pyrepl code codeop",
    "sound aifc sunau wave chunk sndhdr imghdr email.mime.audio email.mime.image",
    "weakref _weakrefset importlib",
    "html _markupbase",
    "http wsgiref",
    "urllib mimetypes",
    "email cgi",
)
_FIRST = {name: words.split()[0] for words in KIN for name in words.split()}


def family(module: str) -> str:
    """Name what a module (by its dotted name) is kin to.

    >>> family("_pydecimal"), family("encodings.cp1252"), family("lzma"), family("heapq")
    ('decimal', 'encodings', 'compression', 'heapq')
    """
    top = module.partition(".")[0]
    if known := _FIRST.get(module, _FIRST.get(top)):
        return known
    # _pydecimal is decimal in Python, _py_warnings is warnings.
    stem = top.removeprefix("_py").lstrip("_")
    return _FIRST.get(stem, stem)


def held_out(*names: str) -> bool:
    """Say whether a family is held out: by its name alone, so the same on every machine and in every Python."""
    digest = hashlib.sha256("\n".join(("siftlm sample", *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % ONE_IN == 0
