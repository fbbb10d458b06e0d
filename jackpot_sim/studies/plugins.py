"""Corrections of the user's own in a study: files or modules that register them, and a digest of their contents.

A plug-in is run in every process of a study. The records depend on its contents: the digest of the corrections that a
study names is part of its hash, and a process that finds other contents than the first one did refuses to go on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, NamedTuple, TypeAlias

from pydantic import BeforeValidator

from jackpot_sim.commands import MANY
from jackpot_sim.estimators import names
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.estimators.corrections.completeness import RegistrationError
from jackpot_sim.estimators.corrections.correction import Correction, is_ours
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.help_texts import fields

Option: TypeAlias = Annotated[list[str] | None, MANY]
"""The option --plugin of a command, which `of_option` takes."""

_OPTION = "--plugin"


class Plugin(NamedTuple):
    """A plug-in that was run."""

    source: str
    """The file, or the module's name, as it was given."""
    digest: str
    """SHA-256 of its contents, in hex."""
    names: tuple[str, ...]
    """The corrections that it registers."""
    content: bytes = b""
    """The contents of a file, for processes that do not see it."""


_LOADED: dict[str, Plugin] = {}
"""The plug-ins that this process has run, by source."""
_DIGESTS: dict[str, str] = {}
"""The digests of modules, by name."""


def load(sources: Iterable[str]) -> tuple[Plugin, ...]:
    """Runs plug-ins that register corrections; one that was run and has not changed since is not run again.

    Args:
        sources: files that end in .py, or names of modules that can be imported.

    Raises:
        StudyError: a plug-in cannot be found or run, or registers nothing or no whole correction.
    """
    return tuple(_loaded(str(source)) for source in sources)


def loaded() -> tuple[Plugin, ...]:
    """The plug-ins that this process has run."""
    return tuple(_LOADED.values())


def _loaded(source: str, carried: bytes = b"") -> Plugin:
    known = _known(source)
    try:
        if source.endswith(".py"):
            _LOADED[source] = _from_file(source, known, carried)
        elif known is None:
            _LOADED[source] = _from_module(source)
    except RegistrationError as error:
        raise StudyError(f"plug-in {source}: {error}") from error
    return _LOADED[source]


def _known(source: str) -> Plugin | None:
    """The plug-in as this process has run it."""
    known = _LOADED.get(source)
    return known if known is not None and registry.has(known.names) else None


def _from_file(source: str, known: Plugin | None, carried: bytes) -> Plugin:
    path = Path(source)
    try:
        content = path.read_bytes()
    except OSError as error:
        if not carried:
            raise StudyError(f"plug-in {source} cannot be read: {error.strerror}") from error
        content = carried
    digest = hashlib.sha256(content).hexdigest()
    if known is not None and known.digest == digest:
        return known
    name = f"plugged_in_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    before = sys.modules.get(name)

    def run() -> None:
        sys.modules[name] = module  # dataclasses look up the annotations of a class in its module
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))

    try:
        registered = registry.load(run, name)
    except RegistrationError:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    _DIGESTS[name] = digest
    return Plugin(source, digest, registered, content)


def _from_module(source: str) -> Plugin:
    if not all(part.isidentifier() for part in source.split(".")):
        raise StudyError(f"plug-in {source}: give a file that ends in .py, or the name of a module")
    try:
        found = importlib.util.find_spec(source)
    except (ImportError, ValueError):  # the package around it is missing
        found = None
    except (Exception, SystemExit) as error:  # … or fails
        raise StudyError(
            f"plug-in {source}: its package cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if found is None:
        hint = f"; did you mean {source}.py?" if Path(f"{source}.py").is_file() else ""
        raise StudyError(f"plug-in {source}: there is no such module{hint}")
    registered = registry.load(lambda: importlib.import_module(source), source)
    return Plugin(source, _digest_of(sys.modules[source]), registered)


def require_unchanged(plugins: Iterable[Plugin]) -> None:
    """Runs the plug-ins of the process that began a study, in another one, on a node that may not have their files.

    Raises:
        StudyError: as `load`, or a plug-in has changed in between.
    """
    for plugin in plugins:
        known = _known(plugin.source)
        if known is None or known.digest != plugin.digest:
            known = _loaded(plugin.source, plugin.content)
        if known.digest != plugin.digest:
            raise StudyError(f"plug-in {plugin.source} has changed since the study began: run the same command again")


def digests(kinds: Iterable[str]) -> dict[str, str]:
    """A digest of the contents of each correction of these that is not ours, by its name.

    A correction in a file stands for that file, one in a package for all Python files beside it and below.
    """
    return {name: _digest(registry.registered(name)) for name in registry.plugged_in(kinds)}


def _digest(correction: type[Correction]) -> str:
    ancestors = [each for each in correction.__mro__ if issubclass(each, Correction) and not is_ours(each)]
    modules = dict.fromkeys(each.__module__ for each in ancestors)
    parts = [_digest_of(sys.modules[name]) for name in modules if name in sys.modules]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest_of(module: ModuleType) -> str:
    """The digest of a module's contents when it was first asked for, which is when a plug-in is run."""
    if module.__name__ not in _DIGESTS:
        file = getattr(module, "__file__", None)
        path = Path(file or "")  # a class that was typed into a session has no file
        files = sorted(path.parent.rglob("*.py")) if module.__package__ else [path] if file else []
        _DIGESTS[module.__name__] = hashlib.sha256(
            b"".join(hashlib.sha256(each.read_bytes()).digest() for each in files)
        ).hexdigest()
    return _DIGESTS[module.__name__]


def of_line(tokens: Sequence[str]) -> list[str]:
    """The plug-ins that a command line names, for its help: the values of --plugin.

    >>> of_line(["--plugin", "a.py", "b", "--quiet", "--plugin=c.py"])
    ['a.py', 'b', 'c.py']
    """
    sources, takes = [], False
    for token in tokens:
        option, _, value = token.partition("=")
        if token.startswith("-"):
            takes = token == _OPTION
            sources += [value] if option == _OPTION and value else []
        elif takes:
            sources.append(token)
    return sources


def of_option(option: Sequence[str] | None) -> tuple[str, ...]:
    """Runs the plug-ins of the option --plugin, and gives them as they were given; none where it was not used.

    Raises:
        StudyError: as `load`, or the option has no value.
    """
    if option is not None and not option:
        raise StudyError(f"{_OPTION}: name a file that ends in .py, or a module")
    return loaded_of(option)


def help_text(tokens: Sequence[str]) -> str:
    """The corrections that are not ours, for the help of a command whose line is given.

    Raises:
        StudyError: as `load`.
    """
    load(of_line(tokens))
    known = [f"{name} {fields(registry.registered(name))}".strip() for name in registry.plugged_in(names())]
    plugged = f" Plugged in: {'; '.join(known)}." if known else ""
    broken = "".join(f" But {sentence}." for sentence in registry.unusable_packages())
    return (
        "Corrections of your own are classes in a file or a module (`--plugin FILE.py`, or `plugins: [FILE.py]` in a "
        f"config file), or in an installed package that names it in the entry-point group {registry.GROUP}; "
        f"docs/extending.md shows one.{plugged}{broken}"
    )


def loaded_of(first: object, *others: object) -> tuple[str, ...]:
    """Runs the plug-ins that fields and options name, each a name or a list, and gives them as they were given, once.

    Raises:
        StudyError: as `load`, or a value is something else.
    """
    sources: list[object] = []
    for value in (first, *others):
        sources += value if isinstance(value, list | tuple) else [] if value is None else [value]
    if wrong := [each for each in sources if not isinstance(each, str) or not each]:
        raise StudyError(f"plugins: give files that end in .py or names of modules, not {wrong[0]!r}")
    return tuple(dict.fromkeys(plugin.source for plugin in load(str(each) for each in sources)))


Plugins: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(loaded_of)]
"""The field of a configuration that names plug-ins; they are run where it is read, so it stands before estimators."""
