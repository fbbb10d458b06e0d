"""How a command ends: each foreseeable failure is one sentence on stderr, and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import cyclopts

from jackpot_sim.requirements import RequirementError
from jackpot_sim.studies.errors import StudyError


def answered(name: str, tokens: Sequence[str], answer: Callable[[list[str]], int], *, again: str) -> int:
    """The exit code of a command: what `answer` gives, 2 for what cannot be done, 130 where it is interrupted.

    Args:
        name: the command, at the head of its sentences.
        tokens: the command line.
        answer: does what it asks for.
        again: what the same command would do after an interruption.
    """
    try:
        return answer(list(tokens))
    except (StudyError, RequirementError) as error:
        return _fail(name, str(error), 2)
    except cyclopts.CycloptsError as error:
        files = [token for token in tokens if token.endswith((".yaml", ".yml", ".toml"))]
        hint = f"give a study's file as --config {files[0]}" if files and "--config" not in tokens else "see --help"
        return _fail(name, f"{error} ({hint})", 2)
    except OSError as error:  # no process can be started, the output cannot be written
        return _fail(name, f"the system refuses: {error}", 2)
    except KeyboardInterrupt:
        return _fail(name, f"interrupted; {again}", 130)


def _fail(name: str, sentence: str, code: int) -> int:
    print(f"{name}:", *sentence.split(), file=sys.stderr)
    return code
