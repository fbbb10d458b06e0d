"""Shell completion of `jackpot-sim`: one static script of all commands and options, so that a Tab starts no Python.

Beside the options that a command's function declares there are those of the fields of studies, dotted where they lie
deeper, with the kinds and the corrections that they may name.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from cyclopts import App, Parameter

from jackpot_sim import version
from jackpot_sim.__main__ import COMMANDS, INSTALL
from jackpot_sim.commands import FLAG, UNPARSED, answer, app_of
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable

NAME = "jackpot-sim"

Options: TypeAlias = Mapping[str, Sequence[str]]
"""Options by name, each with the values that it may have; none where they are free."""


class Shell(StrEnum):
    """The shells for which there are scripts."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


class CompletionError(ValueError):
    """A script for no shell that is known."""


app = app_of(
    "jackpot_sim completion",
    f"Print the script by which a shell completes the commands and options of {NAME}.",
    f"`{NAME} {INSTALL}` does the same and loads it: it writes the script where the shell looks, and a line that loads "
    "it into .bashrc or .zshrc. Completion then begins with the next shell.",
)


@app.default
def completion(shell: Shell | None = None, /, *, install: Annotated[bool, FLAG] = False) -> int:
    """Print or install it.

    Args:
        shell: The shell; by default the one that this runs in.
        install: Write it where the shell looks for it, and have it loaded.
    """
    from cyclopts.completion import ShellDetectionError, detect_shell

    try:
        chosen = shell or Shell(detect_shell())
    except (ValueError, RuntimeError, ShellDetectionError) as error:  # none is found, or one of others
        raise CompletionError(f"this runs in no known shell: name one of {', '.join(Shell)}") from error
    whole = every_command()
    if not install:
        print(whole.generate_completion(shell=chosen.value), end="")
        return 0
    try:
        path = whole.install_completion(shell=chosen.value)
    except OSError as error:
        raise unwritable(Path(error.filename or Path.home()), error) from error
    print(f"{path}: complete with Tab in the next {chosen}.")
    return 0


def every_command() -> App:
    """The command line of which every command is a part."""
    whole = App(name=NAME, help="Actor-policy mismatch in RL for language models.", version=version.line)
    for name, (module, about) in COMMANDS.items():
        part = _figures() if name == "figures" else _with_fields(importlib.import_module(module).app, _fields(name))
        part.help = about
        whole.command(part, name=name)
    whole.command(_installs, name=INSTALL)
    return whole


def _installs(shell: Shell | None = None, /) -> None:
    """Let a shell complete commands and options."""


def _fields(name: str) -> Options:
    """The options of a command that are fields of its studies."""
    if name == "train":
        from jackpot_sim.training.config import Training

        return dict(_dotted(Training))
    if name == "sweep":
        from jackpot_sim.estimators import names
        from jackpot_sim.sweep.worlds import Environment

        return {"--estimators": names(), **dict(_dotted(Environment, ("env",)))}
    return {}


_DEPTH = 3
"""The most names of an option of a field."""


def _dotted(kind: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Sequence[str]]]:
    """The options of the fields of a configuration, and of all kinds where there are several."""
    for member in _members(kind):
        for field, hint in _hints(member).items():
            path = (*above, field.replace("_", "-"))
            yield f"--{'.'.join(path)}", _kinds(kind if field == "kind" else hint)
            if len(path) < _DEPTH:
                yield from _dotted(hint, path)


def _members(kind: Any) -> list[type]:
    """The classes of configurations that a type may be."""
    if get_origin(kind) in (Annotated, Union, types.UnionType, tuple):
        return list(itertools.chain.from_iterable(map(_members, get_args(kind))))
    return [kind] if isinstance(kind, type) and _hints(kind) else []


def _hints(kind: type) -> Mapping[str, Any]:
    """The fields of a configuration with their types; none of any other class."""
    if dataclasses.is_dataclass(kind):
        names = [each.name for each in dataclasses.fields(kind)]
    else:
        # The parameters of a correction are fields of its own, and no mapping that an option could name.
        names = [name for name in getattr(kind, "model_fields", {}) if name != "parameters"]
    hints = get_type_hints(kind, include_extras=True) if names else {}
    return {name: hints[name] for name in names}


def _kinds(kind: Any) -> list[str]:
    """The names of kinds and the words that a type may be; all corrections for one of them."""
    from jackpot_sim.estimators import names
    from jackpot_sim.studies.estimator_spec import EstimatorSpec

    if kind is EstimatorSpec:
        return list(names())
    if get_origin(kind) is Literal:
        return [str(each) for each in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [str(each) for each in kind]
    if get_origin(kind) in (Annotated, Union, types.UnionType):
        return list(dict.fromkeys(itertools.chain.from_iterable(map(_kinds, get_args(kind)))))
    fields = _hints(kind) if isinstance(kind, type) else {}
    return _kinds(fields["kind"]) if "kind" in fields else []


def _with_fields(part: App, fields: Options) -> App:
    """A command as it is, with the options of fields beside those of its function."""
    if not fields or part.default_command is None:
        return part
    function = part.default_command
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    own = {name: each.replace(annotation=hints[name]) for name, each in signature.parameters.items()}
    given = [
        each
        for name, each in own.items()
        if UNPARSED not in get_args(each.annotation) and f"--{name.replace('_', '-')}" not in fields
    ]
    added = [
        inspect.Parameter(
            f"field_{at}",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Literal[tuple(values)] | None if values else str | None, Parameter(name=option)],
        )
        for at, (option, values) in enumerate(fields.items())
    ]

    def shown(**_: object) -> int:
        return 0

    shown.__signature__ = signature.replace(parameters=[*given, *added])  # type: ignore[attr-defined]
    shown.__annotations__ = {each.name: each.annotation for each in (*given, *added)}
    shown.__doc__ = function.__doc__
    whole = App(name=part.name, version_flags=part.version_flags)
    whole.default(shown)
    return whole


def _figures() -> App:
    """The command of the figures, of which one may be named."""
    figures_of = importlib.import_module(COMMANDS["figures"][0]).FIGURES

    def figures(
        name: str | None = None,
        /,
        *,
        records: Path | None = None,
        rerun: Annotated[bool, FLAG] = False,
        out: Path = Path("figures"),
    ) -> None:
        """Draw."""

    figures.__annotations__["name"] = Literal[tuple(figures_of)] | None
    part = App(name="figures")
    part.default(figures)
    return part


def main(argv: Sequence[str] | None = None) -> int:
    """Prints or installs the script; the exit code."""
    return answer(app, "completion", argv, failures=(CompletionError, StudyError))
