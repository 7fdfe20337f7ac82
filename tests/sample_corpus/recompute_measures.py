"""Answers about the world once more: units, clocks, money, shapes, averages, chance."""

from __future__ import annotations

import datetime
import itertools
import re
import statistics
from fractions import Fraction

from sample_corpus.reading import numbers

METRES = {"kilometres": "1000", "metres": "1", "centimetres": "0.01", "millimetres": "0.001"}
GRAMS = {"tonnes": "1000000", "kilograms": "1000", "grams": "1", "milligrams": "0.001"}
LITRES = {"litres": "1", "centilitres": "0.01", "millilitres": "0.001"}
SECONDS = {"weeks": "604800", "days": "86400", "hours": "3600", "minutes": "60", "seconds": "1"}


def units(question: str, answer: str) -> bool:
    known = (METRES, GRAMS, LITRES, SECONDS)
    amount, one, other = re.search(r"([\d.]+) (\w+)(?: to (\w+))?", question).groups()
    other = other or re.search(r"many (\w+)", question)[1]
    kind = next(kind for kind in known if one in kind)
    return Fraction(amount) * Fraction(kind[one]) == Fraction(answer) * Fraction(kind[other])


def clock(question: str, answer: str) -> bool:
    def time(text: str) -> datetime.datetime:
        return datetime.datetime.strptime(text, "%H:%M")  # noqa: DTZ007

    times = [time(one) for one in re.findall(r"\d\d:\d\d", question)]
    if "between" in question:
        return times[0] + datetime.timedelta(minutes=int(answer)) == times[1]
    passed = int(re.search(r"(\d+) minutes", question)[1])
    return time(answer) - times[0] == datetime.timedelta(minutes=passed)


def speed(question: str, answer: str) -> bool:
    given = {"h": Fraction(answer), "km": Fraction(answer), "km/h": Fraction(answer)}
    for unit, pattern in (
        ("km/h", r"([\d.]+) km/h"),
        ("h", r"in ([\d.]+) hours|for ([\d.]+) hours"),
        ("km", r"([\d.]+) kilometres in|([\d.]+) kilometres at"),
    ):
        if found := re.search(pattern, question):
            given[unit] = Fraction(next(one for one in found.groups() if one))
    return given["km"] == given["km/h"] * given["h"]


def shapes(question: str, answer: str) -> bool:
    sides, said = numbers(question), Fraction(answer)
    if "box" in question:
        return said / sides[0] / sides[1] == sides[2]
    if "triangle" in question:
        return said / sides[0] == sides[1] / 2
    return said - 2 * sides[0] == 2 * sides[1] if "perimeter" in question else said / sides[0] == sides[1]


def shopping(question: str, answer: str) -> bool:
    count, price, *paid = numbers(question)
    cost = sum([price] * int(count))
    return re.fullmatch(r"\d+\.\d\d", answer) is not None and (
        cost + Fraction(answer) == paid[0] and Fraction(answer) > 0 if paid else Fraction(answer) == cost
    )


def interest(question: str, answer: str) -> bool:
    amount, rate, years = numbers(question)
    return Fraction(answer) == sum([amount * rate / 100] * int(years))


def averages(question: str, answer: str) -> bool:
    given = numbers(question)
    return Fraction(answer) == (statistics.mean(given) if "mean" in question else statistics.median(given))


def ratios(question: str, answer: str) -> bool:
    first, second, whole, a, b, asked = re.match(
        r"(\w+) and (\w+) share (\d+) in the ratio (\d+):(\d+)\. How much does (\w+) get\?", question
    ).groups()
    rest = int(whole) - int(answer)
    return asked == second != first and rest * int(b) == int(answer) * int(a)


def probability(question: str, answer: str) -> bool:
    """Count all draws one by one."""
    bag = [colour for count, colour in re.findall(r"(\d+) (\w+)", question) for _ in range(int(count))]
    wanted = re.findall(r"[a-z]+", question[question.index("probability") :])
    colours = [word for word in wanted if word in bag]
    if "One is drawn" in question:
        draws = [one == colours[0] for one in bag]
        draws = [not one for one in draws] if "not" in wanted else draws
    elif "both" in wanted:
        draws = [one == two == colours[0] for one, two in itertools.permutations(bag, 2)]
    else:
        draws = [{one, two} == set(colours) for one, two in itertools.permutations(bag, 2)]
    return Fraction(answer) == Fraction(sum(draws), len(draws)) and str(Fraction(answer)) == answer
