"""Questions with annotated evidence, on corpora that differ in redundancy; read from checkouts of public repositories.

    git clone https://github.com/snap-research/locomo REPOSITORIES/locomo          and so on, see `CORPORA`

A *fact* is what a passage can be evidence of; passages that hold the same fact stand in for each other. Every corpus
has one or more pools of passages, and each question is about one pool. Nothing of the texts is committed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

PARTS = ("validation", "test")
# Share of groups (conversations, systems, pages, documents, questions) that settings are chosen on.
VALIDATION_SHARE = 0.4
# Questions of a corpus at most, in each part.
QUESTIONS = {"validation": 200, "test": 400}
VERSIONS = (1, 2, 4, 8)
NEEDS = (2, 3, 4)
MULTIHOP_COMMIT = "3d95d255a8db0c1699b853cfb4fbe5056708162d"
PROSE_DOMAINS = (
    *("ArXiv Abstracts", "EuroParl", "FreeLaw", "Gutenberg (PG-19)", "PubMed Abstracts", "PubMed Central"),
    *("StackExchange", "Web (US Gov)", "Wikipedia (en)"),
)
PROSE_DOCUMENTS, PROSE_PIECES, PIECE_WORDS = 800, 12, 70
LOG_WINDOW_LINES = 30
# Words that a light edit exchanges.
EDITS = (
    *(("Display", "Show"), ("Create", "Make"), ("List", "Print"), ("Delete", "Remove"), ("specific", "given")),
    *(("using", "with"), ("directory", "folder"), ("however", "but"), ("because", "since"), ("also", "too")),
    *(("such as", "like"), ("between", "among"), ("about", "on"), ("which", "that"), ("large", "big")),
)


@dataclass(frozen=True)
class Passage:
    """A text, and the facts that it is evidence of."""

    text: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question about one pool."""

    text: str
    facts: tuple[str, ...]
    """Evidence: what is to be found."""
    pool: str
    part: str
    without: tuple[str, ...] = ()
    """Texts of the pool that the question is made of: they can't be found."""


@dataclass
class QuestionSet:
    """The pools of a corpus by name, and its questions."""

    pools: dict[str, list[Passage]] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)

    def write(self, path: Path) -> None:
        pools = {name: [asdict(passage) for passage in pool] for name, pool in self.pools.items()}
        path.write_text(json.dumps({"pools": pools, "questions": [asdict(one) for one in self.questions]}), "utf-8")

    @classmethod
    def read(cls, path: Path) -> QuestionSet:
        raw = json.loads(path.read_text("utf-8"))
        pools = {
            name: [Passage(one["text"], tuple(one["facts"])) for one in pool] for name, pool in raw["pools"].items()
        }
        plain = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in one.items()}
            for one in raw["questions"]
        ]
        return cls(pools, [Question(**one) for one in plain])


@dataclass(frozen=True)
class Corpus:
    """Where its texts come from, and what is to be expected of it."""

    source: str
    licence: str
    redundant: bool
    read: Callable[[Path], QuestionSet]


def share(name: str) -> float:
    """From 0 to 1, the same for the same name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def part_of(name: str) -> str:
    """The part of a group of questions, by its name."""
    return "validation" if share(f"siftlm evidence {name}") < VALIDATION_SHARE else "test"


def generator_of(name: str) -> np.random.Generator:
    """A random generator, the same for the same name."""
    return np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:12], 16))


def at_most(questions: Sequence[Question]) -> list[Question]:
    """No more questions of each part than `QUESTIONS` says, chosen by a hash."""
    order = sorted(questions, key=lambda one: share(f"{one.pool} {one.text}"))
    return [one for part in PARTS for one in [own for own in order if own.part == part][: QUESTIONS[part]]]


def distinct(passages: Sequence[Passage]) -> list[Passage]:
    """Each text once, with all its facts, as a memory keeps it."""
    facts: dict[str, tuple[str, ...]] = {}
    for one in passages:
        text = one.text.strip()
        facts[text] = tuple(sorted({*facts.get(text, ()), *one.facts}))
    return [Passage(text, own) for text, own in facts.items() if text]


# --- conversations


def conversations(folder: Path) -> QuestionSet:
    """Ten conversations over many sessions; a turn is a passage, the annotated turns are the evidence."""
    found = QuestionSet()
    with zipfile.ZipFile(folder / "locomo" / "data" / "locomo10.zip") as files:
        names = sorted(name for name in files.namelist() if name.endswith(".json"))
        for name in names:
            told, pool = json.loads(files.read(name)), Path(name).stem
            turns = [turn for key, value in told.items() if re.fullmatch(r"session_\d+", key) for turn in value]
            found.pools[pool] = distinct([Passage(_said(turn), (turn["dia_id"],)) for turn in turns])
            known = {fact for passage in found.pools[pool] for fact in passage.facts}
            # Whole conversations, taken in turns: there are only ten.
            part = "validation" if names.index(name) % 5 in (1, 3) else "test"
            for one in told["qa"]:
                facts = tuple(sorted({*re.findall(r"D\d+:\d+", " ".join(one["evidence"]))} & known))
                if facts and one["category"] != 5:  # questions of category 5 have no answer
                    found.questions.append(Question(one["question"], facts, pool, part))
    found.questions = at_most(found.questions)
    return found


def _said(turn: dict[str, str]) -> str:
    shown = f" [{turn['blip_caption']}]" if turn.get("blip_caption") else ""
    return f"{turn['speaker']}: {turn.get('clean_text') or turn.get('text') or ''}{shown}"


# --- logs


def logs(folder: Path) -> QuestionSet:
    """A system's log; a question names the distinct events of a window of lines, which is not in the pool.

    An event is named by its template without the variable parts; any other line of that event is evidence of it.
    """
    found = QuestionSet()
    systems = sorted(path.parent.name for path in (folder / "loghub").glob("*/*_2k.log_structured.csv"))
    for at, system in enumerate(systems):
        stem = folder / "loghub" / system / f"{system}_2k.log"
        lines = stem.read_text("utf-8", "replace").splitlines()
        with open(f"{stem}_structured.csv", encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file))
        events, templates = [row["EventId"] for row in rows], {row["EventId"]: row["EventTemplate"] for row in rows}
        found.pools[system] = distinct([Passage(line, (event,)) for line, event in zip(lines, events, strict=False)])
        part = "validation" if at % 5 in (1, 3) else "test"
        for start in range(0, len(lines) - LOG_WINDOW_LINES + 1, LOG_WINDOW_LINES):
            inside = events[start : start + LOG_WINDOW_LINES]
            outside = {*events[:start], *events[start + LOG_WINDOW_LINES :]}
            facts = [event for event in dict.fromkeys(inside) if event in outside]
            named = [" ".join(templates[event].replace("<*>", " ").split()) for event in facts]
            if 2 <= len(facts) <= 8:
                without = tuple({line.strip() for line in lines[start : start + LOG_WINDOW_LINES]})
                found.questions.append(Question("\n".join(named), tuple(facts), system, part, without))
    found.questions = at_most(found.questions)
    return found


# --- several versions of a page


def pages(folder: Path) -> QuestionSet:
    """Help pages of commands in one to eight versions; a question asks for two to four commands by their descriptions.

    A page is its examples without its description; the description is what the question consists of.
    """
    found = QuestionSet({part: [] for part in PARTS})
    described: dict[str, list[tuple[str, str]]] = {part: [] for part in PARTS}
    for path in sorted((folder / "tldr" / "pages" / "common").glob("*.md")):
        lines = path.read_text("utf-8").splitlines()
        quoted = [line[2:] for line in lines if line.startswith("> ")]
        quoted = [line for line in quoted if not re.match("More info|See also|Note|This command is an alias", line)]
        examples = re.findall(r"^- (.+?)\n+`(.+?)`$", "\n".join(lines), re.MULTILINE)
        if quoted and len(quoted[0].split()) >= 4 and len(examples) >= 3:
            part = part_of(path.stem)
            described[part].append((path.stem, " ".join(quoted)))
            versions = page_versions(path.stem, examples)
            found.pools[part].extend(Passage(text, (path.stem,)) for text in versions)
    for part, own in described.items():
        generator = generator_of(f"pages {part}")
        for _ in range(QUESTIONS[part]):
            chosen = generator.choice(len(own), int(generator.choice(NEEDS)), replace=False)
            text = " ".join(own[at][1] for at in chosen)
            found.questions.append(Question(text, tuple(own[at][0] for at in chosen), part, part))
        found.pools[part] = distinct(found.pools[part])
    return found


def page_versions(name: str, examples: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The page first, then versions of it: three quarters of the examples in another order, lightly edited."""
    yield "\n".join([name, *(f"- {does}\n`{command}`" for does, command in examples)])
    generator = generator_of(f"versions {name}")
    for _ in range(int(generator.choice(VERSIONS)) - 1):
        kept = generator.permutation(len(examples))[: max(2, round(0.75 * len(examples)))]
        own = [(edited(examples[at][0], generator), examples[at][1]) for at in kept]
        yield "\n".join([name, *(f"- {does}\n`{command}`" for does, command in own)])


def edited(text: str, generator: np.random.Generator) -> str:
    """The text with half of the words of `EDITS` exchanged, and one word in twenty left out."""
    for word, other in EDITS:
        if generator.random() < 0.5:
            text = text.replace(word, other)
    return " ".join(word for word in text.split() if generator.random() > 0.05)


# --- prose, once and in several versions


def prose(folder: Path, versions: Sequence[int] = (1,)) -> QuestionSet:
    """Documents of nine domains; the first half of a document asks for the passages of its second half."""
    found = QuestionSet({part: [] for part in PARTS})
    for part, file in (("validation", "train"), ("test", "test")):
        documents = 0
        with gzip.open(folder / "minipile" / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                record = json.loads(line)
                pieces = pieces_of(record["text"])
                if record["meta"]["pile_set_name"] not in PROSE_DOMAINS or len(pieces) < 4:
                    continue
                half, facts = len(pieces) // 2, [f"{number}/{at}" for at in range(len(pieces))]
                for version in range(int(generator_of(f"prose {part} {number}").choice(versions))):
                    for at in range(half, len(pieces)):
                        text = piece_version(pieces[at], f"{part} {number} {at} {version}", version)
                        found.pools[part].extend([Passage(text, (facts[at],))] if text else [])
                text = " ".join(" ".join(piece) for piece in pieces[:half])
                found.questions.append(Question(text, tuple(facts[half:]), part, part))
                documents += 1
                if documents == PROSE_DOCUMENTS:
                    break
        found.pools[part] = distinct(found.pools[part])
    found.questions = at_most(found.questions)
    return found


def prose_versions(folder: Path) -> QuestionSet:
    """The same documents and questions, each document in one to eight versions."""
    return prose(folder, VERSIONS)


def pieces_of(text: str) -> list[list[str]]:
    """The first passages of a document, each a list of whole sentences of some 70 words together."""
    pieces: list[list[str]] = [[]]
    for sentence in re.split(r"(?<=[.?!])\s+", text[: PROSE_PIECES * PIECE_WORDS * 8]):
        pieces[-1].append(" ".join(sentence.split()[: 2 * PIECE_WORDS]))
        if sum(len(one.split()) for one in pieces[-1]) >= PIECE_WORDS:
            pieces.append([])
    return pieces[:-1][:PROSE_PIECES]


def piece_version(sentences: Sequence[str], name: str, version: int) -> str:
    """A passage as it was, or in a version: a fifth are left out; else in another order, shortened, lightly edited."""
    if version == 0:
        return " ".join(sentences)
    generator = generator_of(f"version {name}")
    if generator.random() < 0.2:
        return ""
    order = generator.permutation(len(sentences)) if generator.random() < 0.5 else np.arange(len(sentences))
    if len(order) > 2 and generator.random() < 0.5:
        order = order[order != generator.integers(len(order))]
    return edited(" ".join(sentences[at] for at in order), generator)


# --- questions over several paragraphs of an encyclopedia


def multihop(folder: Path) -> QuestionSet:
    """Questions of HotpotQA and MuSiQue with their supporting paragraphs, among the paragraphs of all of them."""
    found = QuestionSet()
    for name in ("hotpotqa", "musique"):
        show = ["git", "-C", str(folder / "HippoRAG"), "show", f"{MULTIHOP_COMMIT}:data/{name}_train.json"]
        examples = json.loads(subprocess.run(show, check=True, capture_output=True).stdout)
        texts: list[str] = []
        for one in examples:
            if name == "musique":
                own = [(f"{p['title']}\n{p['paragraph_text']}", p["is_supporting"]) for p in one["paragraphs"]]
            else:
                titles = {title for title, _ in one["supporting_facts"]}
                own = [(f"{title}\n{''.join(sentences)}", title in titles) for title, sentences in one["context"]]
            texts += [text for text, _ in own]
            facts = tuple(_digest(text) for text, supports in own if supports)
            found.questions.append(Question(one["question"], facts, name, part_of(one["question"])))
        found.pools[name] = distinct([Passage(text, (_digest(text),)) for text in texts])
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]


CORPORA = {
    "logs": Corpus("logpai/loghub", "research use", True, logs),
    "pages": Corpus("tldr-pages/tldr, in versions", "CC BY 4.0", True, pages),
    "prose in versions": Corpus("mini-Pile, in versions", "of each source", True, prose_versions),
    "prose": Corpus("mini-Pile", "of each source", False, prose),
    "conversations": Corpus("snap-research/locomo", "CC BY-NC 4.0, evaluation only", False, conversations),
    "multihop": Corpus("OSU-NLP-Group/HippoRAG", "MIT", False, multihop),
}
