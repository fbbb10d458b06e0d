"""The part that all command lines share: arguments, help, exit codes, and one sentence for each foreseeable failure."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console

from jackpot_sim.requirements import RequirementError, require

WIDE = 160
"""The width of output that is no terminal: enough that no figure is cut."""

FLAG = Parameter(negative=())
"""An option without a value, and without a `--no-…` form."""
MANY = Parameter(consume_multiple=True, negative_iterable=())
"""An option with any number of values."""
_LARGEST = 10**19
"""The size from which on a whole number is left as text: no count comes near it."""
UNPARSED = Parameter(parse=False)
"""An argument that is no option, and comes from `Split`."""

Split: TypeAlias = Callable[[list[str]], tuple[Mapping[str, object], list[str]]]
"""A command line → the unparsed arguments of the function, and the rest of the line."""


def app_of(module: str, about: str, epilogue: str = "", default_parameter: Parameter | None = None) -> App:
    """A command line that is started by `python -m MODULE`; its `default` is the function that runs."""
    return App(
        name=f"python -m {module}",
        help=about,
        help_epilogue=epilogue,
        version_flags=[],
        default_parameter=default_parameter,
    )


def whole_number(text: str) -> int | str:
    """The whole number that a text means in powers of ten; any other text as it is.

    >>> whole_number("1e9"), whole_number("2.5E+3"), whole_number("1e-9"), whole_number("12"), whole_number("1e99")
    (1000000000, 2500, '1e-9', '12', '1e99')
    """
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?[eE]\+?\d\d?", text):
        return text
    number = Decimal(text)
    return int(number) if number == int(number) and abs(number) < _LARGEST else text


def answer(
    app: App,
    name: str,
    argv: Sequence[str] | None,
    *,
    failures: tuple[type[Exception], ...] = (),
    again: str = "",
    split: Split = lambda tokens: ({}, tokens),
) -> int:
    """Runs the function of a command on the arguments given.

    Args:
        app: the command line.
        name: the command, at the head of its sentences.
        argv: the arguments; None: those of the process.
        failures: the errors whose message is the whole answer.
        again: the effect of running the command again after an interruption.
        split: takes the unparsed arguments off the line.

    Returns:
        The function's exit code; 0 for help, 2 for what cannot be done, 130 for an interruption.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    answers: tuple[type[Exception], ...] = (*failures, RequirementError)
    try:
        require()
        if any(token in ("--help", "-h") for token in tokens):
            app.help_print(tokens=[])
            return 0
        unparsed, options = split(tokens)
        function, bound = _parsed(app, options)
        return int(function(*bound.args, **bound.kwargs, **unparsed))
    except answers as error:
        return _fail(name, str(error), 2)
    except cyclopts.CycloptsError as error:
        return _fail(name, f"{error} ({_hint(app, tokens)})", 2)
    except OSError as error:  # no process can be started, the output cannot be written
        return _fail(name, f"the system refuses: {error}", 2)
    except KeyboardInterrupt:
        return _fail(name, f"interrupted; {again}" if again else "interrupted", 130)


def _parsed(app: App, options: list[str]) -> tuple[Callable[..., object], inspect.BoundArguments]:
    """The function of a command, and its arguments."""
    try:
        function, bound, _ = app.parse_args(options, exit_on_error=False, print_error=False)
    except cyclopts.CoercionError:
        numbers = [str(whole_number(token)) for token in options]
        if numbers == options:
            raise
        function, bound, _ = app.parse_args(numbers, exit_on_error=False, print_error=False)
    return function, bound


def _hint(app: App, tokens: Sequence[str]) -> str:
    files = [token for token in tokens if token.endswith((".yaml", ".yml", ".toml"))]
    takes_a_study = app.default_command is not None and "config" in inspect.signature(app.default_command).parameters
    if files and takes_a_study and "--config" not in tokens:
        return f"give a study's file as --config {files[0]}"
    return "see --help"


def _fail(name: str, sentence: str, code: int) -> int:
    print(f"{name}:", *sentence.split(), file=sys.stderr)
    return code


def console() -> Console:
    """The console for tables on standard output."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False, emoji=False)
