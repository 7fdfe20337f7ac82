"""The command line, declared: a `Flag` a line, the groups of flags that commands share, and how their values are read.

A command's ``add`` calls `command` and then `declare` for each group; its ``run`` asks `search_settings` or
`model_settings` for what the flags say, as Python takes it.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from siftlm.errors import Conflict, InvalidInput, Spelling

if TYPE_CHECKING:
    from siftlm.selection.kernels import FeatureKernel, KernelFunction

DEFAULT_MODEL = "siftlm-tiny"
# As `siftlm.selection.kernels.named` reads them; written here, so that --help loads nothing else.
KERNELS = ("linear", "centred", "power:P", "plus-constant:C")


@dataclass(frozen=True)
class Flag:
    """One flag, or one argument without dashes."""

    name: str
    metavar: str | None
    read: Callable[[str], Any]
    """Makes a value of the word; raises ``argparse.ArgumentTypeError`` or ``ValueError``."""
    help: str
    default: Any = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else ``add_argument`` takes."""
    setting: str = ""
    """What Python calls it, where that is another name."""

    @property
    def option(self) -> str:
        """The flag as a person types it, in its long form."""
        return self.name.split()[-1]

    @property
    def python_name(self) -> str:
        """The setting that it stands for."""
        return self.setting or self.option.lstrip("-").replace("-", "_")

    def add_to(self, group: Any) -> None:
        """Declare it."""
        settings = dict(self.more)
        if settings.get("action") != "store_true":
            settings |= {"type": self.read, "metavar": self.metavar, "default": self.default}
        # Not nargs="?": argparse would give the argument nothing when options stand between it and others.
        optional = settings.pop("optional", False)
        action = group.add_argument(*self.name.split(), help=self.help, **settings)
        if optional:
            action.required = False

    def but(self, help: str, default: Any = None) -> Flag:  # noqa: A002 - argparse calls it so
        """The same flag with another help and default."""
        return replace(self, help=help, default=self.default if default is None else default)


def switch(name: str, help: str, setting: str = "") -> Flag:  # noqa: A002
    """A flag without a value."""
    return Flag(name, None, str, help, more={"action": "store_true"}, setting=setting)


def repeated(name: str, metavar: str, read: Callable[[str], Any], help: str, **more: Any) -> Flag:  # noqa: A002
    """A flag that may be given several times; its value is a list."""
    return Flag(name, metavar, read, help, None if "required" in more else [], {"action": "append", **more})


def choice(name: str, choices: Sequence[str], help: str, default: str | None = None) -> Flag:  # noqa: A002
    """A flag whose value is one of these."""
    return Flag(name, None, str, help, default, {"choices": choices})


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,  # noqa: A002
    epilog: str | None = None,
    usage: str | None = None,
) -> argparse.ArgumentParser:
    """Declare a command; ``help`` is its line in the list of all, and the first sentence of its own help."""
    description = f"{help[0].upper()}{help[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, usage=usage
    )
    parser.set_defaults(run=run)
    return parser


def declare(parser: argparse.ArgumentParser, *parts: Flag | str | tuple[Flag, ...]) -> None:
    """Declare flags as the help lists them: a text is the title of those that follow, a tuple is a choice of one."""
    group: Any = parser
    declared: list[Flag] = list(parser.get_default("flags") or ())
    for part in parts:
        if isinstance(part, str):
            group = parser.add_argument_group(part)
        elif isinstance(part, Flag):
            part.add_to(group)
            declared.append(part)
        else:
            one = group.add_mutually_exclusive_group()
            for flag in part:
                flag.add_to(one)
            declared.extend(part)
    parser.set_defaults(flags=declared)


# Values of Python that the command line has a word for.
_WORDS = {"True": "yes", "False": "no", "None": "all"}


def _word(value: str) -> str:
    """A value in Python's spelling as a shell takes it."""
    if value in _WORDS:
        return _WORDS[value]
    return shlex.quote(ast.literal_eval(value)) if value[:1] in {"'", '"'} else value


def spelling(flags: Sequence[Flag]) -> Spelling:
    """How the settings in an error's message are written on a command line with these flags.

    >>> spell = spelling([REPLACEMENT, SETTING, switch("--no-full-text", "", setting="full_text")])
    >>> spell("replacement", "True"), spell("full_text", "False"), spell("clip", "0.5"), spell("replacement", None)
    ('--replacement yes', '--no-full-text', '--set clip=0.5', '--replacement')
    """
    known = {flag.python_name: flag for flag in flags}
    tuning = TUNING_NAMES if SETTING in flags else ()

    def write(name: str, value: str | None) -> str:
        flag = known.get(name)
        if flag is None:
            plain = name if value is None else f"{name}={_word(value)}"
            return f"--set {plain}" if name in tuning else plain
        if value is None or flag.more.get("action") == "store_true":
            return flag.option
        return f"{flag.option} {_word(value)}"

    return write


# --- values


def option(word: str) -> tuple[str, Any]:
    """``balance=0.3``: a name and a JSON value, or a word where it is none.

    >>> option("balance=0.3"), option("start=first")
    (('balance', 0.3), ('start', 'first'))
    """
    name, equals, value = word.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{word!r} is not name=value")
    try:
        return name, json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return name, value


def checked(read: Callable[[str], Any], holds: Callable[[Any], bool], kind: str) -> Callable[[str], Any]:
    """Reads a value for which ``holds`` is true; ``kind`` names what any other word is: ``no number above 0``."""

    def value_of(word: str) -> Any:
        try:
            value = read(word)
            if holds(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{word!r:.40} is {kind}")

    return value_of


def digits(word: str) -> int:
    """A whole number in ASCII digits."""
    if not re.fullmatch(r"-?[0-9]{1,12}", word):  # int() would take 1_000 and digits of other scripts as well
        raise ValueError(word)
    return int(word)


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A whole number of this range."""
    limits = f"from {least} on" if most == math.inf else f"from {least} to {most}"
    return checked(digits, lambda value: least <= value <= most, f"no whole number {limits}")


above_zero = checked(float, lambda value: 0 < value < math.inf, "no number above 0")
from_zero = checked(float, lambda value: 0 <= value < math.inf, "no number from 0 on")
number_or_all = checked(
    lambda word: word if word == "all" else digits(word),
    lambda value: value == "all" or value > 0,
    "neither a whole number from 1 on nor all",
)
replacement = checked(
    lambda word: word == "yes" if word in ("yes", "no") else digits(word),
    lambda value: value is False or value > 0,
    "neither yes, no nor a whole number from 1 on",
)


def share(word: str) -> float:
    """Above 0 and up to 1."""
    try:
        value = float(word)
    except ValueError:
        # What follows a flag whose value may be left out is taken for that value.
        raise argparse.ArgumentTypeError(f"{word!r:.60} is no number; put the flag behind the texts") from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{word} is not above 0 and up to 1")
    return value


def comma_list(read: Callable[[str], Any], kind: str) -> Callable[[str], list[Any]]:
    """``a,b,c``: each read by itself; ``kind`` names them in an error."""

    def read_all(words: str) -> list[Any]:
        try:
            return [read(word.strip()) for word in words.split(",") if word.strip()]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{words!r} are no {kind} with commas between them") from None

    return read_all


def step_counts(words: str) -> tuple[int, ...]:
    """``1,2,5``: each once, in their order."""
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{words!r} is no list of whole numbers such as 1,2,5,10")
    return tuple(sorted({int(part) for part in parts}))


def kernel(name: str | None) -> KernelFunction | FeatureKernel | None:
    """``power:4``, ``centred``, ``plus-constant:1``, ``linear``.

    >>> kernel("power:4")
    Power(exponent=4, base=Linear())
    """
    from siftlm import kernels

    return None if name is None else kernels.named(name)


def unescaped(text: str) -> str:
    r"""What ``\n`` and ``\t`` in a word of a shell stand for."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


# --- flags that several commands have

FOLDER = Flag("folder", "FOLDER", str, "the memory")
MEMORY = Flag("folder", "MEMORY", str, "the memory, as siftlm index made it")
PROMPT = Flag("prompt", "[PROMPT]", str, "a text in quotes; - reads it from stdin", more={"optional": True})
PROMPT_FILE = Flag("--prompt-file", "FILE", str, "read the prompt from a file")
JSON = switch("--json", "one JSON object on one line")
QUIET = switch("--quiet", "print nothing but what went wrong")
OUT = Flag("--out", "FILE", str, "write there instead of printing, whole or not at all")
WAIT = Flag("--wait", "SECONDS", float, "for another writer (default: 0)", 0.0)
EMBEDDER = Flag("--embedder", "NAME", str, "where to find the memory's embedder, if it has moved")
SEED = Flag("--seed", "S", int, "of methods that involve chance (default: 0)")

METHOD = Flag("--method", "M", str, "see siftlm methods (default: sift)")
NOISE = Flag("--noise", "λ", float, "small asks for variety (default: 1)")
KERNEL = Flag("--kernel", "K", str, f"what similar means: {', '.join(KERNELS)}")
REPLACEMENT = Flag(
    "--replacement", "N|yes|no", replacement, "may a pick be repeated: no (default), yes, or up to N times in all"
)
OPTION = repeated("--option", "NAME=VALUE", option, "a setting of the method's own, such as balance=0.3; repeatable")
K = Flag("--k", "K|all", number_or_all, "choose among the K nearest passages (default: 200), or among all")
CANDIDATES = choice("--candidates", ("vectors", "words", "both"), "how candidates are found (default: vectors)")
WHERE = Flag("--where", "EXPR", str, "only such documents: 'source = \"wiki\" and year >= 2000'")
WITHOUT_COPIES = Flag(
    "--without-copies",
    "S",
    share,
    "leave out the prompt itself and what shares 80 %% (or S) of its wording",
    more={"nargs": "?", "const": True},
)
PER_DOCUMENT = Flag("--per-document", "N", int, "at most N passages of one document")
STOPPING = (
    Flag("--adaptive", "A", float, "keep pick n only while σₙ ≤ 1 / (A n)"),
    Flag("--until", "F", float, "stop at this fraction of the first uncertainty"),
    Flag("--min-gain", "F", float, "stop when a pick takes less than this fraction away"),
)
SAMPLING = (
    Flag("--max-new-tokens", "N", int, "at most N tokens (default: 100)", 100),
    Flag("--temperature", "T", float, "0 (default) takes the likeliest token; 1 samples the model as it is", 0.0),
    Flag("--top-p", "P", float, "draw among the likeliest that together have this probability (default: 1)", 1.0),
    repeated("--stop", "TEXT", str, "stop before this text; repeatable"),
    Flag("--seed", "S", int, "of the random draws (default: 0)", 0),
)
SETTING = repeated("--set", "NAME=VALUE", option, "any setting of tuning, such as clip=1; repeatable", dest="sets")
MODEL = (
    Flag("--model", "M", str, f"a folder, a name on the Hugging Face hub, or {DEFAULT_MODEL} (default)", DEFAULT_MODEL),
    choice(
        "--engine", ("auto", "full", "lora"), "tune all weights, or adapters; auto (default): full below 1e9 parameters"
    ),
    Flag("--rank", "R", int, "of --engine lora (default: 16)"),
    Flag("--alpha", "A", float, "of --engine lora (default: twice the rank)"),
    Flag("--targets", "NAME,…", str, "layers that get adapters (default: all linear ones)"),
    Flag("--device", "D", str, "cpu, cuda, cuda:1 … (default: CUDA where there is one)"),
    Flag("--dtype", "T", str, "of the weights: float32 (default), bfloat16 or float16"),
    Flag(
        "--context-tokens",
        "N",
        int,
        "the longest context in tokens (default: what the model was made for)",
        setting="context",
    ),
    EMBEDDER,
)
LEARNED_FROM = (
    Flag("-n", "N", int, "number of texts (default: 50)"),
    METHOD.but("see siftlm methods (default: sift); hullft: select and learn as HullFT does"),
    *(NOISE, K, KERNEL, CANDIDATES, WHERE, WITHOUT_COPIES, PER_DOCUMENT, REPLACEMENT, *STOPPING, OPTION),
    choice("--features", ("gradients",), "select by what the model would learn from each, not by the memory's vectors"),
)
TUNING = (
    choice("--use", ("weights", "context", "both"), "tune on the texts (default), put them before the prompt, or both"),
    Flag("--rate", "R", float, "learning rate (default: by the model's size)"),
    choice("--order", ("picked", "reversed"), "most informative first (default), or last"),
    Flag("--passes", "N", int, "number of times to go over the texts (default: 1)"),
    Flag("--decide", "F", float, "tune only where the texts take at least this share of the uncertainty away"),
    switch("--watch", "stop when the prompt itself becomes less likely, and keep the best state"),
    Flag("--seconds", "S", float, "stop tuning after S seconds"),
    Flag("--tokens", "N", int, "stop tuning after N tokens"),
    SETTING,
)
LEARNING = ("the model", *MODEL, "what to learn from", *LEARNED_FROM, "how to learn", *TUNING)
# The fields of `siftlm.controller.Tuning`.
TUNING_NAMES = (
    *("rate", "betas", "epsilon", "decay", "clip", "dropout", "order", "passes", "windows", "window", "completion"),
    *("repeats", "reuse", "seconds", "tokens", "watch_every", "patience", "explode", "precision", "checkpointing"),
    *("compile", "seed"),
)
TUNING_HELP = f"""\
--set takes every setting of tuning:
{textwrap.fill(", ".join(TUNING_NAMES), 110)}.
Anything left out comes from the memory's calibration for this model (siftlm info MEMORY), else from published values.
"""


# --- what the flags say, as Python takes it

# Settings of a search, and of a local model, under their own names.
_STOPPING_NAMES = ("adaptive", "until", "min_gain")
SEARCH_NAMES = (
    *("method", "noise", "candidates", "where", "without_copies", "per_document", "replacement"),
    *_STOPPING_NAMES,
)
SAMPLING_NAMES = ("max_new_tokens", "temperature", "top_p", "seed")
_LEARNING_NAMES = ("n", "use", "decide", "features")
_TUNING_NAMES = ("rate", "order", "passes", "seconds", "tokens")
# Settings of a selection method, which mean nothing to another method that it is compared with.
_SELECTING_NAMES = frozenset({"n", "method", "decide", "features", "replacement", *_STOPPING_NAMES})


def values_of(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Those of the named arguments that were given."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def add_options(settings: dict[str, Any], arguments: argparse.Namespace, reserved: Sequence[str]) -> None:
    """Put the settings of ``--option`` beside the others; those that have a flag of their own are refused."""
    for name, value in arguments.option:
        if name in settings or name in reserved:
            raise InvalidInput(f"--option {name}: that is no setting of a method; see --help")
        settings[name] = value


def plain(name: str, value: Any) -> Any:
    """A setting as Python takes it: ``power:4`` becomes a kernel, and ``k=all`` no limit."""
    if name == "kernel":
        return kernel(value)
    if name == "k" and value == "all":
        return None
    return value


def search_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flags of `siftlm search` and of a local model that say how to search."""
    found = values_of(arguments, SEARCH_NAMES)
    return {**found, **{name: plain(name, value) for name, value in values_of(arguments, ("k", "kernel")).items()}}


def model_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flags of score, generate and chat, as a `LocalModel` takes them."""
    from siftlm.controller import Tuning, setting_names

    found = {**values_of(arguments, (*_LEARNING_NAMES, *_TUNING_NAMES)), **search_settings(arguments)}
    add_options(found, arguments, (*_LEARNING_NAMES, *SEARCH_NAMES, "k", "kernel", *setting_names()))
    for name, value in arguments.sets:
        if name in _TUNING_NAMES and getattr(arguments, name) is not None:
            raise Conflict(f"--{name} and --set {name}=… say the same thing: leave one out")
        found[name] = value
    # Errors come before a model is loaded.
    tuning = {name for name, _ in arguments.sets} | set(setting_names())
    Tuning().with_({name: value for name, value in found.items() if name in tuning})
    return found


def selection_settings(arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that belong to the way of selecting."""
    names = _SELECTING_NAMES | {name for name, _ in arguments.option}
    return {name: value for name, value in settings.items() if name in names}


def controller_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flags about the model, as a `Controller` takes them."""
    return {
        "engine": arguments.engine or "auto",
        "rank": arguments.rank,
        "alpha": arguments.alpha,
        "targets": None if arguments.targets is None else arguments.targets.split(","),
        "device": arguments.device,
        "dtype": arguments.dtype,
        "context": arguments.context_tokens,
    }


def sampling_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """How to continue a prompt, as Python takes it."""
    return {**values_of(arguments, SAMPLING_NAMES), "stop": [unescaped(text) for text in arguments.stop]}


def one_text(arguments: argparse.Namespace, what: str, *names: str) -> str:
    """The name of the one argument that was given; an error if it was none, or two."""
    found = [name for name in names if getattr(arguments, name) is not None]
    flags = ["--" + name.replace("_", "-") for name in names if name != what]
    if not found:
        ways = ", ".join([f"there is no {what}: give one in quotes", "- for stdin", *flags[:-1]])
        raise InvalidInput(f"{ways} or {flags[-1]}")
    if len(found) > 1:
        one, other = (f"the {what}" if name == what else "--" + name.replace("_", "-") for name in found[:2])
        raise Conflict(f"{one} and {other} exclude each other")
    return found[0]


def read_text(word: str | None, file: str | None) -> str:
    """The text of an argument: of a file, of standard input where it is ``-``, or the word itself."""
    from siftlm.cli import files

    if file is not None:
        return files.text(file)
    return files.text_of(sys.stdin, "standard input") if word == "-" else word or ""
