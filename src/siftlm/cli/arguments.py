"""Declaration of the command line: `Flag`, the flags that several commands share, and how their values are parsed.

A command's ``add`` calls `command` and `declare`; its ``run`` gets keyword arguments for the library from
`search_settings` or `model_settings`.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from siftlm.errors import Conflict, InvalidInput, Spelling

if TYPE_CHECKING:
    from siftlm.selection.kernels import FeatureKernel, KernelFunction

DEFAULT_MODEL = "siftlm-tiny"
# The syntax of `siftlm.selection.kernels.named`; repeated here, so that --help imports nothing.
KERNELS = ("linear", "centred", "power:P", "rbf:G", "plus-constant:C")


@dataclass(frozen=True)
class Flag:
    """One flag, or one positional argument."""

    name: str
    metavar: str | None
    read: Callable[[str], Any]
    """Parses the word; raises ``argparse.ArgumentTypeError`` or ``ValueError``."""
    help: str
    default: Any = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``add_argument``."""
    setting: str = ""
    """Its name in Python, where that differs."""

    @property
    def option(self) -> str:
        """The flag in its long form."""
        return self.name.split()[-1]

    @property
    def python_name(self) -> str:
        """The name of its setting in Python."""
        return self.setting or self.option.lstrip("-").replace("-", "_")

    def add_to(self, group: Any) -> None:
        """Declare the flag in a parser or a group."""
        settings = dict(self.more)
        if settings.get("action") != "store_true":
            settings |= {"type": _READERS.get(self.read, self.read), "metavar": self.metavar, "default": self.default}
        # Not nargs="?": argparse leaves such an argument empty when options stand between it and others.
        optional = settings.pop("optional", False)
        action = group.add_argument(*self.name.split(), help=self.help, **settings)
        if optional:
            action.required = False

    def described(self, help: str, default: Any = None) -> Flag:  # noqa: A002 - argparse calls it so
        """The same flag with another help text and default."""
        return replace(self, help=help, default=self.default if default is None else default)


def switch(name: str, help: str, setting: str = "") -> Flag:  # noqa: A002
    """A flag without a value."""
    return Flag(name, None, str, help, more={"action": "store_true"}, setting=setting)


def repeated(name: str, metavar: str, read: Callable[[str], Any], help: str, **more: Any) -> Flag:  # noqa: A002
    """A repeatable flag; its value is a list."""
    return Flag(name, metavar, read, help, None if "required" in more else [], {"action": "append", **more})


def choice(name: str, choices: Sequence[str], help: str, default: str | None = None) -> Flag:  # noqa: A002
    """A flag whose value is one of ``choices``."""
    return Flag(name, None, str, help, default, {"choices": choices})


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,  # noqa: A002
    epilog: str | None = None,
    usage: str | None = None,
) -> argparse.ArgumentParser:
    """Declare a command; ``help`` is its line in the list of commands, and the first sentence of its own help."""
    description = f"{help[0].upper()}{help[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, usage=usage
    )
    parser.set_defaults(run=run)
    return parser


def declare(parser: argparse.ArgumentParser, *parts: Flag | str | tuple[Flag, ...]) -> None:
    """Declare flags in the order of the help: a string is a group's title, a tuple holds exclusive flags."""
    group: Any = parser
    declared: list[Flag] = list(parser.get_default("flags") or ())
    for part in parts:
        if isinstance(part, str):
            group = parser.add_argument_group(part)
        elif isinstance(part, Flag):
            part.add_to(group)
            declared.append(part)
        else:
            exclusive = group.add_mutually_exclusive_group()
            for flag in part:
                flag.add_to(exclusive)
            declared.extend(part)
    parser.set_defaults(flags=declared)


# Settings of a search that have no flag in some commands; --option takes them there.
_OPTION_NAMES = ("residual", "opposites", "exact", "normalize", "at_least", "certify", "max_norm", "probabilities")
# Settings of embedders, for --embedder-option.
_EMBEDDER_NAMES = (
    *("width", "label", "layer", "layers", "seed", "max_tokens", "query_prefix", "passage_prefix", "precision"),
    *("device", "batch_tokens", "words", "words_width", "pooling"),
)
# Python values and their words on the command line.
_WORDS = {"True": "yes", "False": "no", "None": "all"}
_JSON = {"True": "true", "False": "false", "None": "null"}  # as --option and --set read them


def _word(value: str) -> str:
    """A Python literal as a word for a shell."""
    if value in _WORDS:
        return _WORDS[value]
    return shlex.quote(ast.literal_eval(value)) if value[:1] in {"'", '"'} else value


def spelling(flags: Sequence[Flag], options: Collection[str] = (), sets: Collection[str] = ()) -> Spelling:
    """Spells the settings in an error message as flags, for a command with these flags and names in ``--option`` and
    ``--set``.

    >>> spell = spelling([REPLACEMENT, SETTING, switch("--no-full-text", "", setting="full_text")])
    >>> spell("replacement", "True"), spell("full_text", "False"), spell("clip", "0.5"), spell("replacement", None)
    ('--replacement yes', '--no-full-text', '--set clip=0.5', '--replacement')
    >>> spelling([OPTION])("residual", "True"), spelling([OPTION], ["balance"])("balance", None)
    ('--option residual=true', '--option balance')
    """
    known = {flag.python_name: flag for flag in flags}
    takers = {
        "--option": (*_OPTION_NAMES, *options) if OPTION in flags else (),
        "--set": () if "set" not in known else (*sets, *(TUNING_NAMES if OPTION in flags else _SERVER_NAMES)),
        "--embedder-option": _EMBEDDER_NAMES if "embedder_option" in known else (),
    }

    def write(name: str, value: str | None) -> str:
        flag = None if name in sets else known.get(name)
        if flag is None:
            taker = next((taker for taker, names in takers.items() if name in names), None)
            if taker is None:
                return name if value is None else f"{name}={value}"
            return f"{taker} {name}" + ("" if value is None else f"={_JSON.get(value) or _word(value)}")
        if value is None or flag.more.get("action") == "store_true":
            return flag.option
        return f"{flag.option} {_word(value)}"

    return write


# --- parsers of values


def option(word: str) -> tuple[str, Any]:
    """``balance=0.3``: a name and a value, in the spelling of JSON or of Python, or else a plain string.

    >>> option("balance=0.3"), option("start=first"), option("compile=True")
    (('balance', 0.3), ('start', 'first'), ('compile', True))
    """
    name, equals, value = word.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {word!r}")
    try:
        return name, json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return name, {"True": True, "False": False, "None": None}.get(value, value)


def checked(read: Callable[[str], Any], is_valid: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """A parser with a condition; the error of any other word names what was ``expected``."""

    def value_of(word: str) -> Any:
        try:
            value = read(word)
            if is_valid(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {expected}, got {word!r:.40}")

    return value_of


def digits(word: str) -> int:
    """A whole number in ASCII digits."""
    if not re.fullmatch(r"-?[0-9]{1,12}", word):  # int() also accepts 1_000 and digits of other scripts
        raise ValueError(word)
    return int(word)


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A whole number of this range."""
    limits = f"≥ {least}" if most == math.inf else f"from {least} to {most}"
    return checked(digits, lambda value: least <= value <= most, f"a whole number {limits}")


# In place of int and float, whose errors argparse words itself: "invalid int value".
_READERS: dict[Callable[[str], Any], Callable[[str], Any]] = {
    int: checked(int, lambda _: True, "a whole number"),
    float: checked(float, lambda _: True, "a number"),
}
above_zero = checked(float, lambda value: 0 < value < math.inf, "a number > 0")
from_zero = checked(float, lambda value: 0 <= value < math.inf, "a number ≥ 0")
number_or_all = checked(
    lambda word: word if word == "all" else digits(word),
    lambda value: value == "all" or value > 0,
    "a whole number ≥ 1 or all",
)
replacement = checked(
    lambda word: word == "yes" if word in ("yes", "no") else digits(word),
    lambda value: value is False or value > 0,
    "yes, no or a whole number ≥ 1",
)


def share(word: str) -> float:
    """A number above 0 and up to 1."""
    try:
        value = float(word)
    except ValueError:
        # argparse takes the word after a flag with an optional value for that value.
        raise argparse.ArgumentTypeError(f"expected a number, got {word!r:.60}; put the flag after the text") from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number > 0 and ≤ 1, got {word}")
    return value


def comma_list(read: Callable[[str], Any], items: str) -> Callable[[str], list[Any]]:
    """A parser of ``a,b,c``; an error names the ``items`` that were expected."""

    def read_all(words: str) -> list[Any]:
        try:
            return [read(word.strip()) for word in words.split(",") if word.strip()]
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {items} separated by commas, got {words!r}") from None

    return read_all


def step_counts(words: str) -> tuple[int, ...]:
    """``1,2,5``: whole numbers, sorted and without duplicates."""
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 1,2,5,10, got {words!r}")
    return tuple(sorted({int(part) for part in parts}))


def kernel(name: str | None) -> KernelFunction | FeatureKernel | None:
    """The kernel of this name: ``power:4``, ``rbf:2``, ``centred``, ``plus-constant:1``, ``linear``.

    >>> kernel("power:4")
    Power(exponent=4, base=Linear())
    """
    from siftlm import kernels

    return None if name is None else kernels.named(name)


def unescaped(text: str) -> str:
    r"""The text with ``\n`` and ``\t`` replaced by the characters that they stand for."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


# --- flags that several commands share

FOLDER = Flag("folder", "FOLDER", str, "the folder of a memory")
MEMORY = Flag("folder", "MEMORY", str, "the folder of a memory, built by siftlm index")
PROMPT = Flag("prompt", "[PROMPT]", str, "a text in quotes; - reads stdin", more={"optional": True})
PROMPT_FILE = Flag("--prompt-file", "FILE", str, "read the prompt from a file")
JSON = switch("--json", "print one JSON object on one line")
QUIET = switch("--quiet", "print errors only")
OUT = Flag("--out", "FILE", str, "write to a file instead of stdout (replaced atomically)")
WAIT = Flag("--wait", "SECONDS", from_zero, "wait for another writer to finish (default: 0)", 0.0)
EMBEDDER = Flag("--embedder", "NAME", str, "path or name of the memory's embedder, if it has moved")
SEED = Flag("--seed", "S", int, "random seed of methods that need one (default: 0)")

METHOD = Flag("--method", "M", str, "selection method, one of siftlm methods (default: sift)")
NOISE = Flag("--noise", "λ", float, "observation noise of SIFT: small values favour diversity (default: 1)")
KERNEL = Flag("--kernel", "K", str, f"similarity of two vectors: {', '.join(KERNELS)}")
REPLACEMENT = Flag(
    "--replacement",
    "N|yes|no",
    replacement,
    "allow repeated picks: no (default), yes, or up to N times in all",
)
OPTION = repeated("--option", "NAME=VALUE", option, "a setting of the method, such as balance=0.3; repeatable")
K = Flag("--k", "K|all", number_or_all, "select from the K nearest passages (default: 200), or from all")
CANDIDATES = choice("--candidates", ("vectors", "words", "both"), "how to retrieve candidates (default: vectors)")
WHERE = Flag("--where", "EXPR", str, "only documents that match, such as 'source = \"wiki\" and year >= 2000'")
WITHOUT_COPIES = Flag(
    "--without-copies",
    "S",
    share,
    "leave out passages that share 80 %% (or a fraction S) of their wording with the prompt",
    more={"nargs": "?", "const": True},
)
PER_DOCUMENT = Flag("--per-document", "N", int, "at most N passages from one document")
STOPPING = (
    Flag("--adaptive", "A", float, "keep pick n only while σₙ ≤ 1 / (A n)"),
    Flag("--until", "F", float, "stop at this fraction of the initial uncertainty"),
    Flag("--min-gain", "F", float, "stop when a pick reduces the uncertainty by less than this fraction"),
    Flag("--min-growth", "F", float, "stop when a pick adds less than this fraction to what those before it tell"),
)
SAMPLING = (
    Flag("--max-new-tokens", "N", int, "generate at most N tokens (default: 100)", 100),
    Flag("--temperature", "T", float, "0 (default) decodes greedily; 1 samples from the model's distribution", 0.0),
    Flag(
        "--top-p",
        "P",
        float,
        "nucleus sampling from tokens with this total probability (default: 1)",
        1.0,
    ),
    repeated("--stop", "TEXT", str, "stop before this string; repeatable"),
    Flag("--seed", "S", int, "random seed of sampling (default: 0)", 0),
)
SETTING = repeated(
    "--set", "NAME=VALUE", option, "any setting of tuning (see below), such as clip=1; repeatable", dest="sets"
)
MODEL = (
    Flag("--model", "M", str, f"a folder, a name on the Hugging Face Hub, or {DEFAULT_MODEL} (default)", DEFAULT_MODEL),
    choice(
        "--engine",
        ("auto", "full", "lora"),
        "all weights, or LoRA adapters; auto (default): full below 1e9 parameters",
    ),
    Flag("--rank", "R", int, "rank of the adapters (default: 16)"),
    Flag("--alpha", "A", float, "scale of the adapters (default: twice the rank)"),
    Flag("--targets", "NAME,…", str, "layers that get adapters (default: all linear layers)"),
    Flag("--device", "D", str, "cpu, cuda, cuda:1 … (default: cuda if available)"),
    Flag("--dtype", "T", str, "type of the weights: float32 (default), bfloat16 or float16"),
    Flag(
        "--context-tokens",
        "N",
        int,
        "context length in tokens (default: the model's maximum)",
        setting="context",
    ),
    EMBEDDER,
)
SELECTION = (
    Flag("-n", "N", int, "number of texts to select (default: 50)"),
    METHOD.described("one of siftlm methods (default: auto; to be read: sift); hullft: select and tune as HullFT does"),
    *(NOISE, K, KERNEL, CANDIDATES, WHERE, WITHOUT_COPIES, PER_DOCUMENT, REPLACEMENT, *STOPPING, OPTION),
    choice("--features", ("gradients",), "compare texts by the model's gradients instead of the memory's vectors"),
)
USES = "tune on the texts (score), use them in context, both, or auto (generate, chat): what held-out passages favour"
TUNING = (
    choice("--use", ("weights", "context", "both", "auto"), USES),
    Flag("--rate", "R", float, "learning rate (default: by the model's size)"),
    choice("--order", ("picked", "reversed"), "most informative text first (default), or last"),
    Flag("--passes", "N", int, "number of passes over the texts (default: 1)"),
    Flag("--decide", "F", float, "tune only if the texts reduce the uncertainty by at least this fraction"),
    Flag("--seconds", "S", float, "stop tuning after S seconds"),
    Flag("--tokens", "N", int, "stop tuning after N tokens"),
    SETTING,
)
LOCAL_MODEL = ("model", *MODEL, "selection", *SELECTION, "tuning", *TUNING)
# The fields of `siftlm.controller.Tuning`.
TUNING_NAMES = (
    *("rate", "betas", "epsilon", "decay", "clip", "dropout", "order", "passes", "windows", "window", "completion"),
    *("repeats", "reuse", "seconds", "tokens", "watch_every", "patience", "explode", "precision", "checkpointing"),
    *("compile", "seed"),
)
TUNING_HELP = f"""\

--set accepts every setting of tuning: {", ".join(TUNING_NAMES)}.

Defaults come from the memory's calibration for this model (siftlm info MEMORY), else from published values.
"""


# --- keyword arguments for the library

# Settings of a search and of a local model, under their Python names.
STOPPING_NAMES = ("adaptive", "until", "min_gain", "min_growth")
SEARCH_NAMES = (
    *("method", "noise", "candidates", "where", "without_copies", "per_document", "replacement"),
    *STOPPING_NAMES,
)
# A server has no --option, and --set takes the settings of a search too.
_SERVER_NAMES = (*TUNING_NAMES, *SEARCH_NAMES, *_OPTION_NAMES, "k", "kernel", "use", "decide", "features")


def values_of(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The named arguments that are set."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def add_options(settings: dict[str, Any], arguments: argparse.Namespace, reserved: Sequence[str]) -> None:
    """Add the settings of ``--option``; a reserved name, such as one with its own flag, is an error."""
    own = {flag.python_name: flag.option for flag in arguments.flags}
    _refuse_repeated("--option", arguments.option)
    for name, value in arguments.option:
        if name in settings or name in reserved:
            advice = f"use {own[name]}" if name in own else "see siftlm methods"
            raise InvalidInput(f"--option {name}: not a setting of a selection method; {advice}")
        settings[name] = value


def _refuse_repeated(option: str, given: Sequence[tuple[str, Any]]) -> None:
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise Conflict(f"{option} {name} is given twice")


def add_sets(settings: dict[str, Any], arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Add the settings of ``--set``; one that is given twice, or by its own flag among ``names`` too, is an error."""
    own = {flag.python_name: flag.option for flag in arguments.flags}
    _refuse_repeated("--set", arguments.sets)
    for name, value in arguments.sets:
        if name in names and name in settings:
            raise Conflict(f"{own[name]} and --set {name}=… are the same setting; use one of them")
        settings[name] = value


def plain(name: str, value: Any) -> Any:
    """A setting's Python value: ``power:4`` becomes a kernel, and ``k=all`` None."""
    if name == "kernel":
        return kernel(value)
    if name == "k" and value == "all":
        return None
    return value


def search_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of a search, as keyword arguments of `Memory.search`."""
    settings = values_of(arguments, SEARCH_NAMES)
    return settings | {name: plain(name, value) for name, value in values_of(arguments, ("k", "kernel")).items()}
