"""``siftlm chat``: a prompt loop; each answer comes from a model that was tuned for its prompt and then restored."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from siftlm.cli import arguments as flags
from siftlm.cli import generate
from siftlm.cli.terminal import Terminal, note, printable, watched
from siftlm.cli.tuning import device_errors, open_model
from siftlm.errors import InvalidInput, SiftlmError

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

{flags.TUNING_HELP}"""
CONTINUATION_NAMES = {*flags.SAMPLING_NAMES, "stop"}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "chat",
        run,
        "a prompt loop, each prompt with a model that learned for it",
        EPILOG,
        usage="siftlm chat MEMORY [options]",
    )
    flags.declare(
        parser,
        flags.MEMORY,
        flags.QUIET.but("print answers and errors only"),
        "how to continue",
        *flags.SAMPLING,
        *flags.LEARNING,
    )


def run(arguments: argparse.Namespace) -> int:
    """Open the model, then answer line by line."""
    settings = flags.model_settings(arguments)
    if sys.stdin is None:
        raise InvalidInput("standard input is closed")
    model = open_model(arguments, settings)
    chat = Chat(model, arguments.watch, flags.sampling_settings(arguments), quiet=arguments.quiet)
    chat.check()
    interactive = _interactive()
    if interactive and not arguments.quiet:
        chat.comment(f"{arguments.folder}, {model.controller.name}. A line is a prompt; /help lists commands.", "dim")
    for line in _typed_lines() if interactive else _piped_lines(sys.stdin):
        if not chat.handle(line):
            break
    else:
        chat.end()
    return 0 if interactive else chat.status


def _interactive() -> bool:
    """Does a person type, and read along?"""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _typed_lines() -> Iterator[str]:
    """Lines from a person, with a history where Python has readline."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_auto_history(True)
    while (line := _typed_line()) is not None:
        yield line


def _typed_line() -> str | None:
    """None at the end of the input."""
    try:
        return input("> ")
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        raise


def _piped_lines(stream: IO[str]) -> Iterator[str]:
    for number, line in enumerate(getattr(stream, "buffer", stream), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8") if isinstance(line, bytes) else str(line)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"standard input:{number}: is not UTF-8 text: {error.reason}") from error
        yield text.rstrip("\r\n")


class Chat:
    """The last prompt and answer, the settings, and how each line is answered."""

    def __init__(self, model: LocalModel, watch: bool, sampling: dict[str, Any], *, quiet: bool) -> None:
        self._model, self._quiet = model, quiet
        self._sampling = sampling
        self._changed: dict[str, Any] = {"watch": True} if watch else {}
        self._prompt, self._answer = "", None  # type: str, Answer | None
        self._block: list[str] | None = None
        self.status = 0
        """1 once something went wrong; for a caller who cannot read along."""

    def handle(self, line: str) -> bool:
        """Act on a line; False at the end."""
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
            note(str(error))
        except KeyboardInterrupt:
            if not _interactive():
                raise
            self.comment("stopped; the model is as it was", "dim")
        return True

    def end(self) -> None:
        """The input is over, and with it a block."""
        if self._block:
            self.handle("")

    def check(self) -> None:
        """Check the settings now rather than after the next prompt."""
        from siftlm.controller import check_sampling

        how = self._continuation
        stops = [how["stop"]] if isinstance(how["stop"], str) else how["stop"]
        check_sampling(how["max_new_tokens"], how["temperature"], how["top_p"], stops, self._model.controller.context)
        self._model.settings(**self._learning)

    @property
    def _continuation(self) -> dict[str, Any]:
        """Settings of the continuation."""
        return {
            **self._sampling,
            **{name: value for name, value in self._changed.items() if name in CONTINUATION_NAMES},
        }

    @property
    def _learning(self) -> dict[str, Any]:
        """What was changed about selecting and tuning."""
        return {name: value for name, value in self._changed.items() if name not in {*CONTINUATION_NAMES, "watch"}}

    def comment(self, text: str, style: str) -> None:
        """A remark between the answers."""
        terminal = Terminal.of(sys.stdout)
        terminal.show(terminal.prose(text, style))

    # --- inside

    def _collect(self, line: str) -> None:
        if line.strip():
            self._block = [*(self._block or []), line]
            return
        block, self._block = self._block, None
        if block:
            self._reply("\n".join(block))

    def _reply(self, prompt: str) -> None:
        settings = {**self._continuation, **self._learning}
        watch = bool(self._changed.get("watch"))
        with device_errors():
            answer = generate.continue_prompt(
                self._model, prompt, settings, watch=watch, quiet=self._quiet or not watched()
            )
        self._prompt, self._answer = prompt, answer
        terminal = Terminal.of(sys.stdout)
        generate.show_continuation(answer.text, terminal)
        for remark in generate.remarks(answer):
            self.comment(f"({remark})", "yellow")
        if terminal.fixed and not self._quiet:
            self.comment(f"({_summary(answer)}; /why)", "dim")

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
            raise InvalidInput(
                f"{name} is no command; /help lists them. A prompt that begins with / goes into a /block"
            )
        return True

    def _why(self, *, full: bool) -> None:
        if self._answer is None:
            raise InvalidInput("there was no answer yet")
        terminal = Terminal.of(sys.stdout)
        terminal.show(*generate.why_parts(self._answer, self._prompt, terminal, full=full))

    def _base(self) -> None:
        if not self._prompt:
            raise InvalidInput("there was no prompt yet")
        with device_errors():
            base = self._model.controller.generate(self._prompt, **self._continuation)
        generate.show_continuation(base.text, Terminal.of(sys.stdout))

    def _set(self, change: str) -> None:
        if "=" not in change:
            name = change.replace("-", "_")
            if name not in self._changed:
                raise InvalidInput(f"{change or 'nothing'} was not set here: /set NAME=VALUE, or /set NAME to undo it")
            del self._changed[name]
            return
        try:
            name, value = flags.option(change)
        except argparse.ArgumentTypeError as error:
            raise InvalidInput(str(error)) from error
        value = flags.plain(name, value)
        if name == "stop" and isinstance(value, str):
            value = flags.unescaped(value)
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
            mark = "*" if name in self._changed else " "
            self._print(f"{mark} {name} = {_setting_text(value)}")

    def _print(self, text: str) -> None:
        print(printable(text, sys.stdout), flush=True)


def _setting_text(value: Any) -> str:
    plain_types = (str, list, tuple, bool, int, float, type(None))
    return json.dumps(value) if isinstance(value, plain_types) else str(value)


def _summary(answer: Answer) -> str:
    steps, took = len(answer.trace.steps), sum(answer.seconds.values())
    left = answer.found.selection.uncertainty
    fell = f", uncertainty {left[0]:.2f} to {left[-1]:.2f}" if len(left) > 1 and left[0] == left[0] else ""
    return f"learned from {len(answer.found)} texts in {steps} steps{fell}, {took:.1f} s"
