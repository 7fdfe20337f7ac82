"""Answers once more, from the words of the question alone and in another way than the one that made them up."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from fractions import Fraction

from sample_corpus.reading import numbers
from sample_corpus.recompute_measures import (
    averages,
    clock,
    interest,
    probability,
    ratios,
    shapes,
    shopping,
    speed,
    units,
)

DECIMAL = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)")


def value(expression: str, **variables: Fraction | int) -> Fraction:
    """Python's own grammar reckons, with fractions in the place of every number."""
    exact = DECIMAL.sub(r"Fraction('\1')", expression)
    exact = re.sub(r"\*\*Fraction\('(\d+)'\)", r"**\1", exact)
    return Fraction(eval(exact, {"__builtins__": {}, "Fraction": Fraction, **variables}))


def expression_in(question: str) -> str:
    return re.sub(r"^(What is|Calculate|Evaluate|Simplify|Work out|Add up)\s+|[.?]$", "", question)


def reckoned(question: str, answer: str) -> bool:
    return Fraction(answer) == value(expression_in(question))


def add_and_subtract(question: str, answer: str) -> bool:
    if question.startswith("What is"):
        return reckoned(question, answer)
    a, b = numbers(question)
    if question.startswith("Subtract"):
        return Fraction(answer) == b - a
    return Fraction(answer) == (a - b if "minus" in question else a + b)


def multiply(question: str, answer: str) -> bool:
    a, b = numbers(question)
    return Fraction(answer) / b == a


def divide(question: str, answer: str) -> bool:
    a, b = numbers(question)
    return str(Fraction(answer)) == answer and Fraction(answer) * b == a


def remainder(question: str, answer: str) -> bool:
    a, b = numbers(question)
    return 0 <= int(answer) < b and (a - int(answer)) / b == int((a - int(answer)) / b)


def percentages(question: str, answer: str) -> bool:
    a, b = numbers(question)
    if "% of it" in question:  # What is WHOLE plus PERCENT% of it?
        return Fraction(answer) / a == 1 + (b if "plus" in question else -b) / 100
    if question.startswith(("Increase", "Decrease")):
        return Fraction(answer) / a == 1 + (b if question.startswith("Increase") else -b) / 100
    return Fraction(answer) * 100 == a * b


def rounding(question: str, answer: str) -> bool:
    given = numbers(question)[0]
    places = ("whole number", "one", "two", "three")
    kept = next(k for k, words in enumerate(places) if f" {words}" in question)
    step = Fraction(1, 10**kept)
    return (Fraction(answer) / step).denominator == 1 and abs(given - Fraction(answer)) < step / 2


def ordering(question: str, answer: str) -> bool:
    given, said = numbers(question), numbers(answer)
    if question.startswith("Sort"):
        pairs = itertools.pairwise(said[::-1] if "descending" in question else said)
        return set(given) == set(said) and all(a < b for a, b in pairs)
    others = set(given) - set(said)
    return all(one < said[0] if "largest" in question else one > said[0] for one in others)


def equations(question: str) -> tuple[list[tuple[str, str]], str]:
    unknown = re.findall(r"for (\w)\.|What is (\w)\?|For which (\w) ", question)[0]
    body = re.sub(r"^(Solve|Let|For which \w is) | for \w\.$|\. What is \w\?$|\?$", "", question)
    body = body.replace(" equal to ", " = ")
    pairs = [tuple(side.strip() for side in one.split("=")) for one in body.split(" and ")]
    return pairs, "".join(unknown)


def linear_equation(question: str, answer: str) -> bool:
    [(left, right)], unknown = equations(question)

    def gap(x: int) -> Fraction:
        return value(left, **{unknown: Fraction(x)}) - value(right, **{unknown: Fraction(x)})

    return gap(int(answer)) == 0 != gap(int(answer) + 1)


def two_equations(question: str, answer: str) -> bool:
    """With the answer put in, both equations have the same other unknown; with another one they do not."""
    pairs, unknown = equations(question)
    other = (set(re.findall(r"[a-z]", " ".join(map(" ".join, pairs)))) - {unknown}).pop()

    def others(x: int) -> set[Fraction]:
        found = set()
        for left, right in pairs:
            at = [value(left, **{unknown: x, other: y}) - value(right) for y in (0, 1)]
            found.add(at[0] / (at[0] - at[1]))
        return found

    return len(others(int(answer))) == 1 < len(others(int(answer) + 1))


def quadratic_equation(question: str, answer: str) -> bool:
    [(left, _)], unknown = equations(question)
    roots = [x for x in range(-16, 17) if value(left, **{unknown: x}) == 0]
    return answer == ", ".join(map(str, roots))


def evaluate(question: str, answer: str) -> bool:
    variable, written, at = re.match(r"Let \w\((\w)\) = (.*)\. \w.*\((-?\d+)\)[.?]", question).groups()
    return int(answer) == value(written, **{variable: int(at)})


def derivative(question: str, answer: str) -> bool:
    """Central differences over five points are exact for polynomials up to the fourth degree."""
    written = re.sub(
        r"^(Differentiate|What is the (second )?derivative of) | (twice )?with respect.*|\?$", "", question
    )
    variable = re.search(r"[a-z]", written)[0]
    first, second = (
        (Fraction(1, 12), Fraction(-8, 12), 0, Fraction(8, 12), Fraction(-1, 12)),
        (
            Fraction(-1, 12),
            Fraction(16, 12),
            Fraction(-30, 12),
            Fraction(16, 12),
            Fraction(-1, 12),
        ),
    )
    weights = second if "second" in question or "twice" in question else first

    def slope(x: int) -> Fraction:
        return sum(w * value(written, **{variable: x + k - 2}) for k, w in enumerate(weights))

    return all(slope(x) == value(answer, **{variable: x}) for x in range(-3, 4))


def same_polynomial(question: str, answer: str) -> bool:
    written = re.sub(r"^(Expand|Multiply out|Collect the terms in|Simplify) |\.$", "", question)
    variable = re.search(r"[a-z]", written)[0]
    same = all(value(written, **{variable: x}) == value(answer, **{variable: x}) for x in range(-3, 4))
    terms = [re.sub(r"[-+ ]*(\d+\*?)?(?=[a-z]|$)", "", term) for term in re.split(r" [-+] ", answer)]
    return same and len(terms) == len(set(terms)) and "(" not in answer


def terms_of(question: str) -> tuple[list[int], int]:
    listed = re.search(r"begins (-?\d+(?:, -?\d+)+)", question)[1]
    n = int(re.search(r"number (\d+)|first (\d+) terms", question)[0].strip("numberfist ,"))
    return [int(one) for one in listed.split(", ")], n


def arithmetic_sequence(question: str, answer: str) -> bool:
    terms, n = terms_of(question)
    steps = {b - a for a, b in itertools.pairwise(terms)}
    while len(terms) < n:
        terms.append(terms[-1] + terms[1] - terms[0])
    return len(steps) == 1 and int(answer) == (sum(terms[:n]) if "sum" in question else terms[n - 1])


def geometric_sequence(question: str, answer: str) -> bool:
    terms, n = terms_of(question)
    ratio = Fraction(terms[1], terms[0])
    return terms[2] == terms[1] * ratio and Fraction(int(answer), terms[0]) == ratio ** (n - 1)


def line_through(question: str, answer: str) -> bool:
    a, b, c, d = numbers(question)
    return str(Fraction(answer)) == answer and b + Fraction(answer) * (c - a) == d


def greatest_common_divisor(question: str, answer: str) -> bool:
    a, b = map(int, numbers(question))
    return int(answer) == next(n for n in range(min(a, b), 0, -1) if a % n == b % n == 0)


def least_common_multiple(question: str, answer: str) -> bool:
    a, b = map(int, numbers(question.replace("1/", "")))
    return int(answer) == next(n for n in itertools.count(a, a) if n % b == 0)


def prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, int(n**0.5) + 1))


def prime_factors(question: str, answer: str) -> bool:
    given, found = int(numbers(question)[0]), [int(one) for one in answer.split(" * ")]
    return value(answer) == given and all(map(prime, found)) and found == sorted(found)


def is_prime(question: str, answer: str) -> bool:
    return answer == ("yes" if prime(int(numbers(question)[0])) else "no")


def divides(question: str, answer: str) -> bool:
    small, large = sorted(map(int, numbers(question)))
    said_small = "multiple" not in question
    right_way = (int(numbers(question)[0]) == small) == said_small
    return right_way and answer == ("yes" if large in range(0, large + 1, small) else "no")


def bases(question: str, answer: str) -> bool:
    written, source, target = re.search(
        r"(?:Write|What is|Convert) (\w+) (?:\(base|from base) (\d+)\)? (?:in|to) base (\d+)", question
    ).groups()
    return int(written, int(source)) == int(answer, int(target)) and not answer.startswith("0")


def roman_numerals(question: str, answer: str) -> bool:
    """Read letter by letter: a smaller one before a larger one is taken away."""
    letters = dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))
    given = re.search(r"\b[IVXLCDM]+\b(?= in)|\d+", question)[0]
    written, n = (answer, int(given)) if given.isdigit() else (given, int(answer))
    worth = [letters[letter] for letter in written]
    signed = [-a if a < b else a for a, b in zip(worth, [*worth[1:], 0], strict=True)]
    return sum(signed) == n and not re.search(r"(.)\1{3}|([VLD])\2", written)


def digits(question: str, answer: str) -> bool:
    n = re.search(r"\d+", question)[0]
    if "sum" in question:
        return int(answer) == sum(n.count(str(digit)) * digit for digit in range(10))
    places = ("units", "tens", "hundreds", "thousands", "ten thousands")
    place = places.index(re.search(r"the (.*) digit", question)[1])
    return answer == n[-1 - place]


def powers(question: str, answer: str) -> bool:
    if question.startswith("Calculate"):
        return reckoned(question, answer)
    given = int(numbers(question)[0])
    exponent = next(e for e, word in ((2, "square"), (3, "cube"), (4, "fourth")) if word in question)
    root, power = (int(answer), given) if "root" in question else (given, int(answer))
    product = 1
    for _ in range(exponent):
        product *= root
    return product == power


CHECKS: dict[str, Callable[[str, str], bool]] = {
    "several_operations": reckoned,
    "fractions": lambda question, answer: reckoned(question, answer) and str(Fraction(answer)) == answer,
    "long_sum": reckoned,
    "expand": same_polynomial,
    "collect_terms": same_polynomial,
    **{
        check.__name__: check
        for check in (
            add_and_subtract,
            multiply,
            divide,
            remainder,
            percentages,
            rounding,
            ordering,
            linear_equation,
            two_equations,
            quadratic_equation,
            evaluate,
            derivative,
            arithmetic_sequence,
            geometric_sequence,
            line_through,
            greatest_common_divisor,
            least_common_multiple,
            prime_factors,
            is_prime,
            divides,
            bases,
            roman_numerals,
            digits,
            powers,
            units,
            clock,
            speed,
            shapes,
            shopping,
            interest,
            averages,
            ratios,
            probability,
        )
    },
}
