"""Rewards of answers that are compared as mathematics."""

from __future__ import annotations

import importlib
import logging
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from types import ModuleType
from typing import Literal

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count
from jackpot_sim.requirements import require

MARK = "####"
"""The mark before the answer in solutions of GSM8K."""

_LONGEST = 400
"""The most characters of an answer; a longer one is wrong."""

_SECONDS = 5
"""The most seconds of one comparison, where a thread can be interrupted."""

_MOST_DIGITS = 1e5
"""The most digits of an answer whose powers are worked out: `9^{9^{9^9}}` would take for ever."""

_LARGE_BINOMIAL = re.compile(r"binom\b.*(?:\d{5}|\^|!)", re.DOTALL)
"""A binomial coefficient that may be large: math-verify works it out while reading."""

_BRACES = re.compile(r"\\f?boxed\s*\{|[{}]")
_NUMBER = re.compile(r"[-+]?(?:\d+/0*[1-9]\d*|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class MathReward:
    r"""1 if the completion's answer equals the right one as mathematics (math-verify), else 0.

    The answer is the content of the last \boxed{...}, or else the text after the last ####, or else the last number or
    formula that math-verify finds in the text. math-verify takes 12 and 12% for the same.

    Attributes:
        marked: whether only an answer in \boxed{...} or after #### counts.
        rounding: the decimals in which numbers must agree, unless they are written as integers or fractions.
    """

    kind: Literal["math"] = "math"
    marked: bool = False
    rounding: int = 6

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("rounding", self.rounding, 1, 15)

    def of_texts(self, completions: Sequence[str], answers: Sequence[str]) -> Floats:
        """R of shape (n,) for n completions and the answers of their prompts.

        Raises:
            ValueError: math-verify is not installed, or an answer is empty.
        """
        pairs = zip(completions, answers, strict=True)
        with _silent():
            return np.array([self._right(completion, answer.strip()) for completion, answer in pairs], dtype=np.float64)

    def _right(self, completion: str, answer: str) -> bool:
        if not answer:
            raise ValueError("an answer is empty: give the right answer of every prompt")
        marked = marked_answer(completion)
        if (marked is None and self.marked) or (marked is not None and len(marked) > _LONGEST):
            return False
        plain = completion.strip() if marked is None else marked
        if plain == answer:
            return True
        given, wanted = _number(plain), _number(answer)
        if given is not None and wanted is not None and (given == wanted or given.denominator == wanted.denominator):
            return given == wanted
        return self._verified(plain if marked is None else _boxed(plain), answer)

    def _verified(self, text: str, answer: str) -> bool:
        # Only the end of a long text: the answer stands there, and reading takes time.
        text = text[-2 * _LONGEST :]
        if _LARGE_BINOMIAL.search(text):
            return False
        given = _parsed(text)
        if sum(map(_digits, given)) > _MOST_DIGITS:
            return False
        wanted = _parsed(_boxed(answer))
        return bool(
            _library().verify(list(wanted), list(given), float_rounding=self.rounding, timeout_seconds=_timeout())
        )


def marked_answer(completion: str) -> str | None:
    r"""The content of the last \boxed{...}, or else the line after the last ####; None if there is neither.

    >>> marked_answer(r"First \boxed{3}, then \boxed{\frac{1}{2}}."), marked_answer("3*4=12\n#### 12")
    ('\\frac{1}{2}', '12')
    """
    opened: list[tuple[bool, int]] = []
    last, answer = -1, None
    for brace in _BRACES.finditer(completion):
        if brace[0] != "}":
            opened.append((len(brace[0]) > 1, brace.end()))
        elif opened:
            is_box, start = opened.pop()
            if is_box and start > last:
                last, answer = start, completion[start : brace.start()].strip()
    if answer is not None:
        return answer
    if MARK in completion:
        return completion.rpartition(MARK)[2].strip().partition("\n")[0].strip()
    return None


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _number(text: str) -> Fraction | None:
    """The number in `text`; None if it is anything but a number."""
    text = text.strip().removeprefix("\\").removeprefix("$").removesuffix("$").strip()
    return Fraction(text.replace(",", "")) if len(text) <= _LONGEST and _NUMBER.fullmatch(text) else None


@cache
def _library() -> ModuleType:
    require("math-verify", purpose="comparing answers as mathematics")
    return importlib.import_module("math_verify")  # which has no annotations, as sympy


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[object, ...]:
    """The expressions that math-verify reads in `text`."""
    return tuple(_library().parse(text, fallback_mode="no_fallback", parsing_timeout=_timeout()))


def _digits(expression: object) -> float:
    """The approximate number of digits of an expression once its powers and factorials are worked out."""
    sympy = importlib.import_module("sympy")
    if isinstance(expression, sympy.MatrixBase):
        return sum(map(_digits, expression), 0.0)
    if not isinstance(expression, sympy.Basic):
        return 0.0
    if isinstance(expression, sympy.Rational):
        return math.log10(max(2, abs(int(expression.p)), int(expression.q)))
    parts = [_digits(each) for each in expression.args]
    if isinstance(expression, sympy.Pow | sympy.factorial):
        # The exponent, or n: the number of factors.
        return float(max(1.0, parts[0]) * 10.0 ** min(parts[-1], 100.0))
    return sum(parts)


def _timeout() -> int | None:
    """The seconds after which math-verify gives up, by a signal; None outside the main thread, which alone gets it."""
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


@contextmanager
def _silent() -> Iterator[None]:
    """Without math-verify's reports of what it could not read, which is an answer like any other here."""
    logger = logging.getLogger("math_verify")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
