"""``siftlm generate`` and ``chat``: continue one prompt, or prompt after prompt, with a model fine-tuned for it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli import tables, tuning
from siftlm.cli.arguments import switch
from siftlm.cli.terminal import Terminal, note, print_json, printable, watched
from siftlm.cli.tuning import device_errors, model_settings, open_model, step_line
from siftlm.errors import InvalidInput, SiftlmError
from siftlm.validation import whole_number

if TYPE_CHECKING:
    from siftlm.controller import Generated
    from siftlm.local import LocalModel
    from siftlm.results import Answer

GENERATE_EPILOG = f"""\
examples:
  siftlm generate memory "def heappop(heap):" --model gpt2
  siftlm generate memory "def heappop(heap):" --compare    beside the base model's continuation
  siftlm generate memory "def heappop(heap):" --why        and the texts it was tuned on, with their gains
  siftlm generate memory - --max-new-tokens 40 --stop '\\n\\n' < prompt.txt
  siftlm generate memory --prompt-file p.txt --temperature 0.8 --top-p 0.95 --seed 7
  siftlm generate memory "…" -n 20 --use context           the texts in context, without tuning
  siftlm generate memory "…" --engine lora --rate 1e-3 --use weights
  siftlm generate memory "…" --json | jq -r .text

Only the continuation goes to stdout. In --stop, \\n is a newline and \\t a tab.
{flags.TUNING_HELP}"""
CHAT_HELP = """\
Each line is a prompt. The model is fine-tuned for it, answers, and is restored: prompts do not affect each other.
  /block             read lines up to an empty one as a single prompt
  /why               the texts that the last answer was tuned on, with gains and losses (/why full: whole texts)
  /base              the base model's answer to the last prompt
  /set NAME=VALUE    change a setting: n=20, method=nearest, rate=1e-4, use=context, temperature=1 …
  /set NAME          reset a setting
  /settings          list the settings
  /help              print this
  /quit              leave, as does Ctrl-D
Ctrl-C stops an answer and restores the model; at the prompt it leaves."""
CHAT_EPILOG = f"""\
{CHAT_HELP}

examples:
  siftlm chat memory --model gpt2
  siftlm chat memory -n 20 --method nearest --max-new-tokens 40
  siftlm chat memory --temperature 0.8 --stop '\\n\\n'
  printf 'def heappop(heap):\\n/why\\n' | siftlm chat memory     plain output if stdin is not a terminal
{flags.TUNING_HELP}"""
SAMPLING_NAMES = ("max_new_tokens", "temperature", "top_p", "seed")


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = flags.command(
        commands,
        "generate",
        run,
        "continue a prompt with a model that is fine-tuned for it",
        GENERATE_EPILOG,
        usage="siftlm generate MEMORY [PROMPT | - | --prompt-file FILE] [options]",
    )
    flags.declare(
        parser,
        flags.MEMORY,
        flags.PROMPT,
        flags.PROMPT_FILE,
        "sampling",
        *flags.SAMPLING,
        "output",
        switch("--compare", "also print the base model's continuation"),
        switch("--why", "list the texts it was tuned on, and their losses"),
        flags.JSON,
        flags.QUIET.described("print no progress"),
        *flags.LOCAL_MODEL,
    )
    _add_chat(commands)


def _add_chat(commands: Any) -> None:
    parser = flags.command(
        commands,
        "chat",
        run_chat,
        "a prompt loop; the model is fine-tuned for each prompt and restored",
        CHAT_EPILOG,
        usage="siftlm chat MEMORY [options]",
    )
    flags.declare(
        parser,
        flags.MEMORY,
        flags.QUIET.described("print answers and errors only"),
        "sampling",
        *flags.SAMPLING,
        *flags.LOCAL_MODEL,
    )


# --- generate


def run(arguments: argparse.Namespace) -> int:
    """Continue one prompt."""
    settings = model_settings(arguments)
    prompt = _prompt(arguments)
    sampling = _sampling_settings(arguments)
    model = open_model(arguments, settings)
    with device_errors():
        base = model.controller.generate(prompt, **sampling) if arguments.compare else None
        quiet = arguments.quiet or not watched()
        answer = continue_prompt(model, prompt, sampling, quiet=quiet)
    if arguments.json:
        print_json(_record(prompt, base, answer, why=arguments.why))
        return 0
    for remark in filter(None, [*remarks(answer), tuning.completion_remark(settings, [answer.found])]):
        note(remark)
    terminal = Terminal.of(sys.stdout)
    if base is None:
        show_continuation(answer.text, terminal)
    else:
        terminal.show(*_comparison(base.text, answer.text, terminal))
    if arguments.why:
        terminal.show("", *why_parts(answer, prompt, terminal))
    return 0


def _sampling_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `Controller.generate`."""
    stop = [flags.unescaped(text) for text in arguments.stop]
    whole_number("seed", arguments.seed, least=0)
    return {**flags.values_of(arguments, SAMPLING_NAMES), "stop": stop}


def continue_prompt(model: LocalModel, prompt: str, sampling: dict[str, Any], *, quiet: bool) -> Answer:
    """The answer, with progress on stderr while the model is tuned."""
    line = step_line("tuning", model, quiet=quiet)
    try:
        return model.generate(prompt, **sampling, after=line)
    finally:
        if line is not None:
            line.end()


def remarks(answer: Answer) -> list[str]:
    """What a reader of the answer should know: why tuning ended early, and whether the prompt was truncated."""
    ended = tuning.remark(answer.trace)
    if answer.trace.ended == "done" and not len(answer.found):
        ended = tuning.ENDED["nothing"](answer.trace)
    cut = f"the prompt exceeds the context: its first {answer.cut:,} tokens were dropped" if answer.cut else ""
    return [remark for remark in (ended, cut) if remark]


def why_parts(answer: Answer, prompt: str, terminal: Terminal, *, full: bool = False) -> list[RenderableType]:
    """The texts that the model was tuned on, their gains, and the losses."""
    if not len(answer.found):
        return ["No texts were found to tune on."]
    picks = tables.found_parts(answer.found, prompt, terminal, full=full)
    return [*picks, "", *tuning.loss_parts(answer.trace, terminal)]


def show_continuation(text: str, terminal: Terminal) -> None:
    """Print generated text: verbatim in a pipe, without control characters on a screen."""
    if terminal.fixed:
        terminal.show(terminal.verbatim(text))
    else:
        print(printable(text, sys.stdout), flush=True)


def _prompt(arguments: argparse.Namespace) -> str:
    from siftlm.cli import files

    files.one_text(arguments, "prompt", "prompt", "prompt_file")
    text = files.argument_text(arguments.prompt, arguments.prompt_file)
    text = text.removesuffix("\n")  # other trailing whitespace may matter to the model
    if not text.strip():
        raise InvalidInput("the prompt is empty")
    return text


def _record(prompt: str, base: Generated | None, answer: Answer, *, why: bool) -> dict[str, Any]:
    record = {"prompt": prompt, **answer.to_dict()}
    if not why:
        del record["found"]["hits"]
    if base is not None:
        record["base"] = {"text": base.text, "stopped": base.stopped, "tokens": base.tokens}
    return record


def _comparison(base: str, tuned: str, terminal: Terminal) -> list[RenderableType]:
    """Both continuations, side by side if there is room."""
    left = [Text("base model", "bold yellow"), terminal.verbatim(base)]
    right = [Text("fine-tuned model", "bold cyan"), terminal.verbatim(tuned)]
    return tables.side_by_side(left, right, min(terminal.width, tables.WIDEST_COMPARISON))


# --- chat


def run_chat(arguments: argparse.Namespace) -> int:
    """Open the model, then answer line by line."""
    settings = model_settings(arguments)
    sampling = _sampling_settings(arguments)
    if sys.stdin is None:
        raise InvalidInput("standard input is closed")
    model = open_model(arguments, settings)
    chat = Chat(model, sampling, quiet=arguments.quiet)
    chat.check()
    interactive = _interactive()
    if interactive and not arguments.quiet:
        chat.comment(
            f"{arguments.folder}, {model.controller.name}. Each line is a prompt; /help lists the commands.", "dim"
        )
    for line in _typed_lines() if interactive else _piped_lines(sys.stdin):
        if not chat.handle(line):
            break
    else:
        chat.end()
    return 0 if interactive else chat.status


def _interactive() -> bool:
    """Whether stdin and stdout are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _typed_lines() -> Iterator[str]:
    """Lines typed at a terminal, with a history if Python has readline."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_auto_history(True)
    while (line := _typed_line()) is not None:
        yield line


def _typed_line() -> str | None:
    """A line typed at a terminal; None at the end of the input."""
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
    """A prompt loop: its settings, its commands, and the last prompt and answer."""

    def __init__(self, model: LocalModel, sampling: dict[str, Any], *, quiet: bool) -> None:
        self._model, self._quiet = model, quiet
        self._sampling = sampling
        self._changed: dict[str, Any] = {}
        self._prompt, self._answer = "", None  # type: str, Answer | None
        self._block: list[str] | None = None
        self.status = 0
        """The exit status: 1 after an error."""

    def handle(self, line: str) -> bool:
        """Answer a prompt or run a command; False ends the loop."""
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
            self.comment("stopped; the model is restored", "dim")
        return True

    def end(self) -> None:
        """End the input, and with it a block."""
        if self._block:
            self.handle("")

    def check(self) -> None:
        """Check the settings before the next prompt."""
        from siftlm.controller import check_sampling

        sampling = self._current_sampling
        whole_number("seed", sampling["seed"], least=0)
        stop = [sampling["stop"]] if isinstance(sampling["stop"], str) else sampling["stop"]
        limit = self._model.controller.context
        check_sampling(sampling["max_new_tokens"], sampling["temperature"], sampling["top_p"], stop, limit)
        self._model.settings(**self._model_changes)

    @property
    def _current_sampling(self) -> dict[str, Any]:
        """The settings of sampling."""
        changes = {name: value for name, value in self._changed.items() if name in {*SAMPLING_NAMES, "stop"}}
        return self._sampling | changes

    @property
    def _model_changes(self) -> dict[str, Any]:
        """The changed settings of selection and tuning."""
        return {name: value for name, value in self._changed.items() if name not in {*SAMPLING_NAMES, "stop"}}

    def comment(self, text: str, style: str) -> None:
        """Print a remark between answers."""
        terminal = Terminal.of(sys.stdout)
        terminal.show(terminal.prose(text, style))

    def _collect(self, line: str) -> None:
        if line.strip():
            self._block = [*(self._block or []), line]
            return
        block, self._block = self._block, None
        if block:
            self._reply("\n".join(block))

    def _reply(self, prompt: str) -> None:
        settings = {**self._current_sampling, **self._model_changes}
        with device_errors():
            answer = continue_prompt(self._model, prompt, settings, quiet=self._quiet or not watched())
        self._prompt, self._answer = prompt, answer
        terminal = Terminal.of(sys.stdout)
        show_continuation(answer.text, terminal)
        for remark in remarks(answer):
            self.comment(f"({remark})", "yellow")
        if terminal.fixed and not self._quiet:
            self.comment(f"({_summary(answer)}; /why)", "dim")

    def _command(self, line: str) -> bool:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/help":
            self._print(CHAT_HELP)
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
            raise InvalidInput(f"unknown command {name}; /help lists them. Use /block for a prompt that begins with /")
        return True

    def _why(self, *, full: bool) -> None:
        if self._answer is None:
            raise InvalidInput("no answer yet")
        terminal = Terminal.of(sys.stdout)
        terminal.show(*why_parts(self._answer, self._prompt, terminal, full=full))

    def _base(self) -> None:
        if not self._prompt:
            raise InvalidInput("no prompt yet")
        with device_errors():
            base = self._model.controller.generate(self._prompt, **self._current_sampling)
        show_continuation(base.text, Terminal.of(sys.stdout))

    def _set(self, change: str) -> None:
        if "=" not in change:
            name = change.replace("-", "_")
            if name not in self._changed:
                raise InvalidInput(
                    f"usage: /set NAME=VALUE, or /set NAME to reset it; {change or 'nothing'} is not set"
                )
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
        # A prompt's seed is that of sampling.
        use = self._model.call_settings(None, None, "auto", **self._model_changes).use
        values = {**self._model.settings(**self._model_changes), "use": use, **self._sampling, **self._changed}
        for name, value in sorted(values.items()):
            mark = "*" if name in self._changed else " "
            self._print(f"{mark} {name} = {_setting_text(value)}")

    def _print(self, text: str) -> None:
        print(printable(text, sys.stdout), flush=True)


def _setting_text(value: Any) -> str:
    plain_types = (str, list, tuple, bool, int, float, type(None))
    return json.dumps(value) if isinstance(value, plain_types) else str(value)


def _summary(answer: Answer) -> str:
    steps, seconds = len(answer.trace.steps), sum(answer.seconds.values())
    left = answer.found.selection.uncertainty
    change = f", uncertainty {left[0]:.2f} to {left[-1]:.2f}" if len(left) > 1 and left[0] == left[0] else ""
    return f"tuned on {len(answer.found)} texts in {steps} steps{change}, {seconds:.1f} s"
