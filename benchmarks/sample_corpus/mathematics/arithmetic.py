"""Reckoning: sums, products, fractions, percentages, rounding."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from benchmarks.sample_corpus.mathematics.problem import Exercise, decimal, number, total

PLACES = {0: "the nearest whole number", 1: "one decimal place", 2: "two decimal places", 3: "three decimal places"}


def add_and_subtract(rng: Random) -> Exercise:
    """Two numbers, some of them with decimals."""
    a = number(rng, 5, rng.choice((0, 0, 1, 2, 3)))
    b = number(rng, 5, rng.choice((0, 0, 1, 2)))
    x, y = decimal(a), decimal(b)
    if rng.random() < 0.5:
        question = rng.choice((f"What is {x} + {y}?", f"Add {x} and {y}.", f"Find the sum of {x} and {y}."))
        return Exercise(question, decimal(a + b), ("+", *sorted((x, y))))
    question = rng.choice((f"What is {x} - {y}?", f"Subtract {y} from {x}.", f"How much is {x} minus {y}?"))
    return Exercise(question, decimal(a - b), ("-", x, y))


def multiply(rng: Random) -> Exercise:
    """A product of two numbers."""
    a, b = number(rng, 4, rng.choice((0, 0, 1, 2))), number(rng, 2, rng.choice((0, 0, 1)))
    x, y = decimal(a), decimal(b)
    question = rng.choice((f"What is {x} times {y}?", f"Multiply {x} by {y}.", f"Work out {x} * {y}."))
    return Exercise(question, decimal(a * b), tuple(sorted((x, y))))


def divide(rng: Random) -> Exercise:
    """A quotient, as a whole number or a fraction in lowest terms."""
    divisor = int(number(rng, 2, signed=False)) + 1
    dividend = int(number(rng, 3)) * (divisor if rng.random() < 0.5 else 1)
    question = rng.choice(
        (
            f"Divide {dividend} by {divisor}.",
            f"What is {dividend} divided by {divisor}?",
            f"Write {dividend} / {divisor} in its simplest form.",
        )
    )
    return Exercise(question, str(Fraction(dividend, divisor)), (dividend, divisor))


def remainder(rng: Random) -> Exercise:
    """Division that does not come out even."""
    a, b = rng.randint(20, 9999), rng.randint(3, 99)
    question = rng.choice(
        (
            f"What is the remainder when {a} is divided by {b}?",
            f"Divide {a} by {b}. What is left over?",
            f"Calculate {a} modulo {b}.",
        )
    )
    return Exercise(question, str(a % b), (a, b))


def several_operations(rng: Random) -> Exercise:
    """Sums, products and brackets."""
    a, b, c, d = (rng.randint(2, 30) for _ in range(4))
    expression, value = rng.choice(
        (
            (f"{a} + {b} * {c} - {d}", a + b * c - d),
            (f"({a} + {b}) * ({c} - {d})", (a + b) * (c - d)),
            (f"{a} * {b} - {c} * {d}", a * b - c * d),
            (f"{a} - ({b} - {c}) * {d}", a - (b - c) * d),
            (f"({a} - {b} + {c}) * {d}", (a - b + c) * d),
        )
    )
    question = rng.choice((f"Evaluate {expression}.", f"What is {expression}?", f"Calculate {expression}."))
    return Exercise(question, str(value), (expression,))


def fractions(rng: Random) -> Exercise:
    """Two fractions, added, subtracted, multiplied or divided."""
    a, b = (Fraction(rng.randint(1, 19), rng.randint(2, 20)) for _ in range(2))
    sign = rng.choice("+-*/")
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
    expression = f"({a}) {sign} ({b})"
    question = rng.choice((f"What is {expression}?", f"Calculate {expression}.", f"Simplify {expression}."))
    return Exercise(question, str(value), (sign, str(a), str(b)))


def percentages(rng: Random) -> Exercise:
    """A part of a whole, and what is a percentage more or less."""
    percent, whole = rng.choice((rng.randint(1, 20) * 5, rng.randint(1, 99))), rng.randint(1, 200) * rng.choice((1, 10))
    kind = rng.choice(("of", "more", "less"))
    part = Fraction(percent * whole, 100)
    value = {"of": part, "more": whole + part, "less": whole - part}[kind]
    question = {
        "of": (f"What is {percent}% of {whole}?", f"Find {percent} percent of {whole}."),
        "more": (f"Increase {whole} by {percent}%.", f"What is {whole} plus {percent}% of it?"),
        "less": (f"Decrease {whole} by {percent}%.", f"What is {whole} less {percent}% of it?"),
    }[kind]
    return Exercise(rng.choice(question), decimal(value), (kind, percent, whole))


def rounding(rng: Random) -> Exercise:
    """To some decimal places. Numbers half-way between two are not asked for: there are several rules for those."""
    kept = rng.choice(list(PLACES))
    value = number(rng, 4, kept + 2, signed=True)
    scaled = abs(value) * 10**kept
    if scaled % 1 == Fraction(1, 2):
        value += Fraction(1, 10 ** (kept + 2))
        scaled = abs(value) * 10**kept
    rounded = Fraction(int(scaled + Fraction(1, 2)), 10**kept) * (-1 if value < 0 else 1)
    x = decimal(value)
    question = rng.choice((f"Round {x} to {PLACES[kept]}.", f"What is {x} rounded to {PLACES[kept]}?"))
    return Exercise(question, decimal(rounded), (x, kept))


def ordering(rng: Random) -> Exercise:
    """Sort numbers, or name the largest or smallest of them."""
    values: set[Fraction] = set()
    wanted = rng.randint(4, 6)
    while len(values) < wanted:
        values.add(number(rng, 2, rng.choice((0, 0, 1, 2))))
    mixed = sorted(values)
    rng.shuffle(mixed)
    listed = ", ".join(map(decimal, mixed))
    kind = rng.choice(("up", "down", "largest", "smallest"))
    if kind in {"largest", "smallest"}:
        chosen = max(values) if kind == "largest" else min(values)
        question, answer = f"Which is the {kind} of {listed}?", decimal(chosen)
    else:
        answer = ", ".join(map(decimal, sorted(values, reverse=kind == "down")))
        question = f"Sort {listed} in {'de' if kind == 'down' else 'a'}scending order."
    return Exercise(question, answer, (kind, *map(decimal, sorted(values))))


def long_sum(rng: Random) -> Exercise:
    """A chain of additions and subtractions."""
    values = [int(number(rng, 3)) for _ in range(rng.randint(4, 6))]
    listed = total([str(value) for value in values])
    question = rng.choice((f"Calculate {listed}.", f"What is {listed}?", f"Add up {listed}."))
    return Exercise(question, str(sum(values)), tuple(sorted(values)))
