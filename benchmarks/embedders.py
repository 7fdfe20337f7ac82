"""Embedders compared: known items found by their summaries, and the domains of the nearest passages.

    pip install 'siftlm[lexical]'
    python benchmarks/embedders.py --tldr TLDR --mathematics test.jsonl --passages train.jsonl.gz --model MINILM
    pip install model2vec scikit-learn
    python benchmarks/embedders.py --times --passages test.jsonl.gz

    docstrings    the standard library's: the question is the first line, the document is what follows it
    tldr          a clone of tldr-pages/tldr: the question is a page's description, the document is the rest
    mathematics   the test part of openai/grade-school-math: the question is the last sentence of a problem, the
                  document is what precedes it
    passages      JSON lines with "text" and "meta": the share of the 10 nearest passages that are of the same domain

A set whose files are not given is left out, and so is the model. Half of the questions, by a hash, were used to choose
the settings of the static embedder; the results are those of the other half, among the documents of both. Of the
passages only odd lines take part: the table was made with even ones. Intervals are 95 % bootstrap intervals over
questions. Results go to benchmarks/results/embedders.json; docs/guide/embedding.md shows them.

With --times, the processor time of passages of 100 words alone is measured, on one thread, beside StaticModel of
model2vec with the table of the static embedder and HashingVectorizer of scikit-learn. A round embeds all passages by
each, and by siftlm's twice: the first time with every word unknown, the second time with all words known.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import json
import os
import re
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from scipy import sparse

import siftlm
from siftlm.embedding.hashing import WORD_OR_SIGN
from siftlm.embedding.lexical import fit
from siftlm.embedding.static import shipped_table

RESULT = Path(__file__).parent / "results" / "embedders.json"
RESAMPLES, NEAREST = 2000, 10
PASSAGES, PASSAGE_WORDS, TIME_ROUNDS = 4000, 100, 7
# Those whose time is measured, with their settings.
TIMED: dict[str, dict[str, Any]] = {
    "hashing, 512": {},
    "static, 768": {},
    "static, words=0, 256": {"words": 0},
}
NOT_DOCUMENTED = re.compile(r"(test|site-packages|idlelib|lib2to3|turtledemo|ensurepip|pydoc_data)(/|$)")
NOT_DESCRIPTION = re.compile("> (More information|See also|Note|This command is an alias|View documentation)")

Pairs = list[tuple[str, str]]


def share(name: str) -> float:
    """From 0 to 1, the same for the same name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


# --- the sets


def docstrings() -> Pairs:
    library, pairs = Path(sysconfig.get_paths()["stdlib"]), []
    for path in sorted(library.rglob("*.py")):
        place = path.relative_to(library).as_posix()
        if NOT_DOCUMENTED.match(place) or "/test" in place:
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                summary, _, body = (ast.get_docstring(node) or "").partition("\n\n")
                summary, body = " ".join(summary.split()), body.strip()
                if len(summary.split()) >= 4 and len(summary) < 200 and len(body) >= 80:
                    pairs.append((summary, body[:1500]))
    return drawn("pydoc", pairs, 1000)


def tldr(folder: Path) -> Pairs:
    pairs = []
    for path in sorted((folder / "pages" / "common").glob("*.md")):
        lines = path.read_text("utf-8").split("\n")
        quoted = [line for line in lines if line.startswith("> ")]
        description = " ".join(line[2:] for line in quoted if not NOT_DESCRIPTION.match(line))
        rest = re.sub(r"\n\n+", "\n", "\n".join(line for line in lines if not line.startswith("> "))).strip()
        if len(description.split()) >= 4 and len(rest) > 120 and "alias" not in description:
            pairs.append((description, rest[:1500]))
    return drawn("tldr", pairs, 1000)


def mathematics(file: Path) -> Pairs:
    pairs = []
    for line in file.read_text("utf-8").splitlines():
        sentences = re.split(r"(?<=[.?!])\s+", json.loads(line)["question"].strip())
        if len(sentences) >= 3 and len(sentences[-1].split()) >= 4:
            pairs.append((sentences[-1], " ".join(sentences[:-1])))
    return drawn("gsm", pairs, 800)


def drawn(name: str, pairs: Pairs, most: int) -> Pairs:
    """In a random order, no question and no document twice."""
    questions, documents, found = set(), set(), []
    for question, document in sorted(pairs, key=lambda pair: share(name + pair[0] + pair[1])):
        if question.lower() not in questions and document not in documents:
            questions.add(question.lower())
            documents.add(document)
            found.append((question, document))
    return found[:most]


def passages(file: Path) -> Pairs:
    """Passages of 500 characters with their domains."""
    found = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number % 2 and share(f"purity {number}") < 0.085:
                record = json.loads(line)
                start = int(share(f"at {number}") * max(0, len(record["text"]) - 600))
                passage = record["text"][start : start + 500].strip()
                if len(passage) > 100:
                    found.append((passage, record["meta"]["pile_set_name"]))
    return found


# --- what is compared: texts and documents in, similarities (questions, documents) out


def by_vectors(name: str, **settings: Any) -> Callable[[list[str], list[str]], np.ndarray]:
    def similarities(questions: list[str], documents: list[str]) -> np.ndarray:
        made = siftlm.embedder(name, **settings)
        return cosines(made.embed(questions, as_query=True), made.embed(documents))

    return similarities


def by_lexical(questions: list[str], documents: list[str]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        made = fit(documents, folder, progress=False)
        return cosines(made.embed(questions), made.embed(documents))


def by_tfidf(questions: list[str], documents: list[str]) -> np.ndarray:
    asked, counts = word_counts(questions, documents)
    weights = sparse.diags(np.log(len(documents) / np.asarray((counts > 0).sum(axis=0)).ravel()) + 1)
    weighted = []
    for one in (asked, counts):
        one = one.copy()
        one.data = 1 + np.log(one.data)
        one = one @ weights
        lengths = np.sqrt(np.asarray(one.multiply(one).sum(axis=1)).ravel())
        weighted.append(sparse.diags(1 / np.maximum(lengths, 1e-9)) @ one)
    return (weighted[0] @ weighted[1].T).toarray()


def by_bm25(questions: list[str], documents: list[str]) -> np.ndarray:
    asked, counts = word_counts(questions, documents)
    holding = np.asarray((counts > 0).sum(axis=0)).ravel()
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    one = counts.tocoo()
    one.data = one.data * 2.2 / (one.data + 1.2 * (0.25 + 0.75 * lengths[one.row] / lengths.mean()))
    weights = np.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
    return ((asked > 0).astype(float) @ (one.tocsr() @ sparse.diags(weights)).T).toarray()


def word_counts(questions: list[str], documents: list[str]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Of the words that the documents have."""
    words = [
        [Counter(word for word in WORD_OR_SIGN.findall(text.lower()) if word.isalnum()) for text in texts]
        for texts in (questions, documents)
    ]
    place = {word: at for at, word in enumerate(sorted(set().union(*words[1])))}
    matrices = []
    for counters in words:
        rows = [row for row, own in enumerate(counters) for word in own if word in place]
        columns = [place[word] for own in counters for word in own if word in place]
        counts = [float(count) for own in counters for word, count in own.items() if word in place]
        matrices.append(sparse.csr_matrix((counts, (rows, columns)), shape=(len(counters), len(place))))
    return matrices[0], matrices[1]


def cosines(questions: np.ndarray, documents: np.ndarray) -> np.ndarray:
    first, second = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) for rows in (questions, documents)
    )
    return first @ second.T


# --- how well it is found


def ranks(similarities: np.ndarray) -> np.ndarray:
    """(n,) the rank of each question's own document; ties count by half."""
    own = np.diag(similarities)[:, None]
    return 1 + (similarities > own).sum(axis=1) + ((similarities == own).sum(axis=1) - 1) / 2


def reported(name: str, count: int) -> np.ndarray:
    return np.array(
        [int(hashlib.sha256(f"half {name} {n}".encode()).hexdigest()[:8], 16) % 2 == 1 for n in range(count)]
    )


def of_same_domain(similarities: np.ndarray, domains: list[str]) -> np.ndarray:
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argpartition(-similarities, NEAREST, axis=1)[:, :NEAREST]
    labels = np.array(domains)
    return (labels[nearest] == labels[:, None]).mean(axis=1)


def interval(values: np.ndarray) -> list[float]:
    """The mean and its 95 % bootstrap interval."""
    generator = np.random.default_rng(0)
    means = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    return [round(float(one), 4) for one in (values.mean(), *np.quantile(means, [0.025, 0.975]))]


def microseconds(name: str, texts: list[str], **settings: Any) -> float:
    """Processor time of a text."""
    made = siftlm.embedder(name, **settings)
    made.embed(texts[:50])
    return timed(made.embed, texts)


# --- how long it takes


def timed(embed: Callable[[list[str]], Any], texts: list[str]) -> float:
    start = time.process_time()
    embed(texts)
    return (time.process_time() - start) / len(texts) * 1e6


def hundred_words(file: Path) -> list[str]:
    """Passages of 100 words between spaces, up to three of a text."""
    found: list[str] = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            words = json.loads(line)["text"].split(" ")
            for start in range(0, min(len(words), 3 * PASSAGE_WORDS), PASSAGE_WORDS):
                passage = " ".join(words[start : start + PASSAGE_WORDS])
                if 300 < len(passage) < 1500:
                    found.append(passage)
    return found[:PASSAGES]


def by_model2vec() -> Callable[[list[str]], Any]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    table = shipped_table()
    with np.load(Path(siftlm.__file__).parent / "data" / "static.npz") as file:
        pieces = file["pieces"].tobytes().decode("ascii").split("\n")
    known = {piece: number for number, piece in enumerate([*pieces, "[UNK]"])}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rows = table.rows * table.weights[:, None].astype(np.float32)
    model = StaticModel(np.concatenate([rows, np.zeros((1, rows.shape[1]), np.float32)]), tokenizer, normalize=True)
    return lambda texts: model.encode(texts, max_length=None, use_multiprocessing=False)


def by_vectorizer() -> Callable[[list[str]], Any]:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=512).transform


def times(texts: list[str]) -> dict[str, Any]:
    """Microseconds of a passage: medians and quartiles over rounds in which all take turns."""
    peers = {"model2vec, 256": by_model2vec(), "HashingVectorizer, 512": by_vectorizer()}
    found: dict[str, list[float]] = {}
    for _ in range(TIME_ROUNDS):
        for name, settings in TIMED.items():
            made = siftlm.embedder(name.split(",")[0], **settings)
            made.embed(["the table is read"])
            found.setdefault(f"{name}: new words", []).append(timed(made.embed, texts))
            found.setdefault(f"{name}: known words", []).append(timed(made.embed, texts))
        for name, embed in peers.items():
            found.setdefault(name, []).append(timed(embed, texts))
    quartiles = {name: np.quantile(values, [0.5, 0.25, 0.75]).round(1).tolist() for name, values in found.items()}
    words = sum(len(WORD_OR_SIGN.findall(text)) for text in texts) / len(texts)
    size = {"passages": len(texts), "characters": sum(map(len, texts)) / len(texts), "words and signs": round(words, 1)}
    machine = describe("model2vec", "tokenizers", "scikit-learn")
    return {"machine": machine, **size, "rounds": TIME_ROUNDS, "microseconds": quartiles}


def write(results: dict[str, Any]) -> None:
    """The results, beside those of other runs."""
    known = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(known | results, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    for flag in ("tldr", "mathematics", "passages", "model"):
        parser.add_argument(f"--{flag}", type=Path)
    parser.add_argument("--times", action="store_true", help="measure processor time alone")
    arguments = parser.parse_args()
    if arguments.times:
        write({"times": times(hundred_words(arguments.passages))})
        return
    sets: dict[str, tuple[str, Pairs]] = {"docstrings": ("pydoc", docstrings())}
    if arguments.tldr:
        sets["tldr"] = ("tldr", tldr(arguments.tldr))
    if arguments.mathematics:
        sets["mathematics"] = ("gsm", mathematics(arguments.mathematics))
    domains = passages(arguments.passages) if arguments.passages else []
    named: dict[str, tuple[str, dict[str, Any]]] = {
        "hashing, 512": ("hashing", {}),
        "hashing, 2,048": ("hashing", {"width": 2048}),
        "hashing, 768": ("hashing", {"width": 768}),
        "static, words=0, 256": ("static", {"words": 0}),
        "static, words=0.3, words_width=256, 512": ("static", {"words": 0.3, "words_width": 256}),
        "static, 768": ("static", {}),
        "static, words=0.4, words_width=2048, 2,304": ("static", {"words": 0.4, "words_width": 2048}),
    }
    if arguments.model:
        named["MiniLM, 384"] = (f"sentences:{arguments.model}", {})
    compared = {name: by_vectors(kind, **settings) for name, (kind, settings) in named.items()}
    compared = {"lexical, 256": by_lexical, "exact TF-IDF": by_tfidf, "BM25": by_bm25, **compared}
    found: dict[str, dict[str, Any]] = {}
    baseline: dict[str, np.ndarray] = {}
    for name in sorted(compared, key=lambda name: (name != "hashing, 2,048", list(compared).index(name))):
        found[name] = {}
        for title, (salt, pairs) in sets.items():
            rank = ranks(compared[name]([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
            rank = rank[reported(salt, len(rank))]
            first = baseline.setdefault(title, 1 / rank)
            found[name][title] = {"questions": len(rank), "documents": len(pairs), "mrr": interval(1 / rank)}
            found[name][title] |= {"recall": interval(rank <= 10), "more than hashing": interval(1 / rank - first)}
        if domains:
            texts = [passage for passage, _ in domains]
            same = of_same_domain(compared[name](texts, texts), [domain for _, domain in domains])
            first = baseline.setdefault("passages", same)
            found[name]["passages"] = {"passages": len(texts), "same": interval(same)}
            found[name]["passages"] |= {"more than hashing": interval(same - first)}
        if name in named:
            kind, settings = named[name]
            texts = [document for _, document in sets["docstrings"][1]][: 100 if "MiniLM" in name else None]
            found[name]["microseconds"] = round(microseconds(kind, texts, **settings), 1)
        print(name, json.dumps(found[name]), flush=True)
        write({"machine": describe("scipy"), "found": found})


if __name__ == "__main__":
    main()
