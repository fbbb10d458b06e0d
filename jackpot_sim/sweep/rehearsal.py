"""The cost of a study of real models, from a few timed tokens of its own models, prompts and estimators.

Each stage runs in miniature at two lengths, through the same code as the study, so that the seconds of a rollout of a
stage are a constant, the reading of its prompt, and a multiple of its length. Rollouts are taken to have a
mean length, with ends as frequent as among those that were timed.
"""

from __future__ import annotations

import dataclasses
import gc
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from jackpot_sim.environments.language_models.carried import resolved
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.progress import Report, Stage, listened
from jackpot_sim.environments.rollouts.built import ROLES, RealisedRollouts, Role
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.requirements import require
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.stages import ACTOR_WRITES, LOADING, POLICY_WRITES, Step, steps
from jackpot_sim.sweep.subjects.rollout_states import observe, weigh
from jackpot_sim.sweep.subjects.rollout_updates import Differentiation, replicates_of
from jackpot_sim.sweep.worlds import Environment

_LENGTHS = (2, 16)
"""The lengths of the timed rollouts."""
_QUICK = 30.0
"""The seconds below which a model is loaded again, to be timed without its libraries."""
_MEASURED = (Stage.SCORING, Stage.GRADIENTS)
"""The stages after all is written."""
_SECONDS = 3.0
"""The seconds that scoring and gradients are timed, about."""
_REPLICATES = 3
"""The updates of the timed miniature: the fewest from which figures of gradients follow."""


@dataclass(frozen=True)
class Rate:
    """The seconds of a rollout: a constant, and a multiple of its length."""

    constant: float
    per_token: float

    @classmethod
    def of(cls, timed: Sequence[tuple[float, float]], rollouts: int) -> Rate:
        """The rate through the seconds at one or two mean lengths, shortest first; noise makes no part negative."""
        (short, least), *longer = timed
        if not longer or longer[-1][0] <= short:
            length, seconds = timed[-1]
            return cls(0.0, seconds / rollouts / length)
        length, seconds = longer[-1]
        slope = max((seconds - least) / (length - short), 0.0)
        return cls(max(least - slope * short, 0.0) / rollouts, slope / rollouts)

    def seconds(self, length: float) -> float:
        """The seconds of a rollout of this length."""
        return self.constant + self.per_token * length


@dataclass(frozen=True)
class Timed:
    """The cost of a cell.

    Attributes:
        steps: its steps in their order.
        seconds: of each step.
        tokens: the tokens that models read and write.
        bytes: the memory that it needs.
    """

    steps: tuple[Step, ...]
    seconds: tuple[float, ...]
    tokens: float
    bytes: float


def rollout_tokens(env: Environment, study: Study) -> int:
    """The tokens of a cell's rollouts by one real model, at most; 0 without real models.

    Raises:
        ValueError: the prompts cannot be read.
    """
    if not isinstance(env, HuggingFace):
        return 0
    return len(env.prompts.read()) * study.n_samples * study.replicates * env.length


def is_local(env: Environment) -> bool:
    """True for real models whose policy lies on this machine: to time another one would fetch it first."""
    return isinstance(env, HuggingFace) and Path(resolved(env.policy)).expanduser().exists()


def estimates(study: Study, chosen: Sequence[Cell]) -> dict[str, Timed]:
    """The cost of each cell of real models among these, by its id; actors of one kind are timed once.

    Raises:
        ValueError: an environment cannot be built.
    """
    found: dict[str, Timed] = {}
    by_kind: dict[str, Timed] = {}
    for cell in chosen:
        if isinstance(cell.env, HuggingFace):
            kind = _kind(cell.env)
            if kind not in by_kind:
                with threadpool_limits(limits=1):  # as cells are measured
                    by_kind[kind] = rehearse(cell.env, cell.seed, study)
                gc.collect()  # its models
            found[cell.id] = by_kind[kind]
    return found


def _kind(env: HuggingFace) -> str:
    """The features of an environment that decide about its cost: all but the actor's numbers."""
    fields = {each.name: getattr(env, each.name) for each in dataclasses.fields(env)}
    actor = {name: value for name, value in vars(fields.pop("actor")).items() if not isinstance(value, int | float)}
    return repr((actor, fields))


def rehearse(env: HuggingFace, seed: int, study: Study) -> Timed:
    """The cost of a cell, measured in miniature.

    Raises:
        ValueError: the environment cannot be built.
    """
    require("torch", "transformers", purpose=env.kind)
    import torch  # noqa: F401  # their own loading is no part of a cell's
    import transformers  # noqa: F401

    watch = _Watch()
    with torch_threads(env.threads):
        realised = _untargeted(env).build(seed)
        if watch.lap() < _QUICK:  # the first model of all takes longer, as libraries load on demand
            realised = _untargeted(env).build(seed)
        loading = watch.lap()
        prompts = realised.setup.prompts
        lengths = [each for each in _LENGTHS if each < env.length] or [1]
        lengths = [*lengths, env.length] if 1 < env.length < _LENGTHS[-1] else lengths
        rates, expected = _written(realised, study, seed, lengths)
        rates |= _measured(env, realised, study, seed, lengths)
    planned = tuple(steps(env, study, len(prompts)))
    seconds = tuple(
        loading if each.name == LOADING else each.rollouts * rates[each.name].seconds(expected) for each in planned
    )
    tokens = sum(each.tokens(float(np.mean([*map(len, prompts)])), expected) for each in planned)
    return Timed(planned, seconds, tokens, _memory(env, realised, study, lengths[-1]))


class _Watch:
    """The seconds since the last lap."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        before, self._since = self._since, now
        return now - before


def _untargeted(env: HuggingFace) -> HuggingFace:
    """The environment at a knob that need not be solved for: what is read costs the same at any."""
    if env.target_kl is None:
        return env
    knob: dict[str, Any] = {"target_kl": None, env.knob_name: 1}
    return dataclasses.replace(env, actor=dataclasses.replace(env.actor, **knob))


def _miniature(realised: RealisedRollouts, prompts: int, length: int) -> RealisedRollouts:
    """The environment with the prompts that are nearest to their mean length, and with shorter rollouts."""
    sizes = np.array([*map(len, realised.setup.prompts)])
    nearest = np.argsort(np.abs(sizes - sizes.mean()), kind="stable")[:prompts]
    setup = dataclasses.replace(
        realised.setup, prompts=[realised.setup.prompts[each] for each in nearest.tolist()], length=length
    )
    # A baseline that no reward meets leaves every rollout its gradient.
    return dataclasses.replace(realised, setup=setup, mean_rewards=lambda: np.full(len(nearest), -1.0))


def _written(
    realised: RealisedRollouts, study: Study, seed: int, lengths: Sequence[int]
) -> tuple[dict[str, Rate], float]:
    """The rates of writing, of one batch as full as the study's, and the mean length that is to be expected."""
    batch = min(realised.setup.batch_size, study.n_samples * len(realised.setup.prompts))
    each = min(study.n_samples, batch)
    prompts = batch // each
    _miniature(realised, 1, 1).write("policy", seed, 1, 1)  # the first call of all takes longer
    timed: dict[Role, list[tuple[float, float]]] = {role: [] for role in ROLES}
    ended, tokens = 0, 0
    for length in lengths:
        small = _miniature(realised, prompts, length)
        for role in ROLES:
            watch = _Watch()
            written = small.write(role, seed, each, 1)
            timed[role].append((float(written.mask.sum(axis=-1).mean()), watch.lap()))
            ended += int((~written.mask[:, -1]).sum())
            tokens += int(written.mask.sum())
    rates = {name: Rate.of(timed[role], prompts * each) for name, role in _WRITERS}
    return rates, _mean_length(ended / tokens, realised.setup.length)


_WRITERS: tuple[tuple[str, Role], ...] = ((ACTOR_WRITES, "actor"), (POLICY_WRITES, "policy"))


def _mean_length(hazard: float, length: int) -> float:
    """The mean length of rollouts of at most `length` tokens, each of which is the last with this probability."""
    return (1 - (1 - hazard) ** length) / hazard if hazard > 0 else float(length)


def _measured(
    env: HuggingFace, realised: RealisedRollouts, study: Study, seed: int, lengths: Sequence[int]
) -> dict[str, Rate]:
    """The rates of what is done with rollouts, from few of them: as many as a few seconds allow."""
    sizes = study.model_copy(update={"n_samples": 1, "replicates": _REPLICATES})
    watch = _Watch()
    _rehearsed(env, _miniature(realised, 1, 1), sizes, seed)  # the first call of all takes longer
    most = max(realised.setup.batch_size // _REPLICATES, 1)
    many = min(int(_SECONDS / (2 * watch.lap())) or 1, most)
    sizes = sizes.model_copy(update={"n_samples": many})
    names = [each.name for each in steps(env, study, 1) if each.stage in _MEASURED]
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for length in lengths:
        laps = _Laps()
        with listened(laps):
            mean = _rehearsed(env, _miniature(realised, 1, length), sizes, seed)
        for name, lap in zip(names, laps.ended(), strict=True):
            timed[name].append((mean, lap))
    return {name: Rate.of(each, many * _REPLICATES) for name, each in timed.items()}


def _rehearsed(env: HuggingFace, realised: RealisedRollouts, study: Study, seed: int) -> float:
    """Everything that is done with rollouts; returns the mean length of these."""
    corrections = {spec.label: spec.correction() for spec in study.estimators}
    observed = observe(realised, study, seed, corrections)
    weighed = weigh(observed, corrections, replicates_of(study, len(observed.actor)), seed)
    if env.gradients != "off":
        Differentiation(env, study, realised).figures(observed, weighed, corrections)
    return float(np.mean([each.mask.sum(axis=-1).mean() for each in observed.written.values()]))


class _Laps:
    """The seconds of each step that is measured, which begins with its first report."""

    def __init__(self) -> None:
        self._watch, self._laps = _Watch(), list[float]()

    def __call__(self, told: Report) -> None:
        if told.stage in _MEASURED:
            lap = self._watch.lap()
            if self._laps:
                self._laps[-1] += lap
            if told.done == 0:
                self._laps.append(0.0)

    def ended(self) -> list[float]:
        """The seconds of each step, the last of which ends now."""
        self._laps[-1] += self._watch.lap()
        return self._laps


def _memory(env: HuggingFace, realised: RealisedRollouts, study: Study, length: int) -> float:
    """Bytes: the most that the miniature took, and what longer and more rollouts add to it."""
    device = realised.policy.model.device
    if device.type == "cuda":
        import torch

        taken = float(torch.cuda.max_memory_allocated(device))
    else:
        taken = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    together = 1 if env.gradients == "sequences" else env.batch_size
    graph = 0.0 if env.gradients == "off" else _GRAPH * together * (env.length - length) * realised.vocab
    tokens = 2 * len(realised.setup.prompts) * study.n_samples * study.replicates * env.length
    stored = env.stored_topk if any(each.centred for each in study.estimators) else 0
    return taken + max(graph, 0.0) + tokens * 8 * (_NUMBERS * len(study.estimators) + 3 * stored)


_GRAPH = 12
"""The bytes that a gradient holds of each number of its laws: logits, log-probs and their gradient."""
_NUMBERS = 8
"""The numbers held of each token and estimator, about."""
