"""Reports of the stages of long work with real models, on their way to whoever listens."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override

_LOG = logging.getLogger("jackpot_sim.environments")
_FIELD = "report"


class Stage(StrEnum):
    """A stage of the measurement of real models."""

    LOADING = "loading"
    SOLVING = "solving for the target KL"
    ACTOR_WRITES = "actor writes"
    POLICY_WRITES = "policy writes"
    SCORING = "scoring"
    GRADIENTS = "gradients"


@dataclass(frozen=True)
class Report:
    """The rollouts that a stage has done, of all that it is to do; 0 of 0 where it has none."""

    stage: Stage
    done: int = 0
    total: int = 0


_ENCLOSING: ContextVar[Stage | None] = ContextVar("enclosing stage", default=None)


def report(stage: Stage, done: int = 0, total: int = 0) -> None:
    """Tells listeners, and the log at level INFO; inside `enclosing` it is told as the beginning of that stage."""
    told = Report(stage, done, total) if (outer := _ENCLOSING.get()) is None else Report(outer)
    counted = f": {told.done} of {told.total} rollouts" if told.total else ""
    _LOG.info("%s%s", told.stage, counted, extra={_FIELD: told})


@contextlib.contextmanager
def enclosing(stage: Stage) -> Iterator[None]:
    """A block in which all reports are those of one stage."""
    token = _ENCLOSING.set(stage)
    try:
        yield
    finally:
        _ENCLOSING.reset(token)


@contextlib.contextmanager
def listened(hear: Callable[[Report], object]) -> Iterator[None]:
    """A block in which `hear` is called with each report of this process."""

    class Handler(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(told := getattr(record, _FIELD, None), Report):
                hear(told)

    handler, level = Handler(logging.INFO), _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)
