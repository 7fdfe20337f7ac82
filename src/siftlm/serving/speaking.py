"""The prompts that are continued: one token of each after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siftlm.controller import Controller
from siftlm.controller.decoding import Decoding, Drawn, Row
from siftlm.controller.generating import ends_of
from siftlm.serving.counting import Counts
from siftlm.serving.saying import Saying, read, reads
from siftlm.serving.task import Task


@dataclass(eq=False)
class Voice:
    """One choice of one task."""

    task: Task
    row: Row
    saying: Saying


class Speaking:
    """Only the engine's thread uses it."""

    def __init__(self, controller: Controller, decoding: Decoding, count: Counts) -> None:
        self._controller, self._decoding, self._count = controller, decoding, count
        self._ends = set(ends_of(controller))
        self._voices: dict[int, Voice] = {}

    def __len__(self) -> int:
        return len(self._voices)

    def tasks(self) -> list[Task]:
        """All who are speaking."""
        return list({id(voice.task): voice.task for voice in self._voices.values()}.values())

    def join(self, tasks: Sequence[Task]) -> list[Task]:
        """They begin to speak; those who have said everything already."""
        new = [voice for task in tasks for voice in self._voices_of(task)]
        self._voices.update((id(voice.row), voice) for voice in new)
        # Where nothing is to be said of what is read, it need not be read.
        drawn = self._decoding.join([voice.row for voice in new if voice.row.most or voice.row.echo])
        for voice in new:
            if voice.task.job.echo and voice.saying.choice == 0:
                voice.task.tell(read(self._controller.tokenizer, voice.task.job, voice.row.read))
            if not voice.row.most:
                voice.task.tell(voice.saying.end("length"))
                del self._voices[id(voice.row)]
        return self._heard(drawn, tasks)

    def step(self) -> list[Task]:
        """One token more of each; those who have said everything."""
        return self._heard(self._decoding.step(), self.tasks())

    def leave(self, task: Task) -> None:
        """Nobody listens."""
        gone = [voice for voice in self._voices.values() if voice.task is task]
        self._decoding.leave([voice.row for voice in gone])
        for voice in gone:
            del self._voices[id(voice.row)]

    # --- inside

    def _voices_of(self, task: Task) -> list[Voice]:
        job, how = task.job, task.job.sampling
        ids = reads(self._controller, job, task.context)
        rows = [
            Row(
                ids, task.owner, how.max_tokens, how.temperature, how.top_p, how.seed + choice, how.top,
                echo=job.echo and how.top is not None and choice == 0,
            )
            for choice in range(job.choices)
        ]  # fmt: skip
        spelled = self._controller.tokenizer
        return [Voice(task, row, Saying(spelled, job, at, self._ends)) for at, row in enumerate(rows)]

    def _heard(self, drawn: Sequence[tuple[Row, Drawn]], tasks: Sequence[Task]) -> list[Task]:
        over = []
        for row, one in drawn:
            voice = self._voices[id(row)]
            for event in voice.saying.say(one):
                voice.task.tell(event)
            if voice.saying.over:
                over.append(row)
                del self._voices[id(row)]
        self._decoding.leave([row for row in over if row.made < row.most])
        self._count.made(len(drawn))
        speaking = {id(voice.task) for voice in self._voices.values()}
        return [task for task in tasks if id(task) not in speaking]
