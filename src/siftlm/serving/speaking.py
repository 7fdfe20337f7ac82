"""The prompts that are continued: one token of each after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siftlm.controller import Controller
from siftlm.controller.decoding import BatchDecoder, DecodingRow, SampledToken
from siftlm.controller.generation import eos_token_ids
from siftlm.serving.counting import Metrics
from siftlm.serving.saying import ChoiceWriter, prompt_event, prompt_with_context
from siftlm.serving.task import ServedRequest


@dataclass(eq=False)
class Choice:
    """One choice of one task."""

    task: ServedRequest
    row: DecodingRow
    saying: ChoiceWriter


class DecodeQueue:
    """Only the engine's thread uses it."""

    def __init__(self, controller: Controller, decoding: BatchDecoder, count: Metrics) -> None:
        self._controller, self._decoding, self._count = controller, decoding, count
        self._ends = set(eos_token_ids(controller))
        self._choices: dict[int, Choice] = {}

    def __len__(self) -> int:
        return len(self._choices)

    def tasks(self) -> list[ServedRequest]:
        """All who are speaking."""
        return list({id(voice.task): voice.task for voice in self._choices.values()}.values())

    def join(self, tasks: Sequence[ServedRequest]) -> list[ServedRequest]:
        """They begin to speak; those who have said everything already."""
        new = [voice for task in tasks for voice in self._make_choices(task)]
        self._choices.update((id(voice.row), voice) for voice in new)
        # Where nothing is to be said of what is read, it need not be read.
        drawn = self._decoding.join([voice.row for voice in new if voice.row.most or voice.row.echo])
        for voice in new:
            if voice.task.job.echo and voice.saying.choice == 0:
                voice.task.tell(prompt_event(self._controller.tokenizer, voice.task.job, voice.row.read))
            if not voice.row.most:
                voice.task.tell(voice.saying.end("length"))
                del self._choices[id(voice.row)]
        return self._emit_tokens(drawn, tasks)

    def step(self) -> list[ServedRequest]:
        """One token more of each; those who have said everything."""
        return self._emit_tokens(self._decoding.step(), self.tasks())

    def leave(self, task: ServedRequest) -> None:
        """Nobody listens."""
        gone = [voice for voice in self._choices.values() if voice.task is task]
        self._decoding.leave([voice.row for voice in gone])
        for voice in gone:
            del self._choices[id(voice.row)]

    # --- inside

    def _make_choices(self, task: ServedRequest) -> list[Choice]:
        job, how = task.job, task.job.sampling
        ids = prompt_with_context(self._controller, job, task.context)
        rows = [
            DecodingRow(
                ids,
                task.owner,
                how.max_tokens,
                how.temperature,
                how.top_p,
                how.seed + choice,
                how.top,
                echo=job.echo and how.top is not None and choice == 0,
            )
            for choice in range(job.choices)
        ]
        spelled = self._controller.tokenizer
        return [Choice(task, row, ChoiceWriter(spelled, job, at, self._ends)) for at, row in enumerate(rows)]

    def _emit_tokens(
        self, drawn: Sequence[tuple[DecodingRow, SampledToken]], tasks: Sequence[ServedRequest]
    ) -> list[ServedRequest]:
        over = []
        for row, one in drawn:
            voice = self._choices[id(row)]
            for event in voice.saying.say(one):
                voice.task.tell(event)
            if voice.saying.over:
                over.append(row)
                del self._choices[id(row)]
        self._decoding.leave([row for row in over if row.made < row.most])
        self._count.made(len(drawn))
        speaking = {id(voice.task) for voice in self._choices.values()}
        return [task for task in tasks if id(task) not in speaking]
