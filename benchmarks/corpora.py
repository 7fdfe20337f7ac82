"""Public corpora as passages in domains, split by document into what is remembered, tried on, and tested on.

Each reader takes a checkout of its public repository and yields `Passage`s. Nothing of their texts is committed.

    git clone https://github.com/logpai/loghub REPOSITORIES/loghub        and so on, see `CORPORA`
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Shares of the documents: the memory's, and those that settings are chosen on. The rest is for tests.
MEMORY_SHARE, DEV_SHARE = 0.70, 0.12
# Lines of a log that make a passage, and that make a document.
LOG_PASSAGE_LINES, LOG_DOCUMENT_LINES = 8, 80
# Characters of a passage of a conversation, and at most of any text.
TURNS_CHARACTERS, LONGEST_CHARACTERS = 700, 1600
MIN_PAGE_CHARACTERS, MIN_PAIR_CHARACTERS = 120, 60
# A proposal that is shorter says that it has moved.
MIN_PROPOSAL_CHARACTERS = 500


@dataclass(frozen=True)
class Passage:
    """One text."""

    document: str
    """Texts of one document are all remembered, or none is."""
    text: str
    domain: str


@dataclass(frozen=True)
class Corpus:
    """A public repository."""

    repository: str
    licence: str
    """As its files state it."""
    read: Callable[[Path], Iterator[Passage]]


def loghub(folder: Path) -> Iterator[Passage]:
    """Logs of sixteen systems, eight lines a passage."""
    for path in sorted(folder.glob("*/*_2k.log")):
        lines = path.read_text("utf-8", "replace").splitlines()
        for first in range(0, len(lines) - LOG_PASSAGE_LINES + 1, LOG_PASSAGE_LINES):
            document = f"{path.parent.name}/{first // LOG_DOCUMENT_LINES}"
            yield Passage(document, "\n".join(lines[first : first + LOG_PASSAGE_LINES]), path.parent.name)


def big_bench_hard(folder: Path) -> Iterator[Passage]:
    """Questions of 27 tasks with their answers."""
    for path in sorted(folder.glob("bbh/*.json")):
        for one in json.loads(path.read_text("utf-8"))["examples"]:
            text = f"Q: {one['input'].strip()}\nA: {one['target'].strip()}"
            yield Passage(_digest(path.stem + text), text, path.stem)


def t0(folder: Path) -> Iterator[Passage]:
    """Prompts of 294 templates with their completions."""
    for path in sorted(folder.glob("data/finetuning/t0_train_50k/data_per_template/*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            one = json.loads(line)
            text = f"{one['prompt'].strip()}\n{one['completion'].replace('<|endoftext|>', '').strip()}"
            if len(text) >= MIN_PAIR_CHARACTERS:
                yield Passage(_digest(text), text[:LONGEST_CHARACTERS], path.stem)


def grade_school_mathematics(folder: Path) -> Iterator[Passage]:
    """Problems of grade-school mathematics with their solutions."""
    for name in ("train", "test"):
        lines = (folder / "grade_school_math" / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()
        for at, one in enumerate(map(json.loads, lines)):
            text = f"Question: {one['question'].strip()}\nAnswer: {one['answer'].strip()}"
            yield Passage(f"{name}/{at}", text, "mathematics")


def tldr(folder: Path) -> Iterator[Passage]:
    """Help pages of commands, by platform."""
    for path in sorted(folder.glob("pages/*/*.md")):
        text = path.read_text("utf-8").strip()
        if len(text) >= MIN_PAGE_CHARACTERS:
            yield Passage(path.relative_to(folder).as_posix(), text[:LONGEST_CHARACTERS], path.parent.name)


def locomo(folder: Path) -> Iterator[Passage]:
    """Ten long conversations; a session is a document."""
    with zipfile.ZipFile(folder / "data" / "locomo10.zip") as files:
        for name in sorted(name for name in files.namelist() if name.endswith(".json")):
            told = json.loads(files.read(name))
            told = told.get("conversation", told)
            domain = Path(name).stem
            for session in (key for key in told if key.startswith("session_") and isinstance(told[key], list)):
                lines: list[str] = []
                for turn in told[session]:
                    lines.append(f"{turn['speaker']}: {turn.get('clean_text') or turn.get('text') or ''}")
                    if sum(map(len, lines)) > TURNS_CHARACTERS:
                        yield Passage(f"{domain}/{session}", "\n".join(lines), domain)
                        lines = []
                if lines:
                    yield Passage(f"{domain}/{session}", "\n".join(lines), domain)


def python_proposals(folder: Path) -> Iterator[Passage]:
    """Python's enhancement proposals, by type."""
    yield from _proposals(folder, "peps/pep-*.rst", "Type:")


def ethereum_proposals(folder: Path) -> Iterator[Passage]:
    """Ethereum's improvement proposals, by category."""
    yield from _proposals(folder, "EIPS/eip-*.md", "category:")


def rust_proposals(folder: Path) -> Iterator[Passage]:
    """Rust's requests for comments."""
    yield from _proposals(folder, "text/*.md", None)


def _proposals(folder: Path, files: str, field: str | None) -> Iterator[Passage]:
    """Whole documents; the domain is a field of their head."""
    for path in sorted(folder.glob(files)):
        text = path.read_text("utf-8").strip()
        found = [line for line in text.splitlines() if field is not None and line.startswith(field)]
        domain = found[0].partition(":")[2].strip() if found else "others"
        if len(text) >= MIN_PROPOSAL_CHARACTERS:
            yield Passage(path.stem, text, domain)


def advisories(folder: Path) -> Iterator[Passage]:
    """Security advisories of Python packages, YAML; the domain is the package."""
    yield from _files(folder, "vulns/*/*.yaml")


def browser_compatibility(folder: Path) -> Iterator[Passage]:
    """What browsers support, JSON; the domain is the top folder."""
    yield from _files(folder, "*/**/*.json")


def _files(folder: Path, files: str) -> Iterator[Passage]:
    """Whole files."""
    for path in sorted(folder.glob(files)):
        name = path.relative_to(folder)
        if len(text := path.read_text("utf-8").strip()) >= MIN_PAGE_CHARACTERS:
            domain = path.parent.name if name.parts[0] == "vulns" else name.parts[0]
            yield Passage(name.as_posix(), text, domain)


def two_wiki(folder: Path) -> Iterator[Passage]:
    """Beginnings of Wikipedia's articles."""
    for one in json.loads((folder / "reproduce/dataset/2wikimultihopqa_corpus.json").read_text("utf-8")):
        text = f"{one['title']}\n{one['text'].strip()}"
        if len(text) >= MIN_PAGE_CHARACTERS:
            yield Passage(_digest(text), text[:LONGEST_CHARACTERS], "articles")


CORPORA = {
    "loghub": Corpus("logpai/loghub", "research use", loghub),
    "bbh": Corpus("suzgunmirac/BIG-Bench-Hard", "MIT", big_bench_hard),
    "t0": Corpus("yizhongw/self-instruct", "Apache-2.0", t0),
    "gsm8k": Corpus("openai/grade-school-math", "MIT", grade_school_mathematics),
    "tldr": Corpus("tldr-pages/tldr", "CC BY 4.0", tldr),
    "locomo": Corpus("snap-research/locomo", "CC BY-NC 4.0, evaluation only", locomo),
}
# On which nothing was ever chosen, see docs/decisions/0067-other-corpora.md.
LATER_CORPORA = {
    "peps": Corpus("python/peps", "public domain or CC0", python_proposals),
    "eips": Corpus("ethereum/EIPs", "CC0", ethereum_proposals),
    "rfcs": Corpus("rust-lang/rfcs", "MIT or Apache-2.0", rust_proposals),
    "advisories": Corpus("pypa/advisory-database", "CC BY 4.0", advisories),
    "compat": Corpus("mdn/browser-compat-data", "CC0", browser_compatibility),
    "2wiki": Corpus("OSU-NLP-Group/HippoRAG", "MIT; the articles CC BY-SA", two_wiki),
}
ALL_CORPORA = CORPORA | LATER_CORPORA


def part_of(corpus: str, document: str) -> str:
    """``memory``, ``dev`` or ``test``, by a hash of the document's name."""
    share = int(hashlib.sha256(f"siftlm {corpus} {document}".encode()).hexdigest()[:12], 16) / 16**12
    return "memory" if share < MEMORY_SHARE else "dev" if share < MEMORY_SHARE + DEV_SHARE else "test"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
