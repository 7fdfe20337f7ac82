"""``siftlm demo``: selection without a model, facts learned for a question, and a text that is better not learned."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from siftlm.cli import arguments as flags
from siftlm.cli import demo_picks
from siftlm.cli.arguments import Flag
from siftlm.cli.terminal import Terminal, finite, note, print_json, progress_line, status
from siftlm.errors import InvalidInput
from siftlm.validation import whole_number

if TYPE_CHECKING:
    from siftlm.controller import Controller
    from siftlm.flow import PromptState, TunedModel
    from siftlm.memory import Found, Memory
    from siftlm.progress import Report
    from siftlm.results import Score
    from siftlm.types import Document, UseChoice

EPILOG = """\
examples:
  siftlm demo                      offline, in a minute; writes siftlm-demo/report.html
  siftlm demo --texts 8 -n 12      more questions, more sentences for each
  siftlm demo --seed 1             other questions
  siftlm demo --model ./my-model   with another model: a folder, a GGUF file or a name on the Hub
  siftlm demo picks                selection only, on three small examples, without a model
  siftlm demo --json | jq .facts.summary
  NO_COLOR=1 siftlm demo           without colour

The facts are in the standard library of the Python that runs the demo; the model, siftlm-tiny, has seven million
parameters and has not seen them. The last text is from siftlm.sample: Python's own source and documentation.
"""
NAMES = ("picks", *demo_picks.EXAMPLES)

# --- the facts

WORDINGS = (
    '{name} means "{text}".',
    'The meaning of {name} is "{text}".',
    '{name}: "{text}".',
    'For {name}, Python says "{text}".',
    '{name} stands for "{text}".',
)
# No sentence of the memory has these two.
QUESTION = "Explain {names}."
ANSWER = 'Remember: {name} is "'
ANSWER_END = '".'
FACTS_PER_QUESTION = 3
# Another Python may know other facts.
FACTS_FOLDER = f"facts-{sys.version_info.major}.{sys.version_info.minor}"
# Word statistics of the corpus itself: 404 says more about a sentence than HTTP does.
FACTS_EMBEDDER = "lexical"
# Chosen on questions of seed 100 (kinds, embedder and form of wording on seed 0), before seeds 1 to 4 were looked at.
# 64 steps on adapters, whose prompts are tuned together. The rate is four times the usual one, for the sentences are
# short; a larger model takes its usual rate.
PASSES, TINY_RATE = 8, 4e-3
MAX_ANSWER_TOKENS = 16
# Use of the selected sentences -> its name and colour.
USES = {
    "base": ("before", "dim"),
    "context": ("SIFT in context", ""),
    "nearest": ("tuned, nearest", "yellow"),
    "sift": ("tuned, SIFT", "cyan"),
    "auto": ("auto, SIFT", "green"),
}

# --- the text that is better not learned

# The first held-out text of code that was worse after tuning at this rate, two and a half times the usual one, which
# magnifies gain and harm. The noise is from `siftlm calibrate` on the sample memory.
HARMED_KIND, HARMED_PLACE, HARMED_CHARACTERS = "code", 0, 600
HARMED_SETTINGS: dict[str, Any] = {"n": 12, "noise": 1.0}
HARMED_TINY_RATE = 2.5e-3


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands, "demo", run, "selection, and a model that learns facts for a question; offline, in a minute", EPILOG
    )
    part = Flag(
        "name",
        "NAME",
        str,
        f"picks: selection only, on three examples; {', '.join(demo_picks.EXAMPLES)}: one of them",
        more={"nargs": "?", "choices": NAMES},
    )
    flags.declare(
        parser,
        part,
        Flag("--into", "FOLDER", str, "folder of the memories and the report (default: siftlm-demo)", "siftlm-demo"),
        Flag(
            "--model",
            "M",
            str,
            f"a folder, a GGUF file or a name on the Hugging Face Hub (default: {flags.DEFAULT_MODEL})",
            flags.DEFAULT_MODEL,
        ),
        Flag("-n", "N", flags.whole(1), "number of sentences to select for a question (default: 8)", 8),
        Flag("--texts", "N", flags.whole(1), "number of questions (default: 4)", 4),
        flags.SEED.described("random seed of the questions (default: 0)", default=0),
        flags.JSON.described("print the results as JSON"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, print its results, and write the page."""
    if arguments.name is not None:
        return demo_picks.run(arguments)
    from siftlm.extras import load

    whole_number("seed", arguments.seed, least=0)
    needed = {"torch": "tune", "transformers": "tune", "peft": "tune", "scipy": "lexical"}
    for library, extra in needed.items():  # checked first; `siftlm demo picks` needs none
        load(library, extra)
    folder = _writable(Path(arguments.into))
    try:
        return _run(arguments, folder)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print(file=sys.stderr)
        built = (folder / FACTS_FOLDER).exists()
        note(f"interrupted; the next demo {'reuses' if built else 'rebuilds'} the memory in {folder}")
        raise


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    from siftlm import sample
    from siftlm.cli import demo_page
    from siftlm.controller import Controller

    start = time.monotonic()
    quiet = arguments.json
    screen = demo_page.DemoScreen(Terminal.of(sys.stdout), quiet=quiet)
    questions = make_questions(arguments.texts, arguments.seed)
    example = demo_picks.compare(demo_picks.FIRST_EXAMPLE)
    controller = Controller(arguments.model, engine="lora")  # a wrong name is an error before anything is printed
    screen.example(example)
    with progress_line(quiet=quiet) as report:
        facts = _open_memory(folder / FACTS_FOLDER, fact_documents, report, embedder=FACTS_EMBEDDER)
    with facts:
        passages = len(facts)
        screen.facts_begin(controller, passages, len(questions), arguments.n)
        outcome = run_questions(controller, facts, questions, arguments.n, quiet=quiet)
        screen.facts(outcome)
    with progress_line(quiet=quiet) as report:
        memory = _open_memory(folder / "memory", sample.documents, report)
    with memory, status("a text that is better not learned", quiet=quiet):
        harmed = run_harmed(controller, memory)
    screen.harmed(harmed)
    result = demo_page.DemoResult(
        example, outcome, harmed, controller.name, controller.parameters, passages, arguments.n
    )
    result.seconds = time.monotonic() - start
    page = demo_page.write(result, folder / "report.html")
    if quiet:
        print_json(result.to_dict(), indent=1)
        return 0
    screen.print("", f"{result.seconds:.0f} seconds. Figures and all texts: {page}")
    return 0


def _writable(folder: Path) -> Path:
    """The folder, created if necessary; an error if it is not writable."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"--into {folder}: is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(f"--into {folder}: not writable: {error.strerror or error}") from error
    return folder


def _open_memory(
    folder: Path, documents: Callable[[], Iterable[Document]], progress: Report, **settings: Any
) -> Memory:
    """A memory of the demo; built the first time, and renamed when complete."""
    from siftlm.memory import Memory

    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        if part.exists():
            shutil.rmtree(part)  # of an interrupted demo
        Memory.build(documents(), into=part, progress=progress, **settings).close()
        part.rename(folder)
    return Memory.open(folder)


# --- facts of this Python, and questions about them


@dataclass(frozen=True)
class Fact:
    """A name and the text that Python's library knows for it."""

    name: str
    text: str


@dataclass(frozen=True)
class Question:
    """A prompt that asks for several facts."""

    prompt: str
    facts: tuple[Fact, ...]


def library_facts() -> dict[str, list[Fact]]:
    """Facts of the Python that runs, by kind."""
    import errno
    import html.entities
    import http
    import mimetypes
    import os
    import unicodedata

    types = mimetypes.MimeTypes().types_map[True]  # of the library, not of the machine's own files
    return {
        "http": [Fact(f"HTTP {one.value}", one.phrase) for one in http.HTTPStatus],
        "errno": [Fact(name, os.strerror(code)) for code, name in sorted(errno.errorcode.items())],
        "mimetypes": [Fact(f"*{ending}", text) for ending, text in sorted(types.items())],
        "html.entities": [
            Fact(f"&{name};", unicodedata.name(chr(code)).lower())
            for name, code in sorted(html.entities.name2codepoint.items())
        ],
    }


def fact_documents() -> Iterator[Document]:
    """Every fact in every wording of the memory."""
    from siftlm.types import Document

    for kind, facts in library_facts().items():
        for fact in facts:
            for wording in WORDINGS:
                yield Document(wording.format(name=fact.name, text=fact.text), {"kind": kind, "name": fact.name})


def make_questions(count: int, seed: int) -> list[Question]:
    """``count`` questions, each about several facts of one kind; the kinds take turns."""
    rng, kinds = Random(seed), list(library_facts().values())
    questions: dict[str, Question] = {}
    for _ in range(10 * count + 100):  # equal questions are drawn again
        facts = tuple(rng.sample(kinds[len(questions) % len(kinds)], FACTS_PER_QUESTION))
        prompt = QUESTION.format(names=", ".join(fact.name for fact in facts))
        questions.setdefault(prompt, Question(prompt, facts))
        if len(questions) == count:
            break
    return list(questions.values())


@dataclass(frozen=True)
class FactAnswer:
    """The answer to one fact of a question."""

    expected: str
    text: str
    """Generated greedily."""
    bits: float
    """Bits per byte of the expected answer."""

    @property
    def exact(self) -> bool:
        """Whether the generated answer is the expected one, letter for letter."""
        return self.text == self.expected


@dataclass(frozen=True, eq=False)
class QuestionRun:
    """One use of the selected sentences on one question."""

    answers: tuple[FactAnswer, ...]
    found: Found | None = None
    facts_found: int = 0
    """Facts of the question that a selected sentence states."""
    choice: UseChoice | None = None

    @property
    def uncertainty(self) -> list[float]:
        """The uncertainty before the first pick and after each, relative to the first."""
        left = self.found.selection.uncertainty.tolist() if self.found is not None else []
        return [value / left[0] for value in left]

    def to_dict(self) -> dict[str, Any]:
        """A JSON record."""
        answers = [
            {"expected": a.expected, "answer": a.text, "exact": a.exact, "bits_per_byte": finite(a.bits)}
            for a in self.answers
        ]
        return {
            "answers": answers,
            "facts_found": self.facts_found,
            "uncertainty": [finite(value) for value in self.uncertainty],
            "texts": list(self.found.texts) if self.found is not None else [],
            **({} if self.choice is None else {"choice": self.choice.to_dict()}),
        }


@dataclass(frozen=True, eq=False)
class FactsOutcome:
    """All questions under all uses."""

    questions: list[Question]
    runs: dict[str, list[QuestionRun]]
    """Use -> a run for each question."""
    seconds: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0

    def figures(self, use: str) -> tuple[int, int, float, int]:
        """Exact answers, all answers, mean bits per byte of the expected answer, facts in the selected sentences."""
        answers = [answer for one in self.runs[use] for answer in one.answers]
        bits = sum(answer.bits for answer in answers) / len(answers)
        return sum(a.exact for a in answers), len(answers), bits, sum(one.facts_found for one in self.runs[use])

    def to_dict(self) -> dict[str, Any]:
        """A JSON record."""
        summary = {}
        for use in self.runs:
            exact, answers, bits, facts = self.figures(use)
            summary[use] = {
                "exact": exact,
                "answers": answers,
                "bits_per_byte": finite(bits),
                "facts_found": facts,
                "seconds": self.seconds[use],
            }
        questions = [
            {"prompt": one.prompt, **{use: runs[place].to_dict() for use, runs in self.runs.items()}}
            for place, one in enumerate(self.questions)
        ]
        return {"rate": self.rate, "passes": PASSES, "summary": summary, "questions": questions}


def run_questions(
    controller: Controller, memory: Memory, questions: Sequence[Question], n: int, *, quiet: bool = True
) -> FactsOutcome:
    """Answer every question with the base model, with texts in context, and tuned for it in three ways."""
    from siftlm.local import LocalModel

    tuning: dict[str, Any] = {"passes": PASSES}
    if controller.name == flags.DEFAULT_MODEL:
        tuning["rate"] = TINY_RATE
    settings: dict[str, dict[str, Any]] = {
        "base": {"use": "context"},
        "context": {"use": "context"},
        "nearest": {"method": "nearest", **tuning},
        "sift": tuning,
        "auto": {"use": "auto", **tuning},
    }
    model = LocalModel(controller, memory, n=n, method="sift")
    outcome = FactsOutcome(list(questions), {}, rate=model.tuning_settings(**tuning).rate or 0.0)
    prompts = [one.prompt for one in questions]
    for use in USES:
        runs: dict[str, QuestionRun] = {}
        start = time.monotonic()
        with status(f"{len(questions)} questions: {USES[use][0]}", quiet=quiet):
            model.tune_many(prompts, _answering(questions, runs, read=use != "base"), **settings[use])
        outcome.seconds[use] = time.monotonic() - start
        outcome.runs[use] = [runs[prompt] for prompt in prompts]
    return outcome


def _answering(
    questions: Sequence[Question], runs: dict[str, QuestionRun], *, read: bool
) -> Callable[[TunedModel, Sequence[PromptState]], None]:
    """What answers the questions of prompts by the model that is tuned for them, and notes it in ``runs``."""
    known = {one.prompt: one for one in questions}

    def answer(model: TunedModel, states: Sequence[PromptState]) -> None:
        asked = [(owner, fact) for owner, state in enumerate(states) for fact in known[state.prompt].facts]
        owners = [owner for owner, _ in asked]
        before = [ANSWER.format(name=fact.name) for _, fact in asked]
        texts = [states[owner].context if read else () for owner in owners]
        pairs = [(fact.text + ANSWER_END, own) for (_, fact), own in zip(asked, before, strict=True)]
        likely = model.likelihoods(pairs, owners=owners, texts=texts)
        made = model.generate(
            before,
            owners=owners,
            texts=texts,
            max_new_tokens=MAX_ANSWER_TOKENS,
            temperature=0.0,
            top_p=1.0,
            stop=[ANSWER_END[0], "\n"],
            seed=0,
        )
        answers: dict[int, list[FactAnswer]] = {owner: [] for owner in range(len(states))}
        for (owner, fact), one, text in zip(asked, likely, made, strict=True):
            answers[owner].append(FactAnswer(fact.text, text.text.strip(), one.bits_per_byte))
        for owner, state in enumerate(states):
            names = {fact.name for fact in known[state.prompt].facts}
            told = {str(hit.meta["name"]) for hit in state.found.hits} if read else set()
            found = state.found if read else None
            runs[state.prompt] = QuestionRun(tuple(answers[owner]), found, len(names & told), state.trace.choice)

    return answer


# --- a text that is better not learned


@dataclass(frozen=True, eq=False)
class HarmedText:
    """A held-out text whose selected passages may harm: always tuned, and with ``use="auto"``."""

    name: str
    text: str
    tuned: Score
    auto: Score

    @property
    def use(self) -> str:
        """What ``auto`` chose."""
        return self.auto.trace.choice.use if self.auto.trace.choice is not None else "weights"

    def to_dict(self) -> dict[str, Any]:
        """A JSON record."""
        return {
            "name": self.name,
            "base": finite(self.tuned.base),
            "tuned": finite(self.tuned.tuned),
            "auto": finite(self.auto.tuned),
            "choice": self.auto.trace.choice.to_dict() if self.auto.trace.choice is not None else None,
        }


def run_harmed(controller: Controller, memory: Memory) -> HarmedText:
    """The text, always tuned and with ``use="auto"``."""
    from siftlm import sample
    from siftlm.local import LocalModel

    document = sample.prompts(HARMED_KIND, count=HARMED_PLACE + 1, seed=0)[HARMED_PLACE]
    text = document.text[:HARMED_CHARACTERS]
    settings = dict(HARMED_SETTINGS)
    if controller.name == flags.DEFAULT_MODEL:
        settings["rate"] = HARMED_TINY_RATE
    model = LocalModel(controller, memory, **settings)
    return HarmedText(str(document.meta["name"]), text, model.score(text), model.score(text, use="auto"))
