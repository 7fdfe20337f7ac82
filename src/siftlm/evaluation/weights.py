"""How much each domain counts in a weighted mean."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput

# Share of the Pile in percent, by `pile_set_name`: Gao et al. 2020, "The Pile", table 1, column "Weight".
PILE_WEIGHTS: Mapping[str, float] = {
    "Pile-CC": 18.11,
    "PubMed Central": 14.40,
    "Books3": 12.07,
    "OpenWebText2": 10.01,
    "ArXiv": 8.96,
    "Github": 7.59,
    "FreeLaw": 6.12,
    "StackExchange": 5.13,
    "USPTO Backgrounds": 3.65,
    "PubMed Abstracts": 3.07,
    "Gutenberg (PG-19)": 2.17,
    "OpenSubtitles": 1.55,
    "Wikipedia (en)": 1.53,
    "DM Mathematics": 1.24,
    "Ubuntu IRC": 0.88,
    "BookCorpus2": 0.75,
    "EuroParl": 0.73,
    "HackerNews": 0.62,
    "YoutubeSubtitles": 0.60,
    "PhilPapers": 0.38,
    "NIH ExPorter": 0.30,
    "Enron Emails": 0.14,
}
BUILT_IN_WEIGHTS = {"pile": PILE_WEIGHTS}


def domain_weights(given: str | os.PathLike[str] | Mapping[str, float], domains: Sequence[str]) -> dict[str, float]:
    """A weight for each of ``domains``; one that the weights do not name counts for nothing.

    >>> weights_of("pile", ["Github", "ArXiv", "Recipes"])
    {'Github': 7.59, 'ArXiv': 8.96, 'Recipes': 0.0}
    """
    known = given if isinstance(given, Mapping) else BUILT_IN_WEIGHTS.get(str(given)) or _read_weights(Path(given))
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InvalidInput(f"weights: the weight of {name!r} is {value!r}; it must be a number from 0 on")
    found = {name: float(known.get(name, 0.0)) for name in domains}
    if not sum(found.values()):
        raise InvalidInput(
            f"weights name none of the domains {', '.join(domains)}; they name {', '.join(map(str, known))}"[:400]
        )
    return found


def _read_weights(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path}: there is no such file of weights; give one, or pile") from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(known, dict) or not known:
        raise InvalidInput(f'{path}: must hold an object such as {{"Github": 7.6, "ArXiv": 9}}')
    return known
