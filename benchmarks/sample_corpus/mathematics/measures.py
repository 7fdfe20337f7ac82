"""The world: units, clocks, money, shapes, averages, chance."""

from __future__ import annotations

from fractions import Fraction
from random import Random

from benchmarks.sample_corpus.mathematics.problem import Exercise, decimal, number

# Larger unit, smaller unit, how many of these.
UNITS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("centimetres", "millimetres", 10),
    ("kilometres", "centimetres", 100_000),
    ("metres", "millimetres", 1000),
    ("kilograms", "grams", 1000),
    ("tonnes", "kilograms", 1000),
    ("grams", "milligrams", 1000),
    ("litres", "millilitres", 1000),
    ("litres", "centilitres", 100),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("hours", "seconds", 3600),
    ("days", "hours", 24),
    ("weeks", "days", 7),
)
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
GOODS = ("apples", "books", "candles", "lamps", "notebooks", "pencils", "plates", "tickets")
PEOPLE = ("Ada", "Ben", "Carla", "Dmitri", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jun")


def units(rng: Random) -> Exercise:
    """From one unit to another."""
    large, small, factor = rng.choice(UNITS)
    if rng.random() < 0.5:
        value = number(rng, 3, rng.choice((0, 1, 2)), signed=False)
        source, target, answer = large, small, value * factor
    else:
        # So many that the result has no more than two decimal places.
        answer = Fraction(rng.randint(1, 4000), rng.choice((1, 2, 4, 10)))
        source, target, value = small, large, answer * factor
    x = decimal(value)
    question = rng.choice((f"How many {target} are {x} {source}?", f"Convert {x} {source} to {target}."))
    return Exercise(question, decimal(answer), (x, source, target))


def clock(rng: Random) -> Exercise:
    """Minutes between two times of a day, or the time some minutes later."""
    start, passed = rng.randrange(20 * 60), rng.randint(5, 235)
    end = start + passed
    kind = rng.choice(("between", "after"))
    if kind == "between":
        question = f"How many minutes are there between {_time(start)} and {_time(end)}?"
        return Exercise(question, str(passed), (kind, start, end))
    question = f"It is {_time(start)}. What time is it {passed} minutes later?"
    return Exercise(question, _time(end), (kind, start, end))


def _time(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def speed(rng: Random) -> Exercise:
    """Distance, speed and time: from two of them the third."""
    velocity, hours = rng.randint(4, 150), Fraction(rng.randint(1, 40), 4)
    distance, kind = velocity * hours, rng.choice(("distance", "speed", "time"))
    d, t = decimal(distance), decimal(hours)
    who = rng.choice(("A train", "A cyclist", "A ship", "A car"))
    question, answer = {
        "distance": (f"{who} travels at {velocity} km/h for {t} hours. How many kilometres is that?", d),
        "speed": (f"{who} travels {d} kilometres in {t} hours. What is the speed in km/h?", str(velocity)),
        "time": (f"{who} travels {d} kilometres at {velocity} km/h. How many hours does it take?", t),
    }[kind]
    return Exercise(question, answer, (kind, velocity, t))


def shapes(rng: Random) -> Exercise:
    """Areas, perimeters and volumes."""
    a, b, c = (decimal(number(rng, 2, rng.choice((0, 0, 1)), signed=False)) for _ in range(3))
    x, y, z = Fraction(a), Fraction(b), Fraction(c)
    kind, question, value, sides = rng.choice(
        (
            ("area", f"A rectangle is {a} cm long and {b} cm wide. What is its area in square centimetres?", x * y, 2),
            (
                "perimeter",
                f"A rectangle is {a} cm long and {b} cm wide. What is its perimeter in centimetres?",
                2 * (x + y),
                2,
            ),
            (
                "triangle",
                f"A triangle has a base of {a} cm and a height of {b} cm. What is its area in square centimetres?",
                x * y / 2,
                2,
            ),
            ("volume", f"A box is {a} cm by {b} cm by {c} cm. What is its volume in cubic centimetres?", x * y * z, 3),
        )
    )
    return Exercise(question, decimal(value), (kind, *sorted((a, b, c)[:sides])))


def shopping(rng: Random) -> Exercise:
    """What something costs, and what comes back."""
    who, what, count, price = (
        rng.choice(PEOPLE),
        rng.choice(GOODS),
        rng.randint(2, 30),
        Fraction(rng.randint(5, 400), 20),
    )
    cost, kind = count * price, rng.choice(("cost", "change"))
    bought = f"{who} buys {count} {what} at {_money(price)} each"
    if kind == "cost":
        return Exercise(f"{bought}. What do they cost?", _money(cost), (kind, count, str(price)))
    paid = (int(cost) // 50 + 1) * 50
    question = f"{bought} and pays with {_money(Fraction(paid))}. How much change comes back?"
    return Exercise(question, _money(paid - cost), (kind, count, str(price)))


def _money(value: Fraction) -> str:
    cents = value * 100
    return f"{int(cents) // 100}.{int(cents) % 100:02}"


def interest(rng: Random) -> Exercise:
    """Simple interest: on the first sum alone."""
    amount, rate, years = rng.randint(1, 200) * 50, rng.randint(1, 12), rng.randint(2, 20)
    earned, who = Fraction(amount * rate * years, 100), rng.choice(PEOPLE)
    question = rng.choice(
        (
            f"What is the simple interest on {amount} at {rate}% a year for {years} years?",
            f"{who} lends {amount} at {rate}% a year, simple. How much interest is due in {years} years?",
        )
    )
    return Exercise(question, decimal(earned), (amount, rate, years))


def averages(rng: Random) -> Exercise:
    """The mean or the median."""
    values = [rng.randint(-20, 99) for _ in range(rng.choice((3, 4, 5, 7)))]
    kind, listed = rng.choice(("mean", "median")), ", ".join(map(str, values))
    if kind == "mean":
        answer = Fraction(sum(values), len(values))
    else:
        middle = sorted(values)[(len(values) - 1) // 2 : len(values) // 2 + 1]
        answer = Fraction(sum(middle), len(middle))
    question = rng.choice((f"What is the {kind} of {listed}?", f"Find the {kind} of {listed}."))
    return Exercise(question, str(answer), (kind, *sorted(values)))


def ratios(rng: Random) -> Exercise:
    """Share in a ratio: the larger part."""
    a, b = sorted(rng.sample(range(1, 13), 2))
    share = rng.randint(2, 120)
    first, second = rng.sample(PEOPLE, 2)
    question = f"{first} and {second} share {share * (a + b)} in the ratio {a}:{b}. How much does {second} get?"
    return Exercise(question, str(share * b), (a, b, share))


def probability(rng: Random) -> Exercise:
    """Balls out of a bag, one or two, without putting back."""
    first, second, third = rng.sample(COLOURS, 3)
    a, b, c = (rng.randint(2, 15) for _ in range(3))
    every = a + b + c
    bag = f"A bag holds {a} {first}, {b} {second} and {c} {third} balls."
    kind = rng.choice(("one", "not", "both", "each"))
    question, value = {
        "one": (f"{bag} One is drawn. What is the probability that it is {first}?", Fraction(a, every)),
        "not": (f"{bag} One is drawn. What is the probability that it is not {first}?", Fraction(b + c, every)),
        "both": (
            f"{bag} Two are drawn without putting back. What is the probability that both are {first}?",
            Fraction(a * (a - 1), every * (every - 1)),
        ),
        "each": (
            f"{bag} Two are drawn without putting back. What is the probability of one {first} and one {second}?",
            Fraction(2 * a * b, every * (every - 1)),
        ),
    }[kind]
    return Exercise(question, str(value), (kind, a, b, c))
