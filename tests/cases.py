"""One test for many cases: where they are many and quick, a test for each takes longer to set up than to run."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

Test = Callable[..., None]


def each(names: str, cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Runs a test for each of these cases, as one; what fails names its case.

    Args:
        names: the arguments that a case gives, separated by commas.
        cases: tuples of their values, or plain values of a single one.
    """
    arguments, rows = [name.strip() for name in names.split(",")], list(cases)
    assert rows, f"no case of {names}"

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            for row in rows:
                case = dict(zip(arguments, row if len(arguments) > 1 else (row,), strict=True))
                try:
                    test(**case, **fixtures)
                except BaseException as error:
                    error.add_note(f"at {', '.join(f'{name} = {value!r}' for name, value in case.items())}")
                    raise

        signature = inspect.signature(test)
        others = [p for name, p in signature.parameters.items() if name not in arguments]
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    return decorate


every = itertools.product
"""Every combination of some lists, for `each`."""


def rotating(first: Iterable[Any], second: Iterable[Any], *others: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Every pair of the first two, while the others take turns: any two values meet, if not any three."""
    for (i, a), (j, b) in itertools.product(enumerate(first), enumerate(second)):
        yield (a, b, *(other[(i + turn * j) % len(other)] for turn, other in enumerate(others, 1)))
