"""What a cell measures estimators on when the models are real: rollouts of both, scored at every token.

At every state that was visited laws, overlaps and what a correction of single tokens does are exact; the mean
over states is sampled, and so are gradients. All estimators see the same rollouts, and the gradients of all of
them come from one pass over these.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.core.sequences import per_sequence
from jackpot_sim.environments.language_models.block_gradients import block_of, gradients
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.memory import run_fitting
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.rollouts.built import ROLES, RealisedRollouts, Role
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.mismatch import overlap_estimates, summaries
from jackpot_sim.estimators.mismatch.overlap_estimates import Comparison, LawBlock
from jackpot_sim.estimators.mismatch.summaries import Summary
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.estimators.rollouts.at_states import Visited
from jackpot_sim.estimators.rollouts.gradients import Spread, Updates, figures
from jackpot_sim.estimators.statistics import StateStatistics
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.rows import Row, asked_of, normalizer_rows
from jackpot_sim.sweep.spec import Method, Study

Figures: TypeAlias = dict[str, tuple[float, float]]
"""By its name a figure and its standard error."""

_LAM = 1.0
"""The λ at which the overlap of the models is told."""

_HELD = 8 << 30
"""The most bytes of gradients that are held at once."""

LOG = logging.getLogger("jackpot_sim.environments")


class RolloutSubject:
    """Rollouts of real models after a few prompts."""

    def __init__(self, cell: Cell, study: Study, env: HuggingFace, realised: RealisedRollouts) -> None:
        self._cell, self._study, self._env, self._realised = cell, study, env, realised
        self._corrections = {spec.label: spec.correction() for spec in study.estimators}

    def asked(self) -> Row:
        """See `Subject`; divergences are means over the states visited, with standard errors over rollouts."""
        found = self._found
        row = asked_of(self._cell, self._realised) | {
            "achieved_kl_se": self._realised.achieved_se,
            "states": len(self._realised.setup.prompts),
            "vocab": self._realised.vocab,
            "length": self._realised.setup.length,
            "space": "parameters",
        }
        visited, (policy_prompt, prompt) = found.visited, (found.policy_prompt, found.actor.prompt)
        lengths, ones = found.actor.lengths, np.ones(len(found.actor))
        figures = {
            name: ratio_of_means(per_sequence(values), lengths, prompt) for name, values in visited.divergences.items()
        }
        # As for small models: KL(p‖q) belongs to what the policy writes, the others to what the actor does.
        kl = per_sequence(found.policy_kl)
        figures["kl_policy_actor"] = ratio_of_means(kl, found.policy_lengths, policy_prompt)
        figures["kl_sequence"] = ratio_of_means(kl, np.ones(len(kl)), policy_prompt)
        with np.errstate(over="ignore"):
            squares = np.expm1(2 * per_sequence(found.log_ratio))
        # The actor's own draws cannot show what it never writes; χ² is infinite where KL is.
        unreachable = figures["kl_sequence"][0] == math.inf
        mean, error = (math.inf, math.nan) if unreachable else ratio_of_means(squares, ones, prompt)
        figures |= {"chi_square_sequence": (mean, error), "mean_length": ratio_of_means(lengths, ones, prompt)}
        return row | _columns(figures)

    def methods(self) -> tuple[Method, ...]:
        """Monte Carlo: nothing of a real model is enumerated."""
        return (Method.MONTE_CARLO,)

    def correction(self, spec: EstimatorSpec) -> Correction:
        """See `Subject`."""
        return self._corrections[spec.label]

    def exact(
        self, spec: EstimatorSpec, correction: Correction, denominator: Denominator
    ) -> tuple[Row, StateStatistics]:
        """Never asked for."""
        raise AssertionError("real models are measured from rollouts")

    def kl_of_states(self) -> Any:
        """Never asked for."""
        raise AssertionError("real models are measured from rollouts")

    def monte_carlo(self, spec: EstimatorSpec, correction: Correction, denominator: Denominator) -> Row:
        """See `Subject`; the gradients of all estimators come from one pass over the rollouts."""
        found = self._found
        at = found.visited.at[self._study.estimators.index(spec)]
        values = dict(found.weights[spec.label])
        if at is not None:
            lengths, prompt = found.actor.lengths, found.actor.prompt
            values |= {name: ratio_of_means(per_sequence(x), lengths, prompt) for name, x in at._asdict().items()}
        values |= found.gradients.get((spec.label, denominator), {})
        return _columns(values) | {"replicates": self._study.replicates, "weight_seconds": found.seconds[spec.label]}

    def tables(self) -> dict[str, list[Row]]:
        """How far apart the models are, from the actor's rollouts, and the ways to Z if the study compares them."""
        found, generator = self._found, keyed_generator(self._cell.seed, "bootstrap")
        named = {"cell": self._cell.id, "environment": self._cell.environment}
        states = found.visited.divergences | {"overlap": found.visited.overlap[_LAM]}
        everything = [*summaries.summaries(found.actor, states, generator), *found.rewards]
        told = [named | dataclasses.asdict(each) for each in everything]
        return {"diagnostics": told, "normalizers": normalizer_rows(self._cell, found.compared)}

    @cached_property
    def _found(self) -> _Found:
        """Everything, in one pass; where memory does not suffice, an error that says which batch size fits."""

        def run(batch_size: int) -> _Found | None:
            realised = self._realised.with_batches_of(batch_size)
            if batch_size == self._env.batch_size:
                return self._measured(realised)
            self._probe(realised)
            return None

        with torch_threads(self._env.threads):
            found = run_fitting(run, self._env.batch_size)
        assert found is not None
        return found

    def _measured(self, realised: RealisedRollouts) -> _Found:
        study, seed = self._study, self._cell.seed
        written = {role: realised.write(role, seed, study.n_samples, study.replicates) for role in ROLES}
        rewards = {role: realised.reward(each.prompt, each.tokens, each.mask) for role, each in written.items()}
        advantage = {role: rewards[role] - realised.baseline[each.prompt] for role, each in written.items()}
        visited = Visited(written["actor"].tokens, list(self._corrections.values()), [_LAM])
        blocks = self._blocks(realised, written["actor"], visited)
        compared: list[Comparison] = []
        if study.normalizers is None:
            collections.deque(blocks, maxlen=0)
        else:
            asked, generator = study.normalizers, keyed_generator(seed, "batches")
            compared = overlap_estimates.compare(blocks, asked.k, asked.lam, asked.batch, generator)
        actor = ScoredRollouts(
            visited.policy_log_probs,
            written["actor"].raw_log_probs if realised.setup.believes_raw else written["actor"].log_probs,
            written["actor"].mask,
            advantage["actor"],
            written["actor"].prompt,
        )
        log_ratio = np.where(written["actor"].mask, visited.policy_log_probs - written["actor"].log_probs, 0.0)
        policy_kl = np.zeros(written["policy"].tokens.shape)
        for pair in realised.pairs(written["policy"]):
            kl = divergences.kl(pair.policy_log_probs, pair.actor_log_probs)
            policy_kl[pair.sequence, pair.step] = to_numpy(kl)
        policy = written["policy"]
        earned = [_reward(role, rewards[role], each.prompt) for role, each in written.items()]
        lengths = policy.mask.sum(axis=-1).astype(np.float64)
        found = _Found(earned, visited, actor, log_ratio, policy_kl, lengths, policy.prompt, compared)
        self._weigh(found)
        if self._env.gradients != "off":
            self._differentiate(realised, written, advantage, found)
        return found

    def _probe(self, realised: RealisedRollouts) -> None:
        """One batch through everything that takes memory."""
        setup = realised.setup
        written = realised.write("actor", self._cell.seed, setup.batch_size, 1)
        collections.deque(realised.pairs(written), maxlen=0)
        if self._env.gradients != "off":
            size = 1 if self._env.gradients == "sequences" else setup.batch_size
            next(self._gradients(realised, written, written.mask[None].astype(np.float64), [slice(0, size)]))

    def _blocks(self, realised: RealisedRollouts, written: Written, visited: Visited) -> Iterator[LawBlock]:
        """The actor's states on their way to the comparison of normalisers, measured as they pass."""
        uniforms = keyed_generator(self._cell.seed, "normalizers").random(written.tokens.shape)
        for pair in realised.pairs(written):
            laws = pair.policy_log_probs, pair.actor_log_probs, pair.believed_log_probs
            visited.add(pair.sequence, pair.step, *laws)
            at = pair.sequence, pair.step
            yield LawBlock(laws[0], laws[2], written.tokens[at], uniforms[at], pair.sequence)

    def _weigh(self, found: _Found) -> None:
        """Masks, weights and their figures, of every estimator."""
        replicate = self._replicate(len(found.actor))
        for label, correction in self._corrections.items():
            lam = correction.overlap_lam
            overlap = None if lam is None else found.visited.overlap[lam]
            started = time.perf_counter()
            pair = scored.weigh(found.actor, correction, overlap, replicate=replicate)
            # One number per token decides its mask, whatever the estimator: they differ in one thing.
            mask, weight = scored.draw(found.actor, pair, keyed_generator(self._cell.seed, "masks"))
            seconds = time.perf_counter() - started
            value, error = scored.weight_figures(found.actor, mask, weight, correction.unit, replicate)
            found.kept[label] = mask, weight
            found.weights[label] = {name: (value[name], error[name]) for name in value}
            found.seconds[label] = seconds

    def _differentiate(
        self,
        realised: RealisedRollouts,
        written: Mapping[Role, Written],
        advantage: Mapping[Role, Floats],
        found: _Found,
    ) -> None:
        """What every estimator's updates are, against those of the policy's own rollouts."""
        study, setup = self._study, realised.setup
        proposals = study.n_samples * len(setup.prompts)
        replicate = self._replicate(len(found.actor))
        kinds = [(label, denominator) for label in self._corrections for denominator in study.denominators]
        coefficients = []
        for label, denominator in kinds:
            mask, weight = found.kept[label]
            unit = self._corrections[label].unit
            divided = scored.scale(found.actor, mask, weight, denominator, unit, replicate) * proposals
            coefficients.append(weight * (found.actor.advantage / divided)[:, None])
        # Where a batch keeps nothing there is no update, and no gradient to ask for.
        there = [index for index, each in enumerate(coefficients) if np.isfinite(each).all()]
        if not there:
            return
        on_policy = (advantage["policy"] / proposals)[:, None] * written["policy"].mask
        wanted, *_ = self._updates(realised, written["policy"], on_policy[None])
        updates = self._updates(realised, written["actor"], np.array([coefficients[index] for index in there]))
        for index, each in zip(there, updates, strict=True):
            label, denominator = kinds[index]
            value, error = figures(
                each,
                wanted,
                n_samples=study.n_samples,
                actor_spread=self._spread(self._corrections[label], denominator),
                policy_spread=self._spread(None, Denominator.PROPOSED),
            )
            found.gradients[label, denominator] = {name: (value[name], error[name]) for name in value}

    def _spread(self, correction: Correction | None, denominator: Denominator) -> Spread:
        """From sequences where each has a gradient of its own and owes nothing to the others."""
        alone = denominator is Denominator.PROPOSED and not (correction and correction.looks_at_batch)
        return Spread.SEQUENCES if alone and self._env.gradients == "sequences" else Spread.REPLICATES

    def _updates(self, realised: RealisedRollouts, written: Written, coefficients: Floats) -> list[Updates]:
        """The updates that each set of coefficients makes of the rollouts."""
        setup, model = realised.setup, realised.policy.model
        parameters = sum(weight.numel() for weight in block_of(model, [self._block(model)]).values())
        replicates, prompts = self._study.replicates, len(setup.prompts)
        out = [Updates(replicates, parameters, prompts, limit=_HELD // len(coefficients)) for _ in coefficients]
        replicate = self._replicate(len(written.tokens))
        one_by_one = self._env.gradients == "sequences"
        slices = _one_by_one(written.prompt) if one_by_one else _batches(replicate, setup.batch_size)
        found = self._gradients(realised, written, coefficients, slices)
        for done, (rows, each) in enumerate(found):
            first = rows.start
            if done % setup.batch_size == 0:
                LOG.info("gradients: %d of %d rollouts", done if one_by_one else first, len(written.tokens))
            for updates, gradient in zip(out, each, strict=True):
                if one_by_one:
                    updates.add_sequence(int(replicate[first]), int(written.prompt[first]), gradient)
                else:
                    updates.add(int(replicate[first]), gradient)
        return out

    def _gradients(
        self, realised: RealisedRollouts, written: Written, coefficients: Floats, batches: Iterable[slice]
    ) -> Iterator[tuple[slice, Floats]]:
        return gradients(
            realised.policy.model,
            realised.setup.prompts,
            written.prompt,
            written.tokens,
            written.mask,
            coefficients,
            patterns=[self._block(realised.policy.model)],
            temperature=realised.setup.policy_law.temperature,
            batches=batches,
        )

    def _block(self, model: Any) -> str:
        """The pattern of the parameters whose gradients are taken."""
        gains = [name for name, weight in model.named_parameters() if weight.ndim == 1 and name.endswith("weight")]
        if self._env.block is None and not gains:
            raise ValueError(f"{self._env.policy} has no norm with a gain: name other parameters with block")
        return self._env.block or gains[-1]

    def _replicate(self, sequences: int) -> Ints:
        """Which update each sequence belongs to."""
        replicates = self._study.replicates
        return np.repeat(np.arange(replicates), sequences // replicates)


@dataclass(eq=False)
class _Found:
    """What rollouts say; of estimators by their labels."""

    rewards: list[Summary]
    visited: Visited
    actor: ScoredRollouts
    """With the actor's log-probs as corrections are told them."""
    log_ratio: Floats
    """log p − log q of the law that the actor sampled from, at its tokens, (n, length)."""
    policy_kl: Floats
    """KL(p‖q) at every token of the policy's own rollouts, (n, length)."""
    policy_lengths: Floats
    policy_prompt: Ints
    compared: list[Comparison]
    kept: dict[str, tuple[Flags, Floats]] = field(default_factory=dict)
    """The mask that was drawn, and m·w."""
    weights: dict[str, Figures] = field(default_factory=dict)
    gradients: dict[tuple[str, Denominator], Figures] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """What the weights of all tokens took."""


def _reward(role: Role, rewards: Floats, prompt: Ints) -> Summary:
    """What rollouts earn, prompts being fixed, with a normal interval."""
    mean, error = ratio_of_means(rewards, np.ones(len(rewards)), prompt)
    return Summary(f"reward_{role}", mean, error, mean - 1.96 * error, mean + 1.96 * error, len(rewards))


def _one_by_one(prompt: Ints) -> Iterator[slice]:
    """Each sequence by itself, those of a prompt after one another."""
    return (slice(row, row + 1) for row in np.argsort(prompt, kind="stable").tolist())


def _batches(replicate: Ints, batch_size: int) -> Iterator[slice]:
    """Some sequences at a time, of one replicate."""
    each = int(np.sum(replicate == replicate[0]))
    for first in range(0, len(replicate), each):
        for start in range(first, first + each, batch_size):
            yield slice(start, min(start + batch_size, first + each))


def _columns(values: Figures) -> Row:
    """A column for each figure and one for its standard error."""
    return {
        key: value for name, (figure, error) in values.items() for key, value in ((name, figure), (f"{name}_se", error))
    }
