"""The updates that every estimator makes of the rollouts, as gradients in a block of a real model's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.language_models.block_gradients import OtherTokens, block_of, gradients
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.library import Model, last_gain
from jackpot_sim.environments.progress import Stage, report
from jackpot_sim.environments.rollouts.built import RealisedRollouts
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.estimators.rollouts.gradients import Spread, Updates, figures
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.subjects.rollout_states import Figures, Observed, Weighed

_HELD = 8 << 30
"""The most bytes of gradients that are held at once."""


@dataclass(frozen=True, eq=False)
class Differentiation:
    """The way from rollouts to gradients, the same for all estimators."""

    env: HuggingFace
    study: Study
    realised: RealisedRollouts

    def figures(
        self, observed: Observed, weighed: Mapping[str, Weighed], corrections: Mapping[str, Correction]
    ) -> dict[tuple[str, Denominator], Figures]:
        """The figures of every estimator's updates, against those of the policy's own rollouts.

        An estimator whose batch keeps nothing somewhere has no update, and is left out.
        """
        study, setup = self.study, self.realised.setup
        proposals = study.n_samples * len(setup.prompts)
        replicate = replicates_of(study, len(observed.actor))
        coefficients, means = {}, []
        denominators = {spec.label: study.denominators_of(spec) for spec in study.estimators}
        for label, correction in corrections.items():
            mask, weight = weighed[label].mask, weighed[label].weight
            for denominator in denominators[label]:
                share = scored.scale(observed.actor, mask, weight, denominator, correction.unit, replicate)
                factor = observed.actor.advantage / (share * proposals)
                coefficient, mean = weight * factor[:, None], weighed[label].mean
                if np.isfinite(coefficient).all():
                    coefficients[label, denominator] = coefficient
                    means.append(None if mean is None else (-factor, mean))
        if not coefficients:
            return {}
        policy, actor = observed.written["policy"], observed.written["actor"]
        on_policy = (observed.advantage["policy"] / proposals)[:, None] * policy.mask
        own_updates, *_ = self._updates(policy, on_policy[None])
        others = None if observed.stored is None else OtherTokens(observed.stored.ids, means)
        updates = self._updates(actor, np.array(list(coefficients.values())), others)
        by_estimator: dict[tuple[str, Denominator], Figures] = {}
        for (label, denominator), each in zip(coefficients, updates, strict=True):
            value, error = figures(
                each,
                own_updates,
                n_samples=study.n_samples,
                actor_spread=self._spread(corrections[label], denominator),
                policy_spread=self._spread(None, Denominator.PROPOSED),
            )
            by_estimator[label, denominator] = {name: (value[name], error[name]) for name in value}
        return by_estimator

    def probe(self, written: Written) -> None:
        """One batch through everything that takes memory."""
        size = 1 if self._one_by_one else self.realised.setup.batch_size
        next(self._gradients(written, written.mask[None].astype(np.float64), [slice(0, size)]))

    @property
    def _one_by_one(self) -> bool:
        return self.env.gradients == "sequences"

    def _spread(self, correction: Correction | None, denominator: Denominator) -> Spread:
        """The spread of sequences where each has its own gradient and depends on no other; else of replicates."""
        alone = denominator is Denominator.PROPOSED and not (correction and correction.looks_at_batch)
        return Spread.SEQUENCES if alone and self._one_by_one else Spread.REPLICATES

    def _updates(self, written: Written, coefficients: Floats, others: OtherTokens | None = None) -> list[Updates]:
        """The updates that each set of coefficients, (sets, n, length), makes of the rollouts."""
        setup, model = self.realised.setup, self.realised.policy.model
        parameters = sum(weight.numel() for weight in block_of(model, [self._block(model)]).values())
        replicates, prompts = self.study.replicates, len(setup.prompts)
        out = [Updates(replicates, parameters, prompts, limit=_HELD // len(coefficients)) for _ in coefficients]
        replicate = replicates_of(self.study, len(written.tokens))
        slices = _singles(written.prompt) if self._one_by_one else _batches(replicate, setup.batch_size)
        report(Stage.GRADIENTS, 0, len(written.tokens))
        for done, (rows, by_set) in enumerate(self._gradients(written, coefficients, slices, others)):
            first = rows.start
            if done and done % setup.batch_size == 0:
                report(Stage.GRADIENTS, done if self._one_by_one else first, len(written.tokens))
            for updates, gradient in zip(out, by_set, strict=True):
                if self._one_by_one:
                    updates.add_sequence(int(replicate[first]), int(written.prompt[first]), gradient)
                else:
                    updates.add(int(replicate[first]), gradient)
        return out

    def _gradients(
        self, written: Written, coefficients: Floats, batches: Iterable[slice], others: OtherTokens | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        setup, engine = self.realised.setup, self.realised.policy_engine
        model, temperature = engine.scorer.model, setup.policy_law.temperature
        names = frozenset(block_of(model, [self._block(model)]))
        shared = engine.norm_gradients(
            setup.prompts, written, temperature=temperature, batch_size=setup.batch_size, rows=setup.rows
        )
        if shared is not None and shared.names == names:
            return shared.of(coefficients, batches, others)
        return gradients(
            model,
            setup.prompts,
            written.prompt,
            written.tokens,
            written.mask,
            coefficients,
            patterns=[self._block(model)],
            temperature=temperature,
            kept=written.kept,
            others=others,
            batches=batches,
        )

    def _block(self, model: Model) -> str:
        """The pattern of the parameters whose gradients are taken."""
        block = self.env.block or last_gain(model)
        if block is None:
            raise ValueError(f"{self.env.policy} has no norm with a gain: name other parameters with block")
        return block


def replicates_of(study: Study, sequences: int) -> Ints:
    """The update that each of the sequences belongs to, (sequences,)."""
    return np.repeat(np.arange(study.replicates), sequences // study.replicates)


def _singles(prompt: Ints) -> Iterator[slice]:
    """Slices of one sequence each, those of a prompt after one another."""
    return (slice(row, row + 1) for row in np.argsort(prompt, kind="stable").tolist())


def _batches(replicate: Ints, batch_size: int) -> Iterator[slice]:
    """Some sequences at a time, of one replicate."""
    each = int(np.sum(replicate == replicate[0]))
    for first in range(0, len(replicate), each):
        for start in range(first, first + each, batch_size):
            yield slice(start, min(start + batch_size, first + each))
