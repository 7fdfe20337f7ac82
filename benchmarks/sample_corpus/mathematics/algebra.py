"""Equations, polynomials, sequences."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from benchmarks.sample_corpus.mathematics.problem import Exercise, nonzero, polynomial, term, total

VARIABLES = "abcdhkmnpqrstuwxyz"


def linear_equation(rng: Random) -> Exercise:
    """One unknown, on one side or on both."""
    v, solution = rng.choice(VARIABLES), rng.randint(-20, 20)
    a, b = nonzero(rng, 12), nonzero(rng, 30)
    c = nonzero(rng, 9) if rng.random() < 0.4 else 0
    if a == c:
        c = 0
    left, right = polynomial([b, a], v), polynomial([(a - c) * solution + b, c], v)
    question = rng.choice((f"Solve {left} = {right} for {v}.", f"Let {left} = {right}. What is {v}?"))
    return Exercise(question, str(solution), (a, b, c, solution))


def two_equations(rng: Random) -> Exercise:
    """Two unknowns."""
    (v, w), p, q = rng.sample(VARIABLES, 2), rng.randint(-9, 9), rng.randint(-9, 9)
    a, b, c, d = (nonzero(rng, 7) for _ in range(4))
    if a * d == b * c:  # no single solution; after this there is one, because a is not 0
        d += 1 if d != -1 else 2
    first = f"{total([term(a, 1, v), term(b, 1, w)])} = {a * p + b * q}"
    second = f"{total([term(c, 1, v), term(d, 1, w)])} = {c * p + d * q}"
    question = rng.choice((f"Solve {first} and {second} for {v}.", f"Let {first} and {second}. What is {v}?"))
    return Exercise(question, str(p), (a, b, c, d, p, q))


def quadratic_equation(rng: Random) -> Exercise:
    """With whole solutions."""
    v, first, second, factor = (
        rng.choice(VARIABLES),
        rng.randint(-15, 15),
        rng.randint(-15, 15),
        rng.choice((1, 2, 3, 4, 5)),
    )
    left = polynomial([factor * first * second, -factor * (first + second), factor], v)
    question = rng.choice((f"Solve {left} = 0 for {v}.", f"For which {v} is {left} equal to 0?"))
    low, high = sorted((first, second))
    return Exercise(question, ", ".join(map(str, sorted({low, high}))), (low, high, factor))


def evaluate(rng: Random) -> Exercise:
    """The value of a polynomial at a place."""
    f, v = rng.choice("fghp"), rng.choice("tuxyz")
    coefficients, at = [*(rng.randint(-9, 9) for _ in range(rng.randint(1, 3))), nonzero(rng, 6)], rng.randint(-6, 6)
    value = sum(c * at**k for k, c in enumerate(coefficients))
    written = polynomial(coefficients, v)
    question = rng.choice(
        (
            f"Let {f}({v}) = {written}. What is {f}({at})?",
            f"Let {f}({v}) = {written}. Calculate {f}({at}).",
        )
    )
    return Exercise(question, str(value), (*coefficients, "at", at))


def derivative(rng: Random) -> Exercise:
    """Of a polynomial, the first or the second."""
    v, times = rng.choice("tuxyz"), rng.choice((1, 1, 2))
    coefficients = [*(rng.randint(-9, 9) for _ in range(rng.randint(2, 4))), nonzero(rng, 9)]
    derived = coefficients
    for _ in range(times):
        derived = [k * c for k, c in enumerate(derived)][1:]
    written = polynomial(coefficients, v)
    question = {
        1: (f"Differentiate {written} with respect to {v}.", f"What is the derivative of {written}?"),
        2: (f"Differentiate {written} twice with respect to {v}.", f"What is the second derivative of {written}?"),
    }[times]
    return Exercise(rng.choice(question), polynomial(derived, v), (times, *coefficients))


def expand(rng: Random) -> Exercise:
    """Multiply out."""
    v = rng.choice("tuxyz")
    a, b, c, d = nonzero(rng, 7), nonzero(rng, 12), nonzero(rng, 7), nonzero(rng, 12)
    written = f"({polynomial([b, a], v)})*({polynomial([d, c], v)})"
    question = rng.choice((f"Expand {written}.", f"Multiply out {written}."))
    return Exercise(
        question, polynomial([b * d, a * d + b * c, a * c], v), (*sorted(((a, b), (c, d)))[0], a * c, b * d)
    )


def collect_terms(rng: Random) -> Exercise:
    """Bring together what belongs together."""
    v = rng.choice("tuxyz")
    parts = [(nonzero(rng, 12), power) for power in (0, 0, 1, 1, rng.choice((1, 2)))]
    rng.shuffle(parts)
    sums = [sum(value for value, power in parts if power == wanted) for wanted in range(3)]
    written = total([term(value, power, v) for value, power in parts])
    question = rng.choice((f"Collect the terms in {written}.", f"Simplify {written}."))
    facts = tuple(number for part in sorted(parts) for number in part)
    return Exercise(question, polynomial(sums, v), facts)


def arithmetic_sequence(rng: Random) -> Exercise:
    """Equal steps: a term further on, or the sum of the first terms."""
    first, step, n = rng.randint(-50, 99), nonzero(rng, 25), rng.randint(5, 40)
    shown = ", ".join(str(first + k * step) for k in range(4))
    kind = rng.choice(("term", "sum"))
    if kind == "term":
        return Exercise(
            f"An arithmetic sequence begins {shown}. What is term number {n}?",
            str(first + (n - 1) * step),
            (kind, first, step, n),
        )
    return Exercise(
        f"An arithmetic sequence begins {shown}. What is the sum of its first {n} terms?",
        str(n * first + step * n * (n - 1) // 2),
        (kind, first, step, n),
    )


def geometric_sequence(rng: Random) -> Exercise:
    """Equal ratios: a term further on."""
    ratio, n = rng.choice((2, 3, 4, 5, -2, -3)), rng.randint(5, 8)
    first = nonzero(rng, 60)
    shown = ", ".join(str(first * ratio**k) for k in range(3))
    question = rng.choice(
        (
            f"A geometric sequence begins {shown}. What is term number {n}?",
            f"Find term number {n} of the geometric sequence that begins {shown}.",
        )
    )
    return Exercise(question, str(first * ratio ** (n - 1)), (first, ratio, n))


def line_through(rng: Random) -> Exercise:
    """The slope of a line through two points."""
    x, y, dx, dy = rng.randint(-12, 12), rng.randint(-12, 12), nonzero(rng, 12), rng.randint(-20, 20)
    question = rng.choice(
        (
            f"What is the slope of the line through ({x}, {y}) and ({x + dx}, {y + dy})?",
            f"A line goes through the points ({x}, {y}) and ({x + dx}, {y + dy}). Find its slope.",
        )
    )
    return Exercise(question, str(Fraction(dy, dx)), (x, y, dx, dy))
