"""Write the sample corpus, or compare the file that is there with what this Python would write."""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import platform
import sys
from collections import Counter
from pathlib import Path

from benchmarks.sample_corpus import corpus, packing

from siftlm import sample


def main() -> None:
    ask = argparse.ArgumentParser(prog="python -m benchmarks.sample_corpus", description=__doc__)
    ask.add_argument("--out", type=Path, default=sample.FILE, metavar="FILE", help="left out, the file of the package")
    ask.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the contents differ")
    given = ask.parse_args()

    if missing := corpus.inventory().missing:
        sys.exit(f"this Python came without {' and '.join(missing)}")
    text = packing.lines(packing.records())
    if given.check:
        if lzma.decompress(given.out.read_bytes()) != text:
            sys.exit(f"{given.out.name} holds something else than Python {platform.python_version()} would write")
        print(f"{given.out.name} holds what Python {platform.python_version()} would write")
        return
    data = packing.compressed(text)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(data)
    print(summary(text))
    print(f"{given.out}: {len(data):,} bytes of {len(text):,}, sha256 {hashlib.sha256(data).hexdigest()}")


def summary(text: bytes) -> str:
    """Count records and characters of every part and kind."""
    counts: Counter[tuple[str, str]] = Counter()
    characters: Counter[tuple[str, str]] = Counter()
    for one in map(json.loads, text.splitlines()[1:]):
        key = one["part"], one["kind"]
        counts[key] += 1
        characters[key] += len(one["text"])
    return "\n".join(
        f"{part:8}  {kind:11}  {count:6,} records  {characters[part, kind]:10,} characters"
        for (part, kind), count in sorted(counts.items())
    )


if __name__ == "__main__":
    main()
