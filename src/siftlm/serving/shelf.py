"""The adapters that another server has loaded: each is written and loaded once, the least recently used go first."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from siftlm.errors import SiftlmError


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
