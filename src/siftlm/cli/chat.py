"""``siftlm chat``: a prompt loop; each answer comes from a model that was tuned for its prompt and then put back."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from siftlm.cli import generate, local, settings
from siftlm.cli.drawing import Terminal, printable, wrap

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.results import Answer

HELP = """\
A line is a prompt. Each is answered by a model that learned for it and forgets it: nothing of earlier prompts stays.
  /block             the next lines, up to an empty one, are one prompt
  /why               what the last answer learned from: score, gain, uncertainty left, and the loss (/why full: all)
  /base              the last prompt again, answered by the base model
  /set NAME=VALUE    change a setting: n=20, method=nearest, rate=1e-4, use=context, max_new_tokens=40, temperature=1 …
  /set NAME          back to what it was at the beginning
  /settings          all that is set
  /help, /quit       this; the end, as Ctrl-D
Ctrl-C stops an answer and puts the model back; at the prompt it leaves."""
EPILOG = f"""\
{HELP}

examples:
  siftlm chat memory --model gpt2
  siftlm chat memory -n 20 --method nearest --max-new-tokens 40
  siftlm chat memory --temperature 0.8 --stop '\\n\\n'
  printf 'def heappop(heap):\\n/why\\n' | siftlm chat memory      plain text where no one is typing

{local.SETTINGS}"""
SAMPLING = {*generate.SAMPLING, "stop"}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "chat",
        usage="siftlm chat MEMORY [options]",
        help="a prompt loop, each prompt with a model that learned for it",
        description="Answer prompt after prompt, each with a model tuned on what a memory holds about it.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="MEMORY", help="the memory, as siftlm index made it")
    parser.add_argument("--quiet", action="store_true", help="answers and complaints only")
    generate.sampling(parser)
    local.add(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Open the model, then talk."""
    from siftlm.errors import InvalidInput

    given = local.given(arguments)
    if sys.stdin is None:
        raise InvalidInput("standard input is closed")
    model = local.opened(arguments, given)
    talk = Talk(model, arguments.watch, generate.sampled(arguments), quiet=arguments.quiet)
    talk.check()
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    if typed and not arguments.quiet:
        talk.say(f"{arguments.folder}, {model.controller.name}. A line is a prompt; /help says what else.", "dim")
    for line in _typed() if typed else _piped(sys.stdin):
        if not talk.hear(line):
            break
    else:
        talk.end()
    return 0 if typed else talk.status


def _typed() -> Iterator[str]:
    """Lines from a person, with a history where Python has readline."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_auto_history(True)
    while (line := _line()) is not None:
        yield line


def _line() -> str | None:
    """None at the end of the input."""
    try:
        return input("> ")
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        raise


def _piped(stream: IO[str]) -> Iterator[str]:
    from siftlm.errors import InvalidInput

    for number, line in enumerate(getattr(stream, "buffer", stream), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8") if isinstance(line, bytes) else str(line)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"standard input:{number}: is not UTF-8 text: {error.reason}") from error
        yield text.rstrip("\r\n")


class Talk:
    """What was said last, what is set, and how each line is answered."""

    def __init__(self, model: LocalModel, watch: bool, sampling: dict[str, Any], *, quiet: bool) -> None:
        self._model, self._quiet = model, quiet
        self._sampling = sampling
        self._changed: dict[str, Any] = {"watch": True} if watch else {}
        self._prompt, self._answer = "", None  # type: str, Answer | None
        self._block: list[str] | None = None
        self.status = 0
        """1 once something went wrong; for a caller who cannot read along."""

    def hear(self, line: str) -> bool:
        """Act on a line; False at the end."""
        from siftlm.errors import SiftlmError

        try:
            if self._block is not None:
                self._collect(line)
            elif line.strip().startswith("/"):
                return self._command(line.strip())
            elif line.strip():
                self._reply(line)
        except SiftlmError as error:
            self.status = 1
            sys.stdout.flush()
            local.note(str(error))
        except KeyboardInterrupt:
            if not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise
            self.say("stopped; the model is as it was", "dim")
        return True

    def end(self) -> None:
        """The input is over, and with it a block."""
        if self._block:
            self.hear("")

    def check(self) -> None:
        """Would the settings do? What is wrong is said now rather than after the next prompt."""
        from siftlm.controller import check_sampling

        how = self._how
        stops = [how["stop"]] if isinstance(how["stop"], str) else how["stop"]
        check_sampling(how["max_new_tokens"], how["temperature"], how["top_p"], stops, self._model.controller.context)
        self._model.settings(**self._learning)

    @property
    def _how(self) -> dict[str, Any]:
        """To continue."""
        return {**self._sampling, **{name: value for name, value in self._changed.items() if name in SAMPLING}}

    @property
    def _learning(self) -> dict[str, Any]:
        """What was changed about selecting and tuning."""
        return {name: value for name, value in self._changed.items() if name not in {*SAMPLING, "watch"}}

    def say(self, text: str, *colours: str) -> None:
        """A remark within the talk."""
        terminal = Terminal.of(sys.stdout)
        for line in wrap(terminal.spell(text), terminal.limit):
            print(printable(terminal.paint(line, *colours), sys.stdout))
        sys.stdout.flush()

    # --- inside

    def _collect(self, line: str) -> None:
        if line.strip():
            self._block = [*(self._block or []), line]
            return
        block, self._block = self._block, None
        if block:
            self._reply("\n".join(block))

    def _reply(self, prompt: str) -> None:
        watched = sys.stderr is not None and sys.stderr.isatty()
        with local.explained():
            answer = generate.learned(
                self._model,
                prompt,
                {**self._how, **self._learning},
                watch=bool(self._changed.get("watch")),
                quiet=self._quiet or not watched,
            )
        self._prompt, self._answer = prompt, answer
        self._print("\n".join(generate.spoken(answer.text, Terminal.of(sys.stdout))))
        for said in generate.remarks(answer):
            self.say(f"({said})", "yellow")
        if Terminal.of(sys.stdout).fixed and not self._quiet:
            self.say(f"({_short(answer)}; /why)", "dim")

    def _command(self, line: str) -> bool:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/help":
            self._print(HELP)
        elif name == "/block":
            self._block = []
        elif name == "/why":
            self._why(full=rest == "full")
        elif name == "/base":
            self._base()
        elif name == "/set":
            self._set(rest)
        elif name == "/settings":
            self._settings()
        else:
            self._complain(f"{name} is no command; /help lists them. A prompt that begins with / goes into a /block")
        return True

    def _why(self, *, full: bool) -> None:
        if self._answer is None:
            self._complain("there was no answer yet")
            return
        terminal = Terminal.of(sys.stdout)
        self._print("\n".join(generate.why(self._answer, self._prompt, terminal, full=full)))

    def _base(self) -> None:
        if not self._prompt:
            self._complain("there was no prompt yet")
            return
        with local.explained():
            made = self._model.controller.generate(self._prompt, **self._how)
        self._print("\n".join(generate.spoken(made.text, Terminal.of(sys.stdout))))

    def _set(self, change: str) -> None:
        if "=" not in change:
            if change.replace("-", "_") not in self._changed:
                self._complain(f"{change or 'nothing'} was not set here: /set NAME=VALUE, or /set NAME to take it back")
                return
            del self._changed[change.replace("-", "_")]
            return
        try:
            name, value = settings.option(change)
        except argparse.ArgumentTypeError as error:
            self._complain(str(error))
            return
        value = local.plain(name, value)
        if name == "stop" and isinstance(value, str):
            value = value.replace("\\n", "\n").replace("\\t", "\t")
        before = dict(self._changed)
        self._changed[name] = value
        try:
            self.check()
        except BaseException:
            self._changed = before
            raise

    def _settings(self) -> None:
        # The seed that a prompt can be given is that of the drawing.
        shown = {**self._model.settings(**self._learning), "watch": False, **self._sampling, **self._changed}
        for name, value in sorted(shown.items()):
            said = (
                json.dumps(value) if isinstance(value, (str, list, tuple, bool, int, float, type(None))) else str(value)
            )
            self._print(f"{'*' if name in self._changed else ' '} {name} = {said}")

    def _complain(self, text: str) -> None:
        self.status = 1
        sys.stdout.flush()
        local.note(text)

    def _print(self, text: str) -> None:
        print(printable(text, sys.stdout), flush=True)


def _short(answer: Answer) -> str:
    steps, took = len(answer.trace.steps), sum(answer.seconds.values())
    left = answer.found.selection.uncertainty
    fell = f", uncertainty {left[0]:.2f} to {left[-1]:.2f}" if len(left) > 1 and left[0] == left[0] else ""
    return f"learned from {len(answer.found)} texts in {steps} steps{fell}, {took:.1f} s"
