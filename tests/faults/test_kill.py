"""A process that is killed while it changes a memory: what was acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.children import Children
from faults.world import Step, World, check_readable, held, outcomes, record

SETTINGS = [
    {"storage": "float32"},
    {"storage": "int8", "near_duplicates": 0.8},
    {"storage": "float16", "full_text": False},
]


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    found = Children()
    yield found
    found.close()


class Life:
    """One memory that is changed, killed, checked and changed again."""

    def __init__(self, children: Children, folder: Path, settings: dict[str, Any], seed: int) -> None:
        self.children, self.folder, self.settings = children, folder, settings
        self.path = folder / "memory"
        self.draw = random.Random(seed)
        self.world = World("near_duplicates" in settings)
        self.numbers = itertools.count()
        self.reading: Step | None = self._input("first.jsonl", 18)
        self.files = itertools.count()
        self.kills = 0

    def _input(self, name: str, size: int) -> Step:
        records = [self._record() for _ in range(size)]
        path = self.folder / name
        path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
        return ["read", str(path), records]

    def _record(self) -> dict[str, Any]:
        found = record(self.draw, next(self.numbers))
        if self.world.near and len(found["text"]) > 200:  # with near-duplicates, only whole texts are foreseen here
            found["text"] = " ".join(found["text"].split()[:9])
        return found

    def step(self) -> Step:
        """A random one; what was begun to be read is sometimes left for later."""
        if self.reading is not None and (not self.path.exists() or not self.world.records or self.draw.random() < 0.5):
            return self.reading
        what = self.draw.choices(["add", "delete", "compact", "read"], [5, 3, 2, 1])[0]
        if what == "add":
            return ["add", [self._record() for _ in range(self.draw.randrange(1, 12))]]
        if what == "delete":
            known = self.draw.choice([*self.world.records, 0])
            return ["delete", {"group": self.draw.randrange(4)} if self.draw.random() < 0.3 else {"@id": f"k{known}"}]
        if what == "read" and self.reading is None:
            self.reading = self._input(f"more{next(self.files)}.jsonl", 14)
            return self.reading
        return ["compact"]

    def live(self, kill: dict[str, Any], steps: int = 3) -> None:
        """Take some steps, be killed at them, and look."""
        plan = [self.step() for _ in range(steps)]
        # A second reading of one file has nothing left to read.
        plan = [one for at, one in enumerate(plan) if one[0] != "read" or one not in plan[:at]]
        answer = self.children.run(self.path, plan, self.settings, kill)
        assert answer["killed"] or not answer["error"], answer["error"]
        self.kills += answer["killed"]
        for step in plan[: answer["done"]]:
            self._settle(outcomes(self.world, step)[-1], step)
        allowed = [self.world] if answer["done"] == len(plan) else outcomes(self.world, plan[answer["done"]])
        if not (self.path / "manifest.json").exists():
            assert not answer["done"]
            assert not self.world.records
            return
        # Looking repairs what a kill left behind: look at a copy, and leave the original to the next step.
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        copy = shutil.copytree(self.path, self.folder / "copy")
        check_readable(copy)
        found = held(copy)
        fitting = [world for world in allowed if world.shown() == found]
        assert fitting, (plan, answer, found, [world.shown() for world in allowed])
        if answer["done"] < len(plan):
            self._settle(fitting[-1], plan[answer["done"]])

    def _settle(self, world: World, step: Step) -> None:
        """This is what counts now; of an input, what is not in it is still to be read."""
        if step[0] == "read" and self.reading is not None:
            left = [one for one in step[2] if one["n"] not in world.records]
            self.reading = [*step[:2], left] if left else None
        self.world = world


def kills(draw: random.Random) -> dict[str, Any]:
    """When: at a numbered moment, at any time, or amid a write."""
    way = draw.random()
    if way < 0.5:
        return {"moment": int(2 ** draw.uniform(0, 8))}
    if way < 0.8:
        return {"seconds": draw.uniform(0.0, 0.15)}
    return {"bytes": int(2 ** draw.uniform(9, 18))}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["storage"])
def test_nothing_acknowledged_is_lost_a_few_times(children, tmp_path, settings):
    life = Life(children, tmp_path, settings, seed=1)
    draw = random.Random(2)
    for _ in range(6):
        life.live(kills(draw))
    assert life.kills


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["storage"])
def test_nothing_acknowledged_is_lost(children, tmp_path, settings, seed):
    life = Life(children, tmp_path, settings, seed)
    draw = random.Random(seed)
    for _ in range(30):
        life.live(kills(draw))
    assert life.kills > 10
