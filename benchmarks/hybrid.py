"""Search by vectors, by words and by both: known items found, in the order of the nearest and by SIFT.

    python benchmarks/hybrid.py --tldr TLDR --mathematics test.jsonl

The sets are those of benchmarks/embedders.py; one whose files are not given is left out. Half of the questions chose
the share of words; the results are those of the other half, among the documents of both. A document that is not among
the first 50 has a reciprocal rank of 0. Compared are

    vectors, words, both    the nearest, as `Memory.search` returns them; words are BM25
    rank fusion             of the first two rankings, 1 / (60 + rank) added up (Cormack, Clarke and Büttcher 2009)
    scaled scores           of the first two, each from 0 to 1 between its worst and its best of 200
    sift                    the first 10 picks of SIFT with each

Two questions at once: a prompt of two questions, and the share of their two documents among the first 5. Intervals are
95 % bootstrap intervals over questions, of differences paired. For scripts without spaces there are a few sentences in
each, below, and the ways to split them into words that FTS5 and siftlm know. Results go to
benchmarks/results/hybrid.json; docs/guide/memory.md and docs/decisions/0055-hybrid-ranking.md show them.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from embedders import Pairs, docstrings, interval, mathematics, reported, tldr
from machine import describe

from siftlm import Memory
from siftlm.memory import keywords
from siftlm.memory.results import Found

RESULT = Path(__file__).parent / "results" / "hybrid.json"
EMBEDDERS = ("hashing", "static")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
K, RANKED, PICKED, FIRST = 200, 50, 10, 5
RANK_CONSTANT = 60
SOURCES = ("vectors", "words", "both")

# --- the sentences: (text, a question about it)

SCRIPTS: dict[str, Pairs] = {
    "Chinese": [
        ("长城是中国古代修建的防御工程", "长城是谁修建的"),
        ("故宫位于北京市中心，曾是皇帝的住所", "皇帝的住所"),
        ("大熊猫主要以竹子为食", "吃竹子的动物"),
        ("福建省的山区出产乌龙茶", "乌龙茶"),
        ("黄河是中国第二长的河流", "第二长的河流"),
        ("造纸术在东汉时期得到改进", "造纸术"),
        ("上海的地铁线路总长超过八百公里", "上海地铁"),
        ("青海湖是中国最大的咸水湖", "最大的湖"),
        ("猫喜欢在阳光下睡觉", "睡觉的猫"),
        ("医生建议每天步行三十分钟", "每天步行多久"),
        ("火车站旁边有一家图书馆", "图书馆在哪里"),
        ("昨天的大雨使航班延误", "航班为什么延误"),
    ],
    "Japanese": [
        ("富士山は日本で一番高い山です", "一番高い山は何ですか"),
        ("新幹線は東京と大阪を二時間半で結ぶ", "東京から大阪まで"),
        ("京都には古い寺院がたくさんあります", "古い寺院"),
        ("寿司は酢飯と生の魚で作られる", "寿司の作り方"),
        ("猫がこたつの中で眠っている", "猫はどこ"),
        ("桜の花は三月の終わりに咲き始める", "桜はいつ咲く"),
        ("図書館は午後八時に閉まります", "図書館の閉まる時間"),
        ("台風のため飛行機が欠航になった", "飛行機の欠航"),
        ("コンピューターの画面が割れてしまった", "割れた画面"),
        ("北海道は冬にたくさん雪が降る", "雪が多い北海道"),
        ("駅前のパン屋は朝六時に開く", "パン屋は何時に開く"),
        ("医者は毎日三十分歩くことを勧めた", "医者の勧め"),
    ],
    "Thai": [
        ("ช้างเป็นสัตว์ประจำชาติของประเทศไทย", "สัตว์ประจำชาติ"),
        ("แม่น้ำเจ้าพระยาไหลผ่านกรุงเทพมหานคร", "แม่น้ำในกรุงเทพ"),
        ("ผัดไทยทำจากเส้นก๋วยเตี๋ยวและถั่วงอก", "ผัดไทยใส่อะไร"),
        ("สงกรานต์เป็นเทศกาลปีใหม่ในเดือนเมษายน", "เทศกาลสงกรานต์"),
        ("แมวนอนหลับอยู่ใต้โต๊ะ", "แมวอยู่ไหน"),
        ("ห้องสมุดปิดเวลาสองทุ่ม", "เวลาปิดห้องสมุด"),
        ("เชียงใหม่อยู่ทางภาคเหนือของประเทศ", "ภาคเหนือ"),
        ("ฝนตกหนักทำให้เที่ยวบินล่าช้า", "เที่ยวบินล่าช้าเพราะอะไร"),
        ("หมอแนะนำให้เดินวันละสามสิบนาที", "หมอแนะนำอะไร"),
        ("รถไฟฟ้าสายใหม่เปิดให้บริการแล้ว", "รถไฟฟ้าสายใหม่"),
        ("ทุเรียนเป็นราชาแห่งผลไม้", "ราชาผลไม้"),
        ("เด็กเรียนภาษาอังกฤษทุกวันจันทร์", "เรียนภาษาอังกฤษวันไหน"),
    ],
}
TOKENIZERS = {
    "FTS5's unicode61": (keywords.TOKENIZERS[keywords.UNSPACED].fts5, str),
    "FTS5's trigram": ("trigram", str),
    "signs and pairs": (keywords.TOKENIZERS[keywords.SPACED].fts5, keywords.spaced),
}


def of_scripts() -> dict[str, dict[str, float]]:
    """The mean reciprocal rank by BM25 of each way to split texts, among the sentences of all scripts."""
    texts = [text for pairs in SCRIPTS.values() for text, _ in pairs]
    found: dict[str, dict[str, float]] = {}
    for name, (fts5, prepare) in TOKENIZERS.items():
        connection = sqlite3.connect(":memory:")
        connection.execute(f'CREATE VIRTUAL TABLE words USING fts5(text, tokenize="{fts5}")')
        connection.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab('words', 'row')")
        connection.execute(f'CREATE VIRTUAL TABLE asked USING fts5(text, tokenize="{fts5}")')
        connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab('asked', 'row')")
        rows = [(row, prepare(text)) for row, text in enumerate(texts)]
        connection.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        found[name], first = {}, 0
        for script, pairs in SCRIPTS.items():
            ranks = []
            for row, (_, question) in enumerate(pairs, start=first):
                connection.execute("DELETE FROM asked")
                connection.execute("INSERT INTO asked VALUES (?)", (prepare(question),))
                known = "SELECT term FROM terms WHERE term IN (SELECT term FROM vocabulary)"
                match = keywords.match_any([term for (term,) in connection.execute(known)])
                statement = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid"
                order = [one for (one,) in connection.execute(statement, (match,))] if match else []
                ranks.append(1 / (order.index(row) + 1) if row in order else 0.0)
            found[name][script] = round(float(np.mean(ranks)), 3)
            first += len(pairs)
        connection.close()
    return found


# --- known items


def reciprocal(rows: list[int], own: int) -> float:
    return 1 / (rows.index(own) + 1) if own in rows else 0.0


def rows_of(found: Found) -> list[int]:
    return [hit.row for hit in found]


def by_ranks(rankings: list[list[int]]) -> list[int]:
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, start=1):
            sums[row] = sums.get(row, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(sums, key=lambda row: (-sums[row], row))


def by_scaled(scores: list[dict[int, float]]) -> list[int]:
    sums: dict[int, float] = {}
    for own in scores:
        low, high = min(own.values(), default=0.0), max(own.values(), default=1.0)
        for row, score in own.items():
            sums[row] = sums.get(row, 0.0) + (score - low) / ((high - low) or 1)
    return sorted(sums, key=lambda row: (-sums[row], row))


class Measured:
    """One set in one memory: what is found for each question, and its own document."""

    def __init__(self, pairs: Pairs, embedder: str, folder: Path) -> None:
        self.memory = Memory.create(folder, embedder=embedder)
        documents = [document for _, document in pairs]
        # With their vectors, so that none is cut.
        self.memory.add(documents, vectors=self.memory.embedder.embed(documents))
        rows = self.memory.rows().tolist()
        row_of = {text.strip(): row for row, text in zip(rows, self.memory.texts(rows), strict=True)}
        self.questions = [question for question, _ in pairs]
        self.own = [row_of[document.strip()] for document in documents]

    def reciprocals(self, places: np.ndarray, n: int, **settings: Any) -> np.ndarray:
        found = self.memory.search_many([self.questions[at] for at in places], n, k=K, **settings)
        return np.array([reciprocal(rows_of(one), self.own[at]) for one, at in zip(found, places, strict=True)])

    def both_found(self, places: np.ndarray, **settings: Any) -> np.ndarray:
        """For each two questions in a row: the share of their documents among the first."""
        pairs = [(places[at], places[at + 1]) for at in range(0, len(places) - 1, 2)]
        texts = [f"{self.questions[one]} {self.questions[other]}" for one, other in pairs]
        found = self.memory.search_many(texts, FIRST, k=K, **settings)
        return np.array(
            [np.mean([self.own[at] in rows_of(own) for at in pair]) for own, pair in zip(found, pairs, strict=True)]
        )


def at_shares(measured: Measured, places: np.ndarray) -> np.ndarray:
    """(shares,) the mean reciprocal rank with each share of words."""
    totals = np.zeros(len(SHARES))
    for at in places:
        # Twice as many, so that whatever vectors or words find is there.
        found = measured.memory.search(measured.questions[at], 2 * K, k=2 * K, method="nearest", candidates="both")
        rows, cosines = np.array(rows_of(found)), np.array([hit.score for hit in found])
        words = keywords.relative_scores(np.array([hit.words_score for hit in found]))
        for place, share in enumerate(SHARES):
            order = np.lexsort((rows, -((1 - share) * cosines + share * words)))
            totals[place] += reciprocal(rows[order][:RANKED].tolist(), measured.own[at])
    return totals / len(places)


def of_set(measured: Measured, places: np.ndarray) -> dict[str, Any]:
    """The results for some of the questions, and the differences that matter."""
    values, picks, twos = {}, {}, {}
    for candidates in SOURCES:
        values[candidates] = measured.reciprocals(places, RANKED, method="nearest", candidates=candidates)
        picks[candidates] = measured.reciprocals(places, PICKED, method="sift", candidates=candidates)
        for method in ("nearest", "sift"):
            twos[f"{candidates}, {method}"] = measured.both_found(places, method=method, candidates=candidates)
    fused = {"rank fusion": [], "scaled scores": []}
    for at in places:
        kinds = [
            measured.memory.search(measured.questions[at], K, k=K, method="nearest", candidates=candidates)
            for candidates in ("vectors", "words")
        ]
        own = measured.own[at]
        fused["rank fusion"].append(reciprocal(by_ranks([rows_of(one) for one in kinds])[:RANKED], own))
        scores = [{hit.row: hit.score for hit in kinds[0]}, {hit.row: hit.words_score or 0.0 for hit in kinds[1]}]
        fused["scaled scores"].append(reciprocal(by_scaled(scores)[:RANKED], own))
    values |= {name: np.array(own) for name, own in fused.items()}
    both = values["both"]
    return {
        "questions": len(places),
        "mrr": {name: interval(own) for name, own in values.items()},
        "both more than": {name: interval(both - own) for name, own in values.items() if name != "both"},
        "sift": {name: interval(own) for name, own in picks.items()},
        "sift with both more than": {name: interval(picks["both"] - own) for name, own in picks.items()},
        "two questions": {name: interval(own) for name, own in twos.items()},
        "sift more than nearest": {name: interval(twos[f"{name}, sift"] - twos[f"{name}, nearest"]) for name in picks},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    for flag in ("tldr", "mathematics"):
        parser.add_argument(f"--{flag}", type=Path)
    arguments = parser.parse_args()
    sets: dict[str, tuple[str, Pairs]] = {"docstrings": ("pydoc", docstrings())}
    if arguments.tldr:
        sets["tldr"] = ("tldr", tldr(arguments.tldr))
    if arguments.mathematics:
        sets["mathematics"] = ("gsm", mathematics(arguments.mathematics))
    found: dict[str, Any] = {}
    shares: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, (salt, pairs) in sets.items():
            for embedder in EMBEDDERS:
                measured = Measured(pairs, embedder, Path(folder) / f"{title}-{embedder}")
                later = reported(salt, len(pairs))
                shares[f"{title}, {embedder}"] = at_shares(measured, np.flatnonzero(~later)).round(4).tolist()
                found[f"{title}, {embedder}"] = of_set(measured, np.flatnonzero(later))
                print(title, embedder, json.dumps(found[f"{title}, {embedder}"]), flush=True)
                measured.memory.close()
    means = np.mean(list(shares.values()), axis=0)
    chosen = {
        "shares": SHARES,
        "mrr": shares,
        "mean": means.round(4).tolist(),
        "best": SHARES[int(means.argmax())],
        "used": keywords.WORDS_SHARE,
    }
    result = {"machine": describe(), "chosen on the other half": chosen, "found": found, "scripts": of_scripts()}
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(chosen), json.dumps(result["scripts"], ensure_ascii=False))


if __name__ == "__main__":
    main()
