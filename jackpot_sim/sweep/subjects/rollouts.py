"""Rollouts of real models, scored at every token.

At every state that was visited, laws, overlaps and the effect of a correction of single tokens are exact; the mean
over states is sampled, and so are gradients. All estimators see the same rollouts, and one pass over these gives
the gradients of all.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.intervals import Interval, stratified_mean
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.core.sequences import per_sequence
from jackpot_sim.environments.engines.engine import LawEngine
from jackpot_sim.environments.language_models.memory import run_fitting
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.rollouts.built import RealisedRollouts, Role
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.mismatch import summaries
from jackpot_sim.estimators.mismatch.summaries import Summary
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.estimates import Estimate, Measured, measured
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.rows import Row, environment_columns, normalizer_rows
from jackpot_sim.sweep.spec import Method, Study
from jackpot_sim.sweep.subjects.rollout_states import LAM, Figures, Observed, Weighed, observe, weigh
from jackpot_sim.sweep.subjects.rollout_updates import Differentiation, replicates_of
from jackpot_sim.sweep.subjects.served_states import LAWS, Served, acceptance, policy_laws


def measure(cell: Cell, study: Study, env: HuggingFace) -> Measured:
    """The estimators of the study on rollouts of one cell.

    Raises:
        ValueError: the environment cannot be built; or memory is too small for the batch size, and the error says
            which fits.
    """
    realised = env.build(cell.seed)
    findings = _findings(cell, study, env, realised)
    observed = findings.observed
    states = dict(zip((spec.label for spec in study.estimators), observed.visited.at, strict=True))

    def monte_carlo(spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Estimate:
        weighed, at = findings.weighed[spec.label], states[spec.label]
        values = dict(weighed.figures)
        if at is not None:
            lengths, prompt = observed.actor.lengths, observed.actor.prompt
            values |= {name: ratio_of_means(per_sequence(x), lengths, prompt) for name, x in at._asdict().items()}
        if isinstance(observed.visited, Served):
            values |= _acceptance(observed, observed.visited, correction, weighed)
        values |= findings.gradients.get((spec.label, denominator), {})
        how = {"replicates": study.replicates, "weight_seconds": weighed.seconds}
        return Estimate(_columns(values) | how)

    figures = _divergences(observed)
    if realised.target_kl is None:
        # Nothing was solved for, so that no pilot need say what the study's own rollouts say better.
        own = figures.get("kl_policy_actor", (math.nan, math.nan))
        realised = dataclasses.replace(realised, divergence=lambda: own)
    header = environment_columns(cell, realised) | {
        "laws": LAWS if isinstance(observed.visited, Served) else "whole",
        "achieved_kl_se": realised.achieved_se,
        "states": len(realised.setup.prompts),
        "vocab": realised.vocab,
        "length": realised.setup.length,
        "space": "parameters",
    }
    return measured(
        cell,
        study,
        header | _columns(figures),
        {Method.MONTE_CARLO: monte_carlo},
        tables={
            "diagnostics": _diagnostics(cell, observed),
            "normalizers": normalizer_rows(cell, observed.comparisons),
        },
    )


@dataclass(frozen=True, eq=False)
class _Findings:
    """The measurements of one set of rollouts; those of estimators by label."""

    observed: Observed
    weighed: dict[str, Weighed]
    gradients: dict[tuple[str, Denominator], Figures]


def _findings(cell: Cell, study: Study, env: HuggingFace, realised: RealisedRollouts) -> _Findings:
    """Everything, in one pass; where memory does not suffice, an error that says which batch size fits."""

    def run(batch_size: int) -> _Findings | None:
        fitting = realised.with_batches_of(batch_size)
        if batch_size == env.batch_size:
            return _observed_and_differentiated(cell, study, env, fitting)
        _probe(cell, study, env, fitting)
        return None

    with torch_threads(env.threads):
        findings = run_fitting(run, env.batch_size)
    assert findings is not None
    return findings


def _observed_and_differentiated(cell: Cell, study: Study, env: HuggingFace, realised: RealisedRollouts) -> _Findings:
    corrections = {spec.label: spec.correction() for spec in study.estimators}
    looked_at = env.gradients != "off" or any("advantages" in each.needs for each in corrections.values())
    observed = observe(realised, study, cell.seed, corrections, advantages=looked_at)
    weighed = weigh(observed, corrections, replicates_of(study, len(observed.actor)), cell.seed)
    differentiation = Differentiation(env, study, realised)
    gradients = {} if env.gradients == "off" else differentiation.figures(observed, weighed, corrections)
    return _Findings(observed, weighed, gradients)


def _probe(cell: Cell, study: Study, env: HuggingFace, realised: RealisedRollouts) -> None:
    """One batch through everything that takes memory."""
    written = realised.write("actor", cell.seed, realised.setup.batch_size, 1)
    whole = isinstance(realised.actor, LawEngine)
    collections.deque(realised.pairs(written) if whole else policy_laws(realised, written), maxlen=0)
    if env.gradients != "off":
        Differentiation(env, study, realised).probe(written)


def _divergences(observed: Observed) -> Figures:
    """Divergences as means over the states visited, with standard errors over rollouts."""
    policy = observed.written["policy"]
    prompt, lengths, ones = observed.actor.prompt, observed.actor.lengths, np.ones(len(observed.actor))
    figures = {
        name: ratio_of_means(per_sequence(values), lengths, prompt)
        for name, values in observed.visited.divergences.items()
    }
    # As for small models: KL(p‖q) belongs to what the policy writes, the others to what the actor does.
    if observed.policy_kl is not None:
        kl = per_sequence(observed.policy_kl)
        policy_lengths = policy.mask.sum(axis=-1).astype(np.float64)
        figures["kl_policy_actor"] = ratio_of_means(kl, policy_lengths, policy.prompt)
        figures["kl_sequence"] = ratio_of_means(kl, np.ones(len(kl)), policy.prompt)
    with np.errstate(over="ignore"):
        squares = np.expm1(2 * per_sequence(observed.log_ratio))
    # The actor's own draws cannot show what it never writes; χ² is infinite where KL is.
    unreachable = figures.get("kl_sequence", (math.nan,))[0] == math.inf
    chi_square = (math.inf, math.nan) if unreachable else ratio_of_means(squares, ones, prompt)
    return figures | {"chi_square_sequence": chi_square, "mean_length": ratio_of_means(lengths, ones, prompt)}


def _acceptance(observed: Observed, served: Served, correction: Correction, weighed: Weighed) -> Figures:
    """The acceptance rate, sampled, and the ends of its bracket, as means over the states visited."""
    columns = acceptance(served, correction, weighed.accept, observed.actor)
    prompt, lengths = observed.actor.prompt, observed.actor.lengths
    return {name: ratio_of_means(per_sequence(values), lengths, prompt) for name, values in columns.items()}


def _diagnostics(cell: Cell, observed: Observed) -> list[Row]:
    """The distance between the models, from the actor's rollouts, and the rewards of both."""
    if isinstance(observed.visited, Served):
        states = observed.visited.states(LAM, observed.actor.log_ratio)
    else:
        states = observed.visited.divergences | {"overlap": observed.visited.overlap[LAM]}
    rewards = [_reward(role, observed.rewards[role], each.prompt) for role, each in observed.written.items()]
    labels = {"cell": cell.id, "environment": cell.environment}
    everything = [*summaries.summaries(observed.actor, states), *rewards]
    return [labels | dataclasses.asdict(each) for each in everything]


_DIFFERING = 24
"""The fewest rollouts with a reward other than their prompt's mean for which the mean reward has an interval."""


def _reward(role: Role, rewards: Floats, prompt: Ints) -> Summary:
    """The mean reward of rollouts, prompts being fixed; unresolved where few differ from their prompt's mean.

    Equal rewards say nothing of the others that were possible.
    """
    mean, left_out = stratified_mean(rewards, prompt)
    interval = intervals.of_left_out(mean, left_out)
    if np.count_nonzero(left_out != mean) < _DIFFERING:
        interval = Interval(interval.se, math.nan, math.nan)
    return Summary(f"reward_{role}", mean, *interval, len(rewards))


def _columns(values: Figures) -> Row:
    """A column for each figure and one for its standard error."""
    return {
        key: value for name, (figure, error) in values.items() for key, value in ((name, figure), (f"{name}_se", error))
    }
