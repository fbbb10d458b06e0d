"""The side of a Ray executor that runs in its workers, on whatever node: where it runs, and a task called there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import signal
import traceback
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from threadpoolctl import threadpool_limits

from jackpot_sim.studies.executors import THREADS

PACKAGE = Path(__file__).parents[1]
_DECIDE_FIGURES = ("jackpot-sim", "numpy", "scipy", "torch", "transformers")
"""The packages on which figures depend."""


class Setting(NamedTuple):
    """The setting of a task, as the process that hands it out has it."""

    versions: tuple[tuple[str, str], ...]
    """The names of packages with what `versions` says of them there."""
    folder: str
    """Its working folder, against which paths of a study are meant."""
    threads: int
    """The threads that a worker may compute with."""
    gpus: float
    """The GPUs that are reserved for it."""


class Outcome(NamedTuple):
    """The outcome of a task: one of the three."""

    value: object = None
    error: Exception | None = None
    refusal: str = ""
    """The sentence of a worker that cannot run the tasks of this study at all."""


def versions() -> Mapping[str, str]:
    """The packages of this process on which figures depend, with their versions and a digest of our own code."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _DECIDE_FIGURES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    found["jackpot-sim"] = f"{found.get('jackpot-sim', 'of a folder')} with code {_code()}"
    return MappingProxyType(found)


def _code() -> str:
    """A digest of this package's code: two checkouts of one version may differ."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def called(task: bytes, setting: bytes) -> bytes:
    """The outcome of a pickled task, pickled: arrays that Ray itself carries could not be written to.

    Args:
        task: a function, its arguments and its named arguments.
        setting: the setting of the task, pickled.
    """
    outcome = Outcome(refusal=_refusal(setting))
    if not outcome.refusal:
        try:
            function, arguments, named = pickle.loads(task)
            outcome = Outcome(function(*arguments, **named))
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))  # pickled, an error has no traceback
            outcome = Outcome(error=error)
    return _pickled(outcome)


def _pickled(outcome: Outcome) -> bytes:
    """The outcome pickled, an error in its place that has its text where it cannot be sent.

    An error may be pickled here and fail where it is made again; raised here it would pass for the cluster's own.
    """
    try:
        pickled = pickle.dumps(outcome)
        if outcome.error is not None:
            pickle.loads(pickled)
    except Exception as error:
        told = outcome.error or error
        sent = ValueError(str(told)) if isinstance(told, ValueError) else RuntimeError(f"{type(told).__name__}: {told}")
        return pickle.dumps(Outcome(error=sent))
    return pickled


@functools.cache
def _refusal(pickled: bytes) -> str:
    """Prepares this process, once; the reason for which it cannot run tasks, "" if it can."""
    setting: Setting = pickle.loads(pickled)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that hands tasks out answers Ctrl-C, in one sentence
    threadpool_limits(setting.threads)
    for name in THREADS:
        os.environ[name] = str(setting.threads)  # of libraries that are loaded later
    if not setting.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray shows a worker all GPUs that it has not asked for
    # A node that lacks the folder can still measure what needs no files.
    with contextlib.suppress(OSError):
        os.chdir(setting.folder)
    here = versions()
    for name, wanted in setting.versions:
        if here.get(name) != wanted:
            return (
                f"node {platform.node()} has {name} {here.get(name, '(none)')} where this one has {wanted}: install "
                "the same versions on every node"
            )
    return ""
