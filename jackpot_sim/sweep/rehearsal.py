"""The cost of a study of real models, from a few timed tokens of its own models, prompts and estimators.

Each stage runs in miniature at two lengths, through the same code as the study, so that its seconds are a constant, a
multiple of the rollouts, for the reading of prompts, and a multiple of their tokens. Rollouts are taken to have a
mean length, with ends as frequent as among those that were timed. Engines of the rehearsal's own keep what it reads and
writes: it takes nothing from cells and leaves them nothing.
"""

from __future__ import annotations

import dataclasses
import gc
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from jackpot_sim.environments.engines.engine import LawEngine
from jackpot_sim.environments.engines.sharing import SharingEngine
from jackpot_sim.environments.language_models.carried import resolved
from jackpot_sim.environments.language_models.checkpoints import resolved_device
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.progress import Report, listened
from jackpot_sim.environments.rollouts.built import ROLES, RealisedRollouts, Role
from jackpot_sim.environments.rollouts.hf import POLICY_ROLLOUTS, HuggingFace
from jackpot_sim.environments.rollouts.shared import forget, policy_of
from jackpot_sim.requirements import require
from jackpot_sim.sweep.costs import Kept, Rate, Rehearsed, Timed
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.stages import (
    ACTOR_LOADING,
    ACTOR_WRITES,
    LOADING,
    MEASURED,
    POLICY_WRITES,
    Shared,
)
from jackpot_sim.sweep.subjects.rollout_states import observe, weigh
from jackpot_sim.sweep.subjects.rollout_updates import Differentiation, replicates_of
from jackpot_sim.sweep.worlds import Environment

_LENGTHS = (2, 16)
"""The lengths of the timed rollouts."""
_QUICK = 30.0
"""The seconds below which a model is loaded again, to be timed without its libraries."""
_SECONDS = 3.0
"""The seconds that scoring and gradients are timed, about."""
_REPLICATES = 3
"""The updates of the timed miniature: the fewest from which figures of gradients follow."""


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
    """The cost of each cell of real models among these, by its id, in this order; actors of one kind are timed once.

    Raises:
        ValueError: an environment cannot be built.
    """
    found: dict[str, Timed] = {}
    by_kind: dict[str, Rehearsed] = {}
    kept = Kept()
    for cell in chosen:
        if isinstance(cell.env, HuggingFace):
            kind = _kind(cell.env)
            if kind not in by_kind:
                with threadpool_limits(limits=1):  # as cells are measured
                    by_kind[kind] = rehearse(cell.env, cell.seed, study)
                gc.collect()  # its models
            found[cell.id] = by_kind[kind].of_cell(cell.env, study, kept.before(cell, by_kind[kind]))
    return found


def _kind(env: HuggingFace) -> str:
    """The features of an environment that decide about its cost: all but the actor's numbers."""
    fields = {each.name: getattr(env, each.name) for each in dataclasses.fields(env)}
    actor = {name: value for name, value in vars(fields.pop("actor")).items() if not isinstance(value, int | float)}
    return repr((actor, fields))


def rehearse(env: HuggingFace, seed: int, study: Study) -> Rehearsed:
    """The cost of a cell's kind, measured in miniature.

    Raises:
        ValueError: the environment cannot be built.
    """
    require("torch", "transformers", purpose=env.kind)
    import torch  # noqa: F401  # their own loading is no part of a cell's
    import transformers  # noqa: F401

    with torch_threads(env.threads):
        realised, policy, actor = _built(env, seed)
        if policy + actor < _QUICK:  # the first model of all takes longer, as libraries load on demand
            realised, policy, actor = _built(env, seed)
        as_is = realised.policy_engine is _policy(env)
        forget()
        prompts = realised.setup.prompts
        rollouts = len(prompts) * study.n_samples * study.replicates
        size = realised.policy_engine.bytes_of((rollouts, env.length))
        states = size <= realised.policy_engine.limit
        realised = _alone(realised, states)
        lengths = [each for each in _LENGTHS if each < env.length] or [1]
        lengths = [*lengths, env.length] if 1 < env.length < _LENGTHS[-1] else lengths
        rates, expected = _written(realised, study, seed, lengths)
        rates |= _measured(env, realised, study, seed, lengths)
    pilot = 0 if env.gradients == "off" else len(prompts) * POLICY_ROLLOUTS
    return Rehearsed(
        rates=rates,
        loading={LOADING: policy + actor, ACTOR_LOADING: actor},
        prompts=len(prompts),
        prompt_tokens=float(np.mean([*map(len, prompts)])),
        length=expected,
        policy_as_is=as_is,
        own_bytes=size + realised.policy_engine.bytes_of((pilot, env.length)),
        shared=Shared(
            states=states,
            actor_states=states and isinstance(realised.actor, SharingEngine),
            whole_laws=isinstance(realised.actor, LawEngine),
        ),
        bytes=_memory(env, realised, study, lengths[-1]) + 4 * states * size,  # two models' states at two sets
    )


def _built(env: HuggingFace, seed: int) -> tuple[RealisedRollouts, float, float]:
    """The environment, loaded anew, with the seconds that its policy took, and its actor."""
    forget()
    watch = _Watch()
    _policy(env)
    policy = watch.lap()
    return _untargeted(env).build(seed), policy, watch.lap()


def _policy(env: HuggingFace) -> SharingEngine:
    """The engine of its policy, which is loaded if it is not the last."""
    device = resolved_device(env.device)
    return policy_of(env.policy, precision=env.precision, device=device, threads=env.threads)[1]


def _alone(realised: RealisedRollouts, states: bool) -> RealisedRollouts:
    """The environment with engines of its own, which keep states or do not."""

    def own(engine: SharingEngine) -> SharingEngine:
        return SharingEngine(engine.scorer, engine.limit if states else 0)

    actor = own(realised.actor) if isinstance(realised.actor, SharingEngine) else realised.actor
    return dataclasses.replace(realised, policy_engine=own(realised.policy_engine), actor=actor)


def _forget(realised: RealisedRollouts) -> None:
    """Forgets what the engines keep."""
    for engine in (realised.policy_engine, realised.actor):
        if isinstance(engine, SharingEngine):
            engine.forget()


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
    batch = realised.setup.batch_size
    each = min(study.n_samples, batch)
    prompts = min(batch // each, len(realised.setup.prompts))
    replicates = min(batch // (each * prompts), study.replicates)
    _miniature(realised, 1, 1).write("policy", seed, 1, 1)  # the first call of all takes longer
    timed: dict[Role, list[tuple[int, float, float]]] = {role: [] for role in ROLES}
    ended, tokens = 0, 0
    for length in lengths:
        small = _miniature(realised, prompts, length)
        for role in ROLES:
            _forget(small)
            watch = _Watch()
            written = small.write(role, seed, each, replicates)
            timed[role].append((len(written.mask), float(written.mask.sum(axis=-1).mean()), watch.lap()))
            ended += int((~written.mask[:, -1]).sum())
            tokens += int(written.mask.sum())
    rates = {name: Rate.of(timed[role]) for name, role in _WRITERS}
    return rates, _mean_length(ended / tokens, realised.setup.length)


_WRITERS: tuple[tuple[str, Role], ...] = ((ACTOR_WRITES, "actor"), (POLICY_WRITES, "policy"))


def _mean_length(hazard: float, length: int) -> float:
    """The mean length of rollouts of at most `length` tokens, each of which is the last with this probability."""
    return (1 - (1 - hazard) ** length) / hazard if hazard > 0 else float(length)


def _measured(
    env: HuggingFace, realised: RealisedRollouts, study: Study, seed: int, lengths: Sequence[int]
) -> dict[str, Rate]:
    """The rates of what is done with rollouts, from few of them: as many as a few seconds allow."""
    watch = _Watch()
    sizes = study.model_copy(update={"n_samples": 1, "replicates": _REPLICATES})
    _rehearsed(env, _miniature(realised, 1, 1), sizes, seed)  # the first call of all takes longer
    most = min(realised.setup.batch_size // _REPLICATES, study.n_samples * len(realised.setup.prompts))
    many = min(int(_SECONDS / (2 * watch.lap())), most) or 1
    counts = [(many, each) for each in lengths] + ([(1, lengths[-1])] if many > 1 else [])
    timed: dict[str, list[tuple[int, float, float]]] = {}
    for samples, length in counts:
        small, laps = _miniature(realised, 1, length), _Laps()
        _forget(small)
        with listened(laps):
            mean = _rehearsed(env, small, sizes.model_copy(update={"n_samples": samples}), seed)
        for name, lap in laps.ended().items():
            timed.setdefault(name, []).append((samples * _REPLICATES, mean, lap))
    return {name: Rate.of(each) for name, each in timed.items()}


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
        self._watch, self._laps = _Watch(), dict[str, float]()
        self._ahead = {stage: list(names) for stage, names in MEASURED.items()}

    def __call__(self, told: Report) -> None:
        if told.stage in self._ahead:
            self._lap()
            if told.done == 0:
                self._laps[self._ahead[told.stage].pop(0)] = 0.0

    def _lap(self) -> None:
        lap = self._watch.lap()
        if self._laps:
            self._laps[next(reversed(self._laps))] += lap

    def ended(self) -> dict[str, float]:
        """The seconds of each step by its name; the last one ends now."""
        self._lap()
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
