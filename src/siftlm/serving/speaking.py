"""The prompts that are continued: tokens become text, stop texts end it, and events say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siftlm.controller import Controller
from siftlm.controller.decoding import Decoding, Drawn, Row
from siftlm.controller.generating import ends_of
from siftlm.controller.spelling import Spelling
from siftlm.controller.tokens import leading
from siftlm.serving import jobs
from siftlm.serving.counting import Counts
from siftlm.serving.task import Task
from siftlm.serving.telling import Telling


@dataclass(eq=False)
class Voice:
    """One choice of one task."""

    task: Task
    choice: int
    row: Row
    spelling: Spelling
    telling: Telling


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
        drawn = self._decoding.join([voice.row for voice in new])
        for voice in new:
            if voice.task.job.echo and voice.choice == 0:
                voice.task.tell(jobs.Read(self._read(voice)))
            if not voice.row.most:
                self._end(voice, "length")
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
        ids = self._reads(task)
        rows = [
            Row(
                ids, task.owner, how.max_tokens, how.temperature, how.top_p, how.seed + choice, how.top,
                echo=job.echo and how.top is not None and choice == 0,
            )
            for choice in range(job.choices)
        ]  # fmt: skip
        spelled = self._controller.tokenizer
        return [Voice(task, at, row, Spelling(spelled, job.ids), Telling(how.stop)) for at, row in enumerate(rows)]

    def _reads(self, task: Task) -> tuple[int, ...]:
        """The prompt; behind texts that were selected as its context, the best that there is room for."""
        ids, context = task.job.ids, self._controller.context
        room = min(context // 2, context - task.job.sampling.max_tokens - len(ids))
        if not task.context or room < 1:
            return ids
        # A start of text stands before everything, and once.
        head = leading(self._controller.tokenizer)
        own = ids[len(head) :] if head and list(ids[: len(head)]) == head else ids
        return (*self._controller.context_of(task.context, room), *own)

    def _heard(self, drawn: Sequence[tuple[Row, Drawn]], tasks: Sequence[Task]) -> list[Task]:
        over = []
        for row, one in drawn:
            voice = self._voices[id(row)]
            if self._said(voice, one):
                over.append(row)
        self._decoding.leave([row for row in over if row.made < row.most])
        self._count.made(len(drawn))
        speaking = {id(voice.task) for voice in self._voices.values()}
        return [task for task in tasks if id(task) not in speaking]

    def _said(self, voice: Voice, one: Drawn) -> bool:
        """Tell what this token adds; was it the last?"""
        ended = one.id in self._ends
        piece = "" if ended else voice.spelling.add(one.id)
        last = ended or voice.row.made >= voice.row.most
        shown = voice.telling.add(piece + (voice.spelling.rest() if last else ""))
        if last:
            shown += voice.telling.rest()
        tokens = () if ended else (self._token(one, piece),)
        voice.task.tell(jobs.Said(voice.choice, shown, tokens))
        if last or voice.telling.stopped:
            self._end(voice, "stop" if ended or voice.telling.stopped else "length")
            return True
        return False

    def _end(self, voice: Voice, reason: str) -> None:
        voice.task.tell(jobs.Ended(voice.choice, reason, voice.row.made))
        del self._voices[id(voice.row)]

    def _read(self, voice: Voice) -> tuple[jobs.Token, ...]:
        """The prompt's own tokens."""
        first, *others = voice.task.job.ids
        known = voice.row.read[len(voice.row.read) - len(others) :] if voice.row.read else map(Drawn, others)
        spelling = Spelling(self._controller.tokenizer)
        return tuple(self._token(one, spelling.add(one.id)) for one in (Drawn(first), *known))

    def _token(self, one: Drawn, text: str) -> jobs.Token:
        alone = self._controller.tokenizer.decode
        top = tuple((token, str(alone([token])), logprob) for token, logprob in one.top)
        return jobs.Token(one.id, text, one.logprob, top)
