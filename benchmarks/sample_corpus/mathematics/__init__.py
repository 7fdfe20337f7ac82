"""School mathematics, made up: questions with their answers, as many as are wanted, and all of them right.

    >>> from random import Random
    >>> problem = MODULES["greatest_common_divisor"](Random(1))
    >>> print(problem.question, problem.answer)
    Calculate the highest common factor of 342 and 54. 18

A module is one kind of problem. Which problems are held out depends on the module and the problem's facts alone, not
on the wording, the seed or how many are drawn: what is held out in one corpus is in no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from benchmarks.sample_corpus import families
from benchmarks.sample_corpus.mathematics import algebra, arithmetic, measures, numbers
from benchmarks.sample_corpus.mathematics.problem import Exercise

from siftlm.errors import InvalidInput
from siftlm.types import Document

MODULES: dict[str, Callable[[Random], Exercise]] = {
    draw.__name__: draw
    for draw in (
        arithmetic.add_and_subtract,
        arithmetic.multiply,
        arithmetic.divide,
        arithmetic.remainder,
        arithmetic.several_operations,
        arithmetic.fractions,
        arithmetic.percentages,
        arithmetic.rounding,
        arithmetic.ordering,
        arithmetic.long_sum,
        algebra.linear_equation,
        algebra.two_equations,
        algebra.quadratic_equation,
        algebra.evaluate,
        algebra.derivative,
        algebra.expand,
        algebra.collect_terms,
        algebra.arithmetic_sequence,
        algebra.geometric_sequence,
        algebra.line_through,
        numbers.greatest_common_divisor,
        numbers.least_common_multiple,
        numbers.prime_factors,
        numbers.is_prime,
        numbers.divides,
        numbers.bases,
        numbers.roman_numerals,
        numbers.digits,
        numbers.powers,
        measures.units,
        measures.clock,
        measures.speed,
        measures.shapes,
        measures.shopping,
        measures.interest,
        measures.averages,
        measures.ratios,
        measures.probability,
    )
}
# Problems in a document: about as many as a passage of 256 tokens holds.
TOGETHER = 8
# Draws for one new problem before a module is said to have no more.
PATIENCE = 2000


def problems(module: str, *, seed: int = 0, held_out: bool = False) -> Iterator[Exercise]:
    """Draw problems of a module, none of them twice, until it has no more."""
    rng = Random(f"{module} {seed} {held_out}")
    seen: set[tuple[int | str, ...]] = set()
    tried = 0
    while tried < PATIENCE:
        tried += 1
        problem = MODULES[module](rng)
        if problem.facts not in seen and is_held_out(module, problem) == held_out:
            seen.add(problem.facts)
            tried = 0
            yield problem


def is_held_out(module: str, problem: Exercise) -> bool:
    """Is it for prompts only?"""
    return families.held_out("mathematics", module, *map(str, problem.facts))


def documents(
    batches: int, *, seed: int = 0, held_out: bool = False, modules: list[str] | None = None
) -> Iterator[Document]:
    """So many documents of each module: `TOGETHER` problems, with a blank line between them, where a cut may be."""
    for module in MODULES if modules is None else modules:
        drawn = problems(module, seed=seed, held_out=held_out)
        for batch in range(batches):
            some = [f"{problem.question}\n{problem.answer}" for _, problem in zip(range(TOGETHER), drawn, strict=False)]
            if len(some) < TOGETHER:
                raise InvalidInput(f"{module} has no more problems than {batch * TOGETHER + len(some)}")
            name = f"{module} {batch + 1}"
            meta = {"kind": "mathematics", "source": module, "name": name}
            yield Document("\n\n".join(some), meta, f"mathematics:{'held out ' if held_out else ''}{name}")
