"""The part that all command lines share: arguments, help, exit codes, and one sentence for each foreseeable failure."""

from __future__ import annotations

import codecs
import inspect
import io
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias, TypeVar, get_args

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console, ConsoleRenderable, RenderHook
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from jackpot_sim import help_pages, version
from jackpot_sim.help_pages import Chapter
from jackpot_sim.requirements import RequirementError, require
from jackpot_sim.start import INTERRUPTED, Working

WIDE = 160
"""The width of output that is no terminal: enough that no figure is cut."""

FLAG = Parameter(negative=(), show_default=False)
"""An option without a value, and without a `--no-…` form."""
MANY = Parameter(consume_multiple=True, negative_iterable=())
"""An option with any number of values."""
_LARGEST = 10**19
"""The size from which on a whole number is left as text: no count comes near it."""
UNPARSED = Parameter(parse=False)
"""An argument that is no option, and comes from `Split`."""

Split: TypeAlias = Callable[[list[str]], tuple[Mapping[str, object], list[str]]]
"""A command line → the unparsed arguments of the function, and the rest of the line."""

Chapters: TypeAlias = Callable[[Sequence[str]], Sequence[Chapter]]
"""A command line, which may name plug-ins → the chapters of its help."""


_SIGNS = {
    "‖": "||",
    "±": "+-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": ".",
    "•": "*",
    "×": "x",
    "√": "sqrt",
    "∇": "grad ",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "≪": "<<",
    "→": "->",
    "←": "<-",
    "↑": "^",
    "∈": "in",
    "∞": "inf",
    "⟨": "<",
    "⟩": ">",
    "∂": "d",
    "∝": "~",
    "ℓ": "l",
    "λ": "lambda",
    "Σ": "sum ",
    "′": "'",
    "’": "'",
}
"""Signs in ASCII, for an output that cannot show them."""


def in_ascii(text: str) -> str:
    """A text with its signs written out; what has no letters is a question mark.

    >>> in_ascii("KL(p‖q) ≤ 0.1±0.02, χ²"), in_ascii("½ café, 日")
    ('KL(p||q) <= 0.1+-0.02, chi^2', '1/2 cafe, ?')
    """
    return "".join(each if each.isascii() else _SIGNS.get(each) or _letters(each) for each in text)


def _letters(sign: str) -> str:
    """A letter without its accents, a Greek one by its name, a power with ^; else a question mark."""
    if unicodedata.combining(sign):
        return ""
    name = unicodedata.name(sign, "")
    if name.startswith("GREEK "):
        return name.split()[-1].lower()
    plain = unicodedata.normalize("NFKD", sign).replace("\N{FRACTION SLASH}", "/").encode("ascii", "ignore").decode()
    return f"^{plain}" if "<super>" in unicodedata.decomposition(sign) else plain or "?"


def _spelt_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error("signs", _spelt_out)


def _fail_on_no_sign() -> None:
    """Makes standard output and error write out the signs that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="signs")


def app_of(module: str, about: str, epilogue: str = "", default_parameter: Parameter | None = None) -> App:
    """A command line that is started by `python -m MODULE`; its `default` is the function that runs."""
    return App(
        name=f"python -m {module}",
        help=about,
        help_epilogue=epilogue,
        version=version.line,
        default_parameter=Parameter.combine(Parameter(converter=_converted), default_parameter),
    )


def _converted(kind: type, tokens: Sequence[cyclopts.Token]) -> object:
    """The value of an option; a number with a fraction is no count, where cyclopts would round it."""
    if kind is int or int in get_args(kind):
        tokens = [token.evolve(value=_counted(token.value)) for token in tokens]
    return cyclopts.convert(kind, tokens)


def _counted(text: str) -> str:
    number = whole_number(re.sub(r"\.0*$", "", text))
    if isinstance(number, str) and not re.fullmatch(r"[+-]?\d+", number):
        raise ValueError(f"{text!r} is no whole number")
    return str(number)


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
    chapters: Chapters | None = None,
) -> int:
    """Runs the function of a command on the arguments given.

    Args:
        app: the command line.
        name: the command, at the head of its sentences.
        argv: the arguments; None: those of the process.
        failures: the errors whose message is the whole answer.
        again: the effect of running the command again after an interruption.
        split: takes the unparsed arguments off the line.
        chapters: gives the chapters of a help that is long, for the command line.

    Returns:
        The function's exit code; 0 for help and the version, 2 for what cannot be done, 130 for an interruption.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    answers: tuple[type[Exception], ...] = (*failures, RequirementError, help_pages.HelpError)
    _fail_on_no_sign()
    if "--version" in tokens:
        print(version.line())
        return 0
    interrupted = f"interrupted; {again}" if again else "interrupted"
    try:
        with Working(f"{name}: {interrupted}"):
            return _answered(app, tokens, split, chapters)
    except answers as error:
        return _fail(name, str(error), 2)
    except cyclopts.CycloptsError as error:
        return _fail(name, f"{error} ({_hint(app, tokens)})", 2)
    except OSError as error:  # no process can be started, the output cannot be written
        return _fail(name, f"the system refuses: {error}", 2)
    except KeyboardInterrupt:
        return _fail(name, interrupted, INTERRUPTED)


def _answered(app: App, tokens: list[str], split: Split, chapters: Chapters | None) -> int:
    """The exit code of a command's function, or of its help text."""
    require()
    if any(token in ("--help", "-h") for token in tokens):
        _print_help(app, tokens, chapters)
        return 0
    unparsed, options = split(tokens)
    function, bound, _ = app.parse_args(options, exit_on_error=False, print_error=False)
    return int(function(*bound.args, **bound.kwargs, **unparsed))


def _print_help(app: App, tokens: Sequence[str], chapters: Chapters | None) -> None:
    """Prints all help, or the page of one that has chapters."""
    if chapters is None:
        app.help_print(tokens=[])
        return
    wanted, known, width = help_pages.asked_for(tokens), chapters(tokens), min(console().width, 100)
    if wanted is None:
        print(help_pages.short(app, known, width))
    elif wanted in (help_pages.OPTIONS, help_pages.ALL):
        app.help_print(tokens=[], console=Console(width=width))
        if wanted == help_pages.ALL:
            print(*("\n" + help_pages.filled(each.text, width) for each in known), sep="\n")
    else:
        print(help_pages.page(wanted, known, width))


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
    """The console for tables on standard output: as wide as the terminal, or as COLUMNS says; else wide enough."""
    told = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    output = Console(width=None if told else WIDE, highlight=False, markup=False, emoji=False)
    if not output.encoding.startswith("utf"):
        output.push_render_hook(_InAscii())
    return output


class _InAscii(RenderHook):
    """Writes signs out before tables are laid out, so that columns stay aligned."""

    @override
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        for each in renderables:
            if isinstance(each, Table):
                each.title, each.caption = _plain(each.title), _plain(each.caption)
                for column in each.columns:
                    column.header, column._cells = _plain(column.header), [_plain(cell) for cell in column._cells]
        return [_plain(each) for each in renderables]


Shown = TypeVar("Shown")


def _plain(shown: Shown) -> Shown:
    """A text in ASCII; anything else as it is."""
    if isinstance(shown, Text):
        shown.plain = in_ascii(shown.plain)
    return in_ascii(shown) if isinstance(shown, str) else shown  # type: ignore[return-value]
