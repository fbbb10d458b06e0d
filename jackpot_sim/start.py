"""The start of a command: from here on Ctrl-C ends its process with one sentence and exit code 130.

Python's own answer, a KeyboardInterrupt wherever the process is, serves only while a command works and has things to
put in order. Before, and after, it would show as a traceback. Inside an import it may also be lost: packages take it
for one of their own failures, and the import system drops it in its callbacks. There the process ends at once, which
loses no finished record.
"""

from __future__ import annotations

# What Python holds in itself: any other import would take time in which there is no answer yet.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
"""The exit code of an interruption."""

_IMPORTS = "<frozen importlib._bootstrap"
"""The beginning of the file names of Python's import system."""
_SHOW_CURSOR = b"\x1b[?25h"
"""Terminals hide their cursor under a progress display, which can no longer bring it back."""


class _Told:
    """The sentence of an interruption, and whether it is a KeyboardInterrupt for the command to catch."""

    sentence = ""
    raised = False


class Working:
    """A block in which Ctrl-C raises KeyboardInterrupt, other than inside an import."""

    def __init__(self, sentence: str) -> None:
        """The sentence is that of an interruption inside an import, and after the block."""
        self._sentence, self._before = sentence, False

    def __enter__(self) -> None:
        self._before, _Told.sentence = _Told.raised, self._sentence
        _Told.raised = True

    def __exit__(self, *_: object) -> None:
        _Told.raised = self._before


def run(name: str, module: str) -> int:
    """Runs `main()` of a command's module on the arguments of the process; the exit code, see `requirements.run`."""
    answer_interrupts(name)
    try:
        from jackpot_sim import requirements
    except ImportError as error:  # of packaging, by which versions are compared
        install = "pip install -c constraints-cpu.txt '.' in the project's folder"
        print(f"{name}: {error}: install this project first, {install}", file=sys.stderr)
        return 2
    return requirements.run(name, module)


def answer_interrupts(name: str) -> None:
    """Takes Ctrl-C over for the rest of the process; one that ignores it, as in the background, still does.

    Args:
        name: the command, at the head of the sentence.
    """
    _Told.sentence = f"{name}: interrupted before it began"
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
        sys.unraisablehook = _unraisable


def _interrupted(_: int, frame: FrameType | None) -> None:
    if not _Told.raised or _imports(frame):
        _end()
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """True where a module is being imported."""
    while frame is not None and not frame.f_code.co_filename.startswith(_IMPORTS):
        frame = frame.f_back
    return frame is not None


def _unraisable(error: sys.UnraisableHookArgs) -> None:
    """Ends the process where a KeyboardInterrupt cannot be raised, as in a destructor; tells any other error."""
    if issubclass(error.exc_type, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(error)


def _end() -> NoReturn:
    if os.isatty(1):
        os.write(1, _SHOW_CURSOR)
    os.write(2, f"{_Told.sentence}\n".encode())
    os._exit(INTERRUPTED)
