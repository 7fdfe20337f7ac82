"""Whole numbers: divisors, primes, bases, digits, powers."""

from __future__ import annotations

import math
from random import Random

from benchmarks.sample_corpus.mathematics.problem import Exercise

ROMAN = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)
PLACES = ("units", "tens", "hundreds", "thousands", "ten thousands")


def greatest_common_divisor(rng: Random) -> Exercise:
    """Of two numbers that often have one."""
    a, b = _related(rng, 40, 40)
    question = rng.choice(
        (
            f"What is the greatest common divisor of {a} and {b}?",
            f"Calculate the highest common factor of {a} and {b}.",
            f"Find the largest number that divides both {a} and {b}.",
        )
    )
    return Exercise(question, str(math.gcd(a, b)), tuple(sorted((a, b))))


def least_common_multiple(rng: Random) -> Exercise:
    """Of two numbers."""
    a, b = _related(rng, 12, 25)
    question = rng.choice(
        (
            f"What is the least common multiple of {a} and {b}?",
            f"Find the smallest number that both {a} and {b} divide.",
            f"What is the lowest common denominator of 1/{a} and 1/{b}?",
        )
    )
    return Exercise(question, str(a * b // math.gcd(a, b)), tuple(sorted((a, b))))


def prime_factors(rng: Random) -> Exercise:
    """With repetitions, smallest first."""
    n = rng.randint(12, 20_000)
    question = rng.choice((f"What are the prime factors of {n}?", f"Write {n} as a product of primes."))
    return Exercise(question, " * ".join(map(str, factors(n))), (n,))


def is_prime(rng: Random) -> Exercise:
    """Is it, or is it not? About half of these are."""
    n = rng.randint(100, 30_000)
    if rng.random() < 0.5:
        n |= 1
        while factors(n) != [n]:
            n += 2
    question = rng.choice((f"Is {n} a prime number?", f"Is {n} prime?"))
    return Exercise(question, "yes" if factors(n) == [n] else "no", (n,))


def divides(rng: Random) -> Exercise:
    """Does one number divide another? About half of these do."""
    a = rng.randint(3, 60)
    b = a * rng.randint(2, 300) + (rng.randint(1, a - 1) if rng.random() < 0.5 else 0)
    question = rng.choice((f"Is {b} a multiple of {a}?", f"Does {a} divide {b}?", f"Is {a} a factor of {b}?"))
    return Exercise(question, "no" if b % a else "yes", (a, b))


def bases(rng: Random) -> Exercise:
    """From one base to another."""
    n, source, target = rng.randint(5, 4000), *rng.sample((2, 3, 5, 8, 10, 16), 2)
    written = in_base(n, source)
    question = rng.choice(
        (
            f"Write {written} (base {source}) in base {target}.",
            f"What is {written} (base {source}) in base {target}?",
            f"Convert {written} from base {source} to base {target}.",
        )
    )
    return Exercise(question, in_base(n, target), (n, source, target))


def roman_numerals(rng: Random) -> Exercise:
    """To and from the numerals of the Romans."""
    n, kind = rng.randint(1, 3999), rng.choice(("to", "from"))
    if kind == "to":
        return Exercise(f"Write {n} in Roman numerals.", roman(n), (kind, n))
    return Exercise(f"Which number is {roman(n)} in Roman numerals?", str(n), (kind, n))


def digits(rng: Random) -> Exercise:
    """A digit by its place, or the sum of them all."""
    n, kind = rng.randint(10_000, 999_999), rng.choice(("place", "sum"))
    if kind == "sum":
        return Exercise(f"What is the sum of the digits of {n}?", str(sum(map(int, str(n)))), (kind, n))
    place = rng.randrange(len(PLACES))
    return Exercise(f"What is the {PLACES[place]} digit of {n}?", str(n // 10**place % 10), (kind, n, place))


def powers(rng: Random) -> Exercise:
    """Powers, and roots that come out even."""
    base, exponent = rng.choice(((rng.randint(2, 999), 2), (rng.randint(2, 200), 3), (rng.randint(2, 20), 4)))
    name = {2: "square", 3: "cube", 4: "fourth"}[exponent]
    if rng.random() < 0.5:
        root = f"What is the {name} root of {base**exponent}?"
        return Exercise(root, str(base), ("root", base, exponent))
    of = f"fourth power of {base}" if exponent == 4 else f"{name} of {base}"
    question = rng.choice((f"What is the {of}?", f"Calculate {base}**{exponent}."))
    return Exercise(question, str(base**exponent), ("power", base, exponent))


def _related(rng: Random, common: int, rest: int) -> list[int]:
    """Two numbers that share a factor up to ``common``, and have others up to ``rest``."""
    shared = rng.randint(1, common)
    return [shared * factor for factor in rng.sample(range(2, rest + 1), 2)]


def factors(n: int) -> list[int]:
    """Return the prime factors of n ≥ 2, smallest first.

    >>> factors(360)
    [2, 2, 2, 3, 3, 5]
    """
    found, divisor = [], 2
    while divisor * divisor <= n:
        while n % divisor == 0:
            found.append(divisor)
            n //= divisor
        divisor += 1
    return [*found, n] if n > 1 else found


def in_base(n: int, base: int) -> str:
    """Write n ≥ 1.

    >>> in_base(255, 16), in_base(5, 2)
    ('ff', '101')
    """
    written = ""
    while n:
        n, digit = divmod(n, base)
        written = "0123456789abcdef"[digit] + written
    return written


def roman(n: int) -> str:
    """Write 1 to 3999.

    >>> roman(1994)
    'MCMXCIV'
    """
    written = ""
    for value, letters in ROMAN:
        written += letters * (n // value)
        n %= value
    return written
