"""What ``score``, ``generate`` and ``chat`` share: the flags that say which model learns what, and how."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from siftlm.cli import settings
from siftlm.cli.drawing import Terminal, clip, one_line, pad, printable

if TYPE_CHECKING:
    from siftlm.local import LocalModel

MODEL = "siftlm-tiny"
# Flags that are settings of a local model under their own names, when they are given.
SEARCH = (
    "noise",
    "candidates",
    "where",
    "without_copies",
    "per_document",
    "replacement",
    "adaptive",
    "until",
    "min_gain",
)
OWN = ("n", "method", "use", "decide", "features")
TUNING = ("rate", "order", "passes", "seconds", "tokens")
# What belongs to the way of selecting and means nothing to another one that is put beside it.
SELECTING = frozenset({"n", "method", "decide", "features", "replacement", "adaptive", "until", "min_gain"})
SETTINGS = """\
--set takes every setting of tuning: rate, betas, epsilon, decay, clip, dropout, order, passes, windows, window,
completion, repeats, reuse, seconds, tokens, watch_every, patience, explode, precision, checkpointing, compile, seed.
What is not given comes from the memory's calibration for this model (siftlm info MEMORY), else from published values.
"""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that say which model."""
    who = parser.add_argument_group("the model")
    who.add_argument(
        "--model",
        default=MODEL,
        metavar="M",
        help=f"a folder, a name on the Hugging Face hub, or {MODEL} (the default)",
    )
    who.add_argument(
        "--engine",
        choices=("auto", "full", "lora"),
        help="tune all weights, or adapters; auto (default): full below a billion parameters",
    )
    who.add_argument("--rank", type=int, metavar="R", help="of --engine lora (default: 16)")
    who.add_argument("--alpha", type=float, metavar="A", help="of --engine lora (default: twice the rank)")
    who.add_argument("--targets", metavar="NAME,…", help="layers that get adapters (default: all linear ones)")
    who.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 … (default: CUDA where there is one)")
    who.add_argument("--dtype", metavar="T", help="of the weights: float32 (default), bfloat16 or float16")
    who.add_argument(
        "--context-tokens",
        type=int,
        metavar="N",
        help="read at most so many tokens at once (default: what the model was made for)",
    )
    who.add_argument("--embedder", metavar="NAME", help="where the memory's own has moved to, such as a folder")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_model(parser)
    what = parser.add_argument_group("what to learn from")
    what.add_argument("-n", type=int, metavar="N", help="so many texts (default: 50)")
    what.add_argument(
        "--method",
        metavar="M",
        help="how to select them; see siftlm methods (default: sift); hullft: select and learn as HullFT does",
    )
    what.add_argument("--noise", type=float, metavar="λ", help="small asks for variety (default: 1)")
    what.add_argument(
        "--k",
        type=settings.number_or_all,
        metavar="K|all",
        help="choose among so many nearest passages (default: 200), or among all",
    )
    what.add_argument("--kernel", metavar="K", help=f"what similar means: {', '.join(settings.KERNELS)}")
    what.add_argument("--candidates", choices=("vectors", "words", "both"), help="found by these (default: vectors)")
    what.add_argument("--where", metavar="EXPR", help="only from such documents: 'source = \"wiki\"'")
    what.add_argument(
        "--without-copies",
        nargs="?",
        const=True,
        type=settings.share,
        metavar="S",
        help="not from what shares 80 %% (or S) of the prompt's wording",
    )
    what.add_argument("--per-document", type=int, metavar="N", help="at most so many passages of one document")
    what.add_argument(
        "--replacement",
        type=settings.replacement,
        metavar="N|yes|no",
        help="may a text be learned again: never (default), always, or N times in all",
    )
    what.add_argument("--adaptive", type=float, metavar="A", help="keep pick n only while σₙ ≤ 1 / (A n)")
    what.add_argument("--until", type=float, metavar="F", help="stop at this fraction of the first uncertainty")
    what.add_argument("--min-gain", type=float, metavar="F", help="stop when a pick takes less than this away")
    what.add_argument(
        "--option",
        action="append",
        default=[],
        type=settings.option,
        metavar="NAME=VALUE",
        help="a setting of the method's own; may be repeated",
    )

    what.add_argument(
        "--features",
        choices=("gradients",),
        help="select by what the model would learn from each, not by the memory's vectors",
    )

    how = parser.add_argument_group("how to learn")
    how.add_argument(
        "--use",
        choices=("weights", "context", "both"),
        help="tune on the texts (default), put them before the prompt, or both",
    )
    how.add_argument("--rate", type=float, metavar="R", help="learning rate (default: by the model's size)")
    how.add_argument("--order", choices=("picked", "reversed"), help="most informative first (default), or last")
    how.add_argument("--passes", type=int, metavar="N", help="go over the texts so often (default: once)")
    how.add_argument(
        "--decide",
        type=float,
        metavar="F",
        help="tune only where the texts take at least this share of the uncertainty away",
    )
    how.add_argument(
        "--watch", action="store_true", help="end when the prompt itself is foreseen worse, and take the best state"
    )
    how.add_argument("--seconds", type=float, metavar="S", help="no step after so many seconds")
    how.add_argument("--tokens", type=int, metavar="N", help="no step beyond so many tokens")
    how.add_argument(
        "--set",
        action="append",
        default=[],
        type=settings.option,
        metavar="NAME=VALUE",
        dest="sets",
        help="any setting of tuning, such as clip=1; may be repeated",
    )


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as a `LocalModel` takes it."""
    from siftlm.controller import Tuning, setting_names
    from siftlm.errors import Conflict, InvalidInput

    found = {name: value for name in (*OWN, *SEARCH, *TUNING) if (value := getattr(arguments, name)) is not None}
    found.update({name: plain(name, value) for name in ("k", "kernel") if (value := getattr(arguments, name))})
    for name, value in arguments.option:
        if name in found or name in (*OWN, *SEARCH, "k", "kernel", *setting_names()):
            raise InvalidInput(f"--option {name}: that is no setting of a method; see --help")
        found[name] = value
    for name, value in arguments.sets:
        if name in TUNING and getattr(arguments, name) is not None:
            raise Conflict(f"--{name} and --set {name}=… say the same thing: leave one out")
        found[name] = value
    # What is wrong is said before a model is loaded.
    asked = {name for name, _ in arguments.sets} | set(setting_names())
    Tuning().with_({name: value for name, value in found.items() if name in asked})
    return found


def plain(name: str, value: Any) -> Any:
    """A setting as Python takes it: ``power:4`` becomes a kernel, and ``k=all`` no limit."""
    if name == "kernel":
        return settings.kernel(value)
    if name == "k" and value == "all":
        return None
    return value


def chosen(arguments: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Those settings among ``found`` that belong to the way of selecting."""
    names = SELECTING | {name for name, _ in arguments.option}
    return {name: value for name, value in found.items() if name in names}


def opened(arguments: argparse.Namespace, found: dict[str, Any]) -> LocalModel:
    """The model and the memory, ready; or one line on what is missing."""
    from siftlm.errors import Conflict, InvalidInput
    from siftlm.local import LocalModel
    from siftlm.memory import Memory

    memory = Memory.open(arguments.folder, embedder=arguments.embedder)
    if memory.manifest.embedder == "precomputed":
        raise Conflict(
            f"{arguments.folder}: its vectors were made elsewhere, so a prompt cannot be compared with them: build a "
            "memory whose embedder siftlm can run, with siftlm index --embedder NAME"
        )
    if not len(memory):
        raise InvalidInput(f"{arguments.folder}: holds no texts to learn from: siftlm index FILES --into … --append")
    with saying(f"loading {arguments.model}", quiet=arguments.quiet), explained():
        return LocalModel(arguments.model, memory, **of_model(arguments), **found)


def of_model(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked of the model, as a `Controller` takes it."""
    return {
        "engine": arguments.engine or "auto",
        "rank": arguments.rank,
        "alpha": arguments.alpha,
        "targets": None if arguments.targets is None else arguments.targets.split(","),
        "device": arguments.device,
        "dtype": arguments.dtype,
        "context": arguments.context_tokens,
    }


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """A device that has not enough memory is no fault of the program."""
    from siftlm.errors import SiftlmError

    try:
        yield
    except (RuntimeError, AssertionError) as error:
        said = one_line(str(error))
        if "out of memory" in said or "can't allocate memory" in said:
            raise SiftlmError(
                "not enough memory on the device: try --engine lora, a smaller --context-tokens, "
                f"--set checkpointing=true, or a smaller model ({clip(said, 120)})"
            ) from error
        if any(word in said for word in ("CUDA", "cuda", "device string", "device type", "MPS", "XPU")):
            raise SiftlmError(f"--device: {clip(said, 160)}") from error
        raise


@contextlib.contextmanager
def saying(what: str, *, quiet: bool) -> Iterator[None]:
    """``what`` on stderr while it lasts, where a person is watching."""
    stream = sys.stderr
    if quiet or stream is None or not stream.isatty():
        yield
        return
    draw(stream, f"{what} {Terminal.of(stream).pick('…', '...')}")
    try:
        yield
    finally:
        draw(stream, "")


def draw(stream: IO[str], line: str) -> None:
    """The line over what stood there before, on a terminal; an empty one leaves the cursor at the left."""
    terminal = Terminal.of(stream)
    room = terminal.width - 1  # in the last column some terminals begin a new line
    text = printable(one_line(terminal.spell(line)), stream)
    # Blanks instead of an escape sequence: even a dumb terminal knows them.
    stream.write("\r" + pad(clip(text, room, terminal.pick("…", "...")), room) + ("" if line else "\r"))
    stream.flush()


def note(text: str) -> None:
    """A remark that is no part of the output."""
    if sys.stderr is not None:
        print(printable(f"siftlm: {one_line(text)}", sys.stderr), file=sys.stderr)
