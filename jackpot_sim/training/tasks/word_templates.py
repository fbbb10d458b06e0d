"""The stories behind `WordProblems`: each makes a problem with its working from names, things and small numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

NAMES = ("Ana", "Ben", "Chloe", "Dev", "Ema", "Finn", "Gita", "Hugo", "Ines", "Jon", "Kira", "Leo")
THINGS = ("apples", "books", "cards", "eggs", "marbles", "pens", "shells", "stamps")


@dataclass(frozen=True)
class Words:
    """The words of a story.

    Attributes:
        name: the name of the person who acts.
        other: the name of another person.
        things: a noun in the plural.
    """

    name: str
    other: str
    things: str


@dataclass(frozen=True)
class Told:
    """A problem in words.

    Attributes:
        question: the text of the problem.
        working: equations that lead to the answer.
        answer: the answer: an integer, a decimal number or a fraction in lowest terms.
    """

    question: str
    working: str
    answer: str


Numbers: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A story.

    Attributes:
        numbers: how many of the drawn numbers the story uses, from the first on; each is at least 2.
        tell: the function that makes the problem.
        whole: whether every answer is an integer.
    """

    numbers: int
    tell: Callable[[Words, Numbers], Told]
    whole: bool = True


def _gift(words: Words, numbers: Numbers) -> Told:
    a, b = numbers
    question = f"{words.name} has {a} {words.things}. {words.other} gives {words.name} {b} more."
    ask = f"How many {words.things} does {words.name} have now?"
    return Told(f"{question} {ask}", f"{a}+{b}={a + b}", str(a + b))


def _loss(words: Words, numbers: Numbers) -> Told:
    a, b = numbers
    question = f"{words.name} had {a + b} {words.things} and lost {b} of them. How many are left?"
    return Told(question, f"{a + b}-{b}={a}", str(a))


def _boxes(words: Words, numbers: Numbers) -> Told:
    a, b, c = numbers
    question = f"{words.name} has {a} boxes of {b} {words.things} and {c} loose ones. How many {words.things} is that?"
    return Told(question, f"{a}*{b}={a * b}, {a * b}+{c}={a * b + c}", str(a * b + c))


def _sharing(words: Words, numbers: Numbers) -> Told:
    a, b = numbers
    question = f"{words.name} shares {a * b} {words.things} equally among {b} friends. How many does each friend get?"
    return Told(question, f"{a * b}/{b}={a}", str(a))


def _comparison(words: Words, numbers: Numbers) -> Told:
    a, b = numbers
    question = f"{words.other} has {a} {words.things}. {words.name} has {b} times as many."
    ask = "How many do they have together?"
    return Told(f"{question} {ask}", f"{a}*{b}={a * b}, {a * b}+{a}={a * b + a}", str(a * b + a))


def _reading(words: Words, numbers: Numbers) -> Told:
    a, b, c = numbers
    left = a * b
    question = f"A book has {left + c} pages. {words.name} has read {c} of them and reads {a} pages a day from now on."
    working = f"{left + c}-{c}={left}, {left}/{a}={b}"
    return Told(f"{question} In how many days will {words.name} finish it?", working, str(b))


def _minutes(words: Words, numbers: Numbers) -> Told:
    a, b = numbers
    question = f"{words.name} walked for {a} hours and {b} minutes. How many minutes is that?"
    return Told(question, f"{a}*60={a * 60}, {a * 60}+{b}={a * 60 + b}", str(a * 60 + b))


def _lengths(words: Words, numbers: Numbers) -> Told:
    a, b, c = numbers
    rope = a * 100
    question = f"{words.name} joins a rope of {a} m and {b} pieces of {c} cm each. How long is it all in cm?"
    return Told(question, f"{a}*100={rope}, {b}*{c}={b * c}, {rope}+{b * c}={rope + b * c}", str(rope + b * c))


def _rest(words: Words, numbers: Numbers) -> Told:
    a, b, c = numbers
    paid = a * b + c
    question = f"{words.name} buys {a} {words.things} at ${b} each and pays with ${paid}. How many dollars come back?"
    return Told(question, f"{a}*{b}={a * b}, {paid}-{a * b}={c}", str(c))


def _cents(words: Words, numbers: Numbers) -> Told:
    a, b = numbers
    price, total = _money(25 * b), _money(25 * a * b)
    question = f"{words.name} buys {a} {words.things} at ${price} each. How many dollars is that?"
    return Told(question, f"{a}*{price}={total}", total)


def _cake(words: Words, numbers: Numbers) -> Told:
    a, b = numbers
    whole, left = a + b, Fraction(b, a + b)
    question = f"A cake has {whole} equal pieces. {words.name} eats {a} of them. What fraction of the cake is left?"
    return Told(question, f"{whole}-{a}={b}, {b}/{whole}={left}", str(left))


def _part(words: Words, numbers: Numbers) -> Told:
    a, b, c = numbers
    total, per = (a + b) * c, a * c
    question = f"{words.name} has {total} {words.things}, and {a}/{a + b} of them are red. How many are red?"
    return Told(question, f"{total}/{a + b}={c}, {c}*{a}={per}", str(per))


def _recipe(words: Words, numbers: Numbers) -> Told:
    a, b, c = numbers
    cups = Fraction(a * c, b)
    question = f"One cake takes {a}/{b} cups of flour. How many cups do {c} cakes of {words.name} take?"
    return Told(question, f"{c}*{a}/{b}={a * c}/{b}={cups}", str(cups))


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


TEMPLATES = (
    Template(2, _gift),
    Template(2, _loss),
    Template(3, _boxes),
    Template(2, _sharing),
    Template(2, _comparison),
    Template(3, _reading),
    Template(2, _minutes),
    Template(3, _lengths),
    Template(3, _rest),
    Template(3, _part),
    Template(2, _cents, whole=False),
    Template(2, _cake, whole=False),
    Template(3, _recipe, whole=False),
)
"""The stories; held-out problems are numbered in this order, so a new story goes last."""
