"""The time and memory that a correction adds to a GRPO step, for each way to the overlap Z.

[J] says that its method costs less than 3 % of a step. The correction's part is timed inside the step, between
the forward pass and the loss: the difference of two whole steps would be lost in their noise. The ratio of whole
steps is given too, to show that nothing has been left out.
"""

from __future__ import annotations

import gc
import logging
import statistics
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jackpot_sim import estimators
from jackpot_sim.bench import grpo_step
from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.grpo_step import Rollouts, Seconds, Trainer, WayToZ, Weigh
from jackpot_sim.bench.memory import torch_peak_bytes
from jackpot_sim.bench.settings import DEFAULT, Options, Setting, require_room, settings
from jackpot_sim.bench.timing import Finding, in_turn, ratios
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.estimators import Correction


@dataclass(frozen=True)
class Method:
    """A correction in a step, with its way to Z."""

    correction: Correction | None = None
    way: WayToZ | None = None
    compiled: bool = False

    @property
    def name(self) -> str:
        """The name in findings."""
        name = "none" if self.correction is None else self.correction.name
        return " ".join([name, *([str(self.way)] if self.way else []), *(["compiled"] if self.compiled else [])])

    def labels(self) -> dict[str, str | float]:
        """The labels that distinguish this method from the others."""
        correction = "none" if self.correction is None else self.correction.name
        return {
            "correction": correction,
            "way": str(self.way or ""),
            "mode": "compiled" if self.compiled else "eager",
        }

    def weigh(self) -> Weigh | None:
        """The part of a step that belongs to this method."""
        if self.correction is None:
            return None
        import torch

        eager = partial(grpo_step.weigh, self.correction, self.way)
        return torch.compile(eager) if self.compiled else eager


NONE = Method()
METHODS = (
    NONE,
    Method(estimators.get("tis")),
    *(Method(estimators.get("jackpot"), way) for way in WayToZ),
)
COMPILED = Method(estimators.get("jackpot"), WayToZ.BRACKET, compiled=True)
"""On CUDA only: on a CPU a compiled function of so few numbers spends longer on its guards than it saves."""

_DECODED_AT_ONCE = {"cpu": 32, "cuda": 256}
"""The number of sequences that a server decodes side by side, and so of laws whose top-k it takes at once."""


@dataclass
class _Measured:
    """The seconds of every step, the uncounted first one included."""

    steps: list[Seconds] = field(default_factory=list)

    def shares(self) -> list[float]:
        """The correction's part in each round, in percent of its step."""
        return [100 * each.weights / each.step for each in self.steps[1:]]


def overhead(options: Options = DEFAULT) -> Iterator[Finding]:
    """The cost of every correction and every way to Z, in turn, at each shape and each vocabulary.

    Raises:
        CannotMeasureError: torch, transformers or the device is missing, or the step does not fit.
    """
    for setting in settings(options):
        require_room(setting)
        with torch_threads(setting.threads), _advice_when_it_does_not_fit(setting):
            yield from _measure(setting)
        _release(setting.device)


def _measure(setting: Setting) -> Iterator[Finding]:
    model = setting.shape.build(setting.length + 1, setting.device, str(setting.precision))
    rollouts = grpo_step.rollouts(model, setting.batch, setting.length, setting.k, laws=True, device=setting.device)
    trainer = Trainer(model, rollouts)
    methods = [*METHODS, *([COMPILED] if setting.device == "cuda" else [])]
    weighs: dict[Method, Weigh | None] = {method: method.weigh() for method in methods}
    if COMPILED in weighs and (failed := _failure(trainer, weighs[COMPILED])):
        del weighs[COMPILED]
        yield _finding(setting, COMPILED, "compiles", [0.0], "", note=failed)
    peaks = {method: _bytes(trainer, method, weigh) for method, weigh in weighs.items()}
    measured = {method: _Measured() for method in weighs}
    candidates = {
        method.name: partial(_timed, trainer, weigh, measured[method].steps) for method, weigh in weighs.items()
    }
    in_turn(candidates, setting.rounds)
    plain = [each.step for each in measured[NONE].steps[1:]]
    seconds = statistics.median(plain)
    note = f"{setting.shape.parameters:,} parameters, {setting.batch} x {setting.length} tokens"
    yield _finding(setting, NONE, "step", plain, "s", note=note)
    for method in list(weighs)[1:]:
        bracket = method.way is WayToZ.BRACKET and not method.compiled
        target = setting.percent_at_most if bracket else None
        steps = measured[method].steps[1:]
        part = statistics.median(each.weights for each in steps)
        note = f"{1e3 * part:.3g} ms"
        yield _finding(setting, method, "weights share", measured[method].shares(), "%", note=note, at_most=target)
        yield _finding(setting, method, "step / none", ratios([each.step for each in steps], plain), "x")
        stored = rollouts.stored_bytes(method.correction, method.way) / setting.tokens
        note = f"{stored:,.0f} bytes stored per token"
        yield _finding(setting, method, "memory / none", [peaks[method] / peaks[NONE]], "x", note=note)
    yield _at_rollout(setting, rollouts, seconds)


def _timed(trainer: Trainer, weigh: Weigh | None, into: list[Seconds]) -> None:
    into.append(trainer.step(weigh))


def _bytes(trainer: Trainer, method: Method, weigh: Weigh | None) -> int:
    """The bytes of weights, optimiser and this method's storage, and the peak of a step above them."""
    trainer.step(weigh)  # the optimiser's state exists from the first step on
    above = torch_peak_bytes(lambda: trainer.step(weigh), trainer.rollouts.ids.device.type)
    return trainer.held_bytes() + trainer.rollouts.stored_bytes(method.correction, method.way) + above


def _at_rollout(setting: Setting, rollouts: Rollouts, seconds: float) -> Finding:
    """The time of storing the top-k at rollout, where the actor's log-probs are at hand, relative to a step."""
    laws: Any = rollouts.laws
    at_once = _DECODED_AT_ONCE[setting.device]

    spent = []

    def store() -> None:
        started = grpo_step.now(setting.device)
        for some in laws.flatten(0, 1).split(at_once):
            TopK.of(some, setting.k)
        spent.append(grpo_step.now(setting.device) - started)

    in_turn({"top-k": store}, setting.rounds)
    method = Method(estimators.get("jackpot"), WayToZ.BRACKET)
    note = f"top-{setting.k} of the actor's laws, {at_once} tokens at once; not in the step"
    shares = [100 * each / seconds for each in spent[1:]]
    return _finding(setting, method, "top-k at rollout", shares, "%", note=note)


def _finding(
    setting: Setting,
    method: Method,
    figure: str,
    rounds: Sequence[float],
    unit: str,
    *,
    note: str = "",
    at_most: float | None = None,
) -> Finding:
    what = f"{setting.name}, V={setting.shape.vocab:,}, {method.name}: {figure}"
    labels = {"figure": figure, **setting.labels(), **method.labels()}
    if len(rounds) == 1:  # not timed, or in a single round
        return Finding(what, rounds[0], unit, at_most=at_most, note=note, labels=labels)
    return Finding.over_rounds(what, rounds, unit, at_most=at_most, note=note, labels=labels)


def _failure(trainer: Trainer, weigh: Weigh | None) -> str:
    """The reason why the compiled function does not run, in one line; empty if it runs."""
    compiler = logging.getLogger("torch._dynamo")
    level = compiler.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiler.setLevel(logging.ERROR)  # its long warnings of where it hands over to Python are no fault
        try:
            trainer.step(weigh)
        except Exception as error:  # a missing or broken compiler may raise anything
            return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        finally:
            compiler.setLevel(level)
    return ""


@contextmanager
def _advice_when_it_does_not_fit(setting: Setting) -> Iterator[None]:
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:  # on a CPU torch raises nothing more specific
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in str(error):
            raise
        raise CannotMeasureError(
            f"{setting.name} with {setting.batch} x {setting.length} tokens does not fit in the memory of "
            f"{setting.device}: make --batch or --length smaller"
        ) from error


def _release(device: str) -> None:
    """Releases the memory of one shape before the next."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
