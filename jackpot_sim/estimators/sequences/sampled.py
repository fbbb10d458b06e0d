"""Monte Carlo moments of a correction from drawn sequences, the only way for long sequences.

Updates are formed as a trainer forms them, from sequences of the actor, `replicates` times over. On-policy updates
from sequences of the policy are formed likewise; their mean is the true gradient. All figures follow from
inner products of *independent* updates, which are unbiased whatever the noise. Updates are sparse: they touch only
visited prefixes, so that the table of prefixes need hold no others.

Corrections that look at the whole batch see the batch of a replicate, whose size is n_samples times the
number of prompts. Standard errors are delete-one jackknives over replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.checks import check_floats
from jackpot_sim.core.log_ratios import ess_fraction
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.sequences import SampledSequences, SequenceLaws, Sequences
from jackpot_sim.estimators.corrections.composed import require_known_laws
from jackpot_sim.estimators.corrections.correction import Correction, Level
from jackpot_sim.estimators.corrections.inputs import TokenWeights
from jackpot_sim.estimators.replicates import Gram, Sampled, gradient_figures, jackknife
from jackpot_sim.estimators.sequences.centring import mean_terms
from jackpot_sim.estimators.sequences.spaces import believed_features, check_features
from jackpot_sim.estimators.sequences.updates import Proposals, UpdateTarget, weigh, weight_tables
from jackpot_sim.estimators.statistics import Denominator, divisor


@dataclass(frozen=True, eq=False)
class Truth:
    """The exact gradient, which replaces on-policy rollouts where sequences can be enumerated.

    Attributes:
        along: ⟨φ(s, x), g⟩ of each prompt, shape (prefixes, vocab).
        grad_norm_sq: Σ ‖g‖² over prompts.
        on_policy_variance: Σ over prompts of the variance of one proposal of the policy.
    """

    along: Sequence[Floats]
    grad_norm_sq: float
    on_policy_variance: float


def estimate(
    rollouts: Sequence[SampledSequences],
    correction: Correction,
    generator: np.random.Generator,
    *,
    replicates: int,
    denominator: Denominator | str = Denominator.PROPOSED,
    target: UpdateTarget | str = UpdateTarget.REFERENCE,
    truth: Truth | None = None,
    features: Sequence[Floats] | None = None,
) -> Sampled:
    """The moments of `correction` from simulated updates; the sequences are distributed evenly among them.

    The KLs compare visits to (prefix, token). They are nan for corrections that look at more than the state and the
    token, whose law of visits does not follow from a single draw.

    Args:
        rollouts: one for each prompt.
        correction: any correction.
        generator: the source of the masks.
        replicates: simulated updates, at least 3.
        denominator: a `Denominator` or its name.
        target: an `UpdateTarget` or its name.
        truth: the exact gradient; None estimates it from the policy's rollouts.
        features: ∂log p(x|s)/∂θ of each prompt, as in `enumerated.Referee`; None measures in logits.

    Raises:
        ValueError: fewer than 3 replicates, or sequences that cannot be split evenly; the denominator or the target
            is unknown or does not fit the correction; a shape of `truth` or `features` does not fit the laws.
        TypeError: an array of `truth` or `features` is not a numpy array of real floating numbers.
    """
    denominator, target = Denominator(denominator), UpdateTarget(target)
    _check_given([each.laws for each in rollouts], truth, features)
    for each in rollouts:
        require_known_laws(correction, each.laws.believed)
    n_samples = _per_replicate(rollouts, replicates)
    draws = _Draws(len(rollouts), replicates, truth)
    parts = [Proposals(each.laws.told, each.actor, each.actor_advantage) for each in rollouts]
    with overflow_to_inf():
        pairs = _weigh(parts, correction, target, replicates)
    drawn = [_masked(part, pair, generator) for part, pair in zip(parts, pairs, strict=True)]
    for index, (part, (mask, weight)) in enumerate(zip(parts, drawn, strict=True)):
        draws.count(index, part.sequences, mask, weight, correction.unit)
    scale = draws.scale(denominator, n_samples)
    for index, (each, (_, weight)) in enumerate(zip(rollouts, drawn, strict=True)):
        own = None if features is None else features[index]
        share = each.actor_advantage[:, None] * np.repeat(scale[index], n_samples)[:, None]
        pull, terms = weight * share, mean_terms(parts[index], correction, target)
        lost = [_Lost(np.where(term.chosen[:, None] & each.actor.mask, share, 0.0), term.law) for term in terms]
        updates = _Updates.of_trainer(each, pull, replicates, own, lost)
        if truth is None:
            wanted = each.policy_advantage[:, None] / n_samples * each.policy.mask
            draws.add(updates, _Updates.of(each, each.policy, wanted, replicates, own))
        else:
            draws.add_known(updates, replicates, pull, each.actor, truth.along[index], lost)
        if correction.fits_a_table:
            tables = weight_tables(parts[index], correction, target)
            draws.surprise(index, each, tables)
    value = draws.figures(n_samples)
    left_out = [draws.figures(n_samples, without) for without in range(replicates)]
    error = {name: jackknife([each[name] for each in left_out]) for name in value}
    return Sampled(value, error, n_samples, replicates)


def _check_given(laws: Sequence[SequenceLaws], truth: Truth | None, features: Sequence[Floats] | None) -> None:
    if features is not None:
        check_features(features, laws)
    if truth is None:
        return
    if len(truth.along) != len(laws):
        raise ValueError(f"truth holds {len(truth.along)} tables for {len(laws)} prompts")
    for along, own in zip(truth.along, laws, strict=True):
        check_floats(along, own.shape, "truth.along", "one number per prefix and token")


def _per_replicate(rollouts: Sequence[SampledSequences], replicates: int) -> int:
    if replicates < 3:
        raise ValueError(f"replicates must be at least 3, got {replicates}")
    counts = {len(each.actor) for each in rollouts}
    if len(counts) != 1 or min(counts) < replicates or min(counts) % replicates:
        raise ValueError(f"{sorted(counts)} sequences per prompt cannot be split evenly among {replicates} replicates")
    return int(counts.pop() // replicates)


def _weigh(
    parts: list[Proposals], correction: Correction, target: UpdateTarget, replicates: int
) -> list[TokenWeights[Floats]]:
    if not correction.looks_at_batch:
        return weigh(parts, correction, target)
    batches = []
    for rows in np.split(np.arange(len(parts[0].sequences)), replicates):
        batch = [Proposals(part.laws, part.sequences.take(rows), part.advantage[rows]) for part in parts]
        batches.append(weigh(batch, correction, target))
    return [
        TokenWeights(*(np.concatenate(column) for column in zip(*of_prompt, strict=True)))
        for of_prompt in zip(*batches, strict=True)
    ]


def _masked(part: Proposals, pair: TokenWeights[Floats], generator: np.random.Generator) -> tuple[Flags, Floats]:
    """The drawn mask m and m·w, both (n, length)."""
    mask = (generator.random(pair.accept.shape) < pair.accept) & part.sequences.mask
    return mask, np.where(mask, pair.weight, 0.0)


class _Lost(NamedTuple):
    """The part that a centred correction subtracts: h of every token's prefix, times its coefficient."""

    coefficient: Floats
    """A·scale of every token that loses this h, 0 at all others; shape (replicates · n, length)."""
    law: Floats
    """q·a·w, of which h is the mean of φ; shape (prefixes, vocab)."""


class _Updates:
    """The updates of every replicate in one prompt, and their inner products.

    In logits an update is Σ c·e_x minus t_s·p_s in the row of each prefix s, where t_s is the sum of the row's c.
    It is held as three sparse tables of visited entries.
    """

    def __init__(self, tables: tuple[Any, ...], p_sq: Floats | None) -> None:
        self._tables, self._p_sq = tables, p_sq

    @classmethod
    def of(
        cls,
        rollouts: SampledSequences,
        sequences: Sequences,
        pull: Floats,
        replicates: int,
        features: Floats | None,
        lost: Sequence[_Lost] = (),
    ) -> _Updates:
        """The updates from c·A·scale of every token, shape (replicates · n, length), less what they lose."""
        prefixes, vocab = rollouts.laws.shape
        live = sequences.mask
        row = np.broadcast_to(np.repeat(np.arange(replicates), len(sequences) // replicates)[:, None], live.shape)[live]
        prefix, token, value = sequences.prefix[live], sequences.token[live], pull[live]
        pulls = _table(value, row, prefix * vocab + token, (replicates, prefixes * vocab))
        visits = [_table(each.coefficient[live], row, prefix, (replicates, prefixes)) for each in lost]
        for each, law in zip(visits, (each.law for each in lost), strict=True):
            places = np.arange(prefixes * vocab)
            pulls = pulls - each @ _table(law.reshape(-1), places // vocab, places, (prefixes, prefixes * vocab))
        if features is not None:
            return cls((pulls @ features.reshape(prefixes * vocab, -1),), None)
        p = np.exp(rollouts.laws.policy_log_probs)
        shape = (replicates, prefixes)
        total, expected = (_table(x, row, prefix, shape) for x in (value, value * p[prefix, token]))
        for each, law in zip(visits, (each.law for each in lost), strict=True):
            total = total - each.multiply(law.sum(axis=-1)[None, :]).tocsr()
            expected = expected - each.multiply(np.sum(law * p, axis=-1)[None, :]).tocsr()
        return cls((pulls, total, expected), np.sum(p**2, axis=-1))

    @classmethod
    def of_trainer(
        cls, rollouts: SampledSequences, pull: Floats, replicates: int, features: Floats | None, lost: list[_Lost]
    ) -> _Updates:
        """The updates that a trainer makes of the actor's sequences: in ∇log p̂, where it believes in another law."""
        laws, sequences = rollouts.laws, rollouts.actor
        if laws.told.policy_log_probs is laws.policy_log_probs:
            return cls.of(rollouts, sequences, pull, replicates, features, lost)
        if features is not None:
            return cls.of(rollouts, sequences, pull, replicates, believed_features(features, laws))
        # e_x − p̂ adds up to 0 over the tokens, so that no multiple of p is left to subtract.
        (prefixes, vocab), live = laws.shape, sequences.mask
        row = np.broadcast_to(np.repeat(np.arange(replicates), len(sequences) // replicates)[:, None], live.shape)[live]
        prefix, token, value = sequences.prefix[live], sequences.token[live], pull[live]
        change = value[:, None] * (np.eye(vocab)[token] - np.exp(laws.told.policy_log_probs[prefix]))
        cells, rows = prefix[:, None] * vocab + np.arange(vocab), np.repeat(row, vocab)
        p = np.exp(laws.policy_log_probs)
        expected = np.sum(change * p[prefix], axis=-1)
        shape = (replicates, prefixes)
        return cls(
            (
                _table(change.reshape(-1), rows, cells.reshape(-1), (replicates, prefixes * vocab)),
                sparse.csr_array(shape),
                _table(expected, row, prefix, shape),
            ),
            np.sum(p**2, axis=-1),
        )

    def dot(self, other: _Updates) -> Floats:
        """⟨X_r, Y_r'⟩, shape (replicates, replicates)."""
        if self._p_sq is None:
            return np.asarray(self._tables[0] @ other._tables[0].T)
        pulls, total, expected = self._tables
        others, other_total, other_expected = other._tables
        cross = total.multiply(self._p_sq[None, :]).tocsr() @ other_total.T
        products = pulls @ others.T - expected @ other_total.T - total @ other_expected.T + cross
        return np.asarray(products.todense())


def _table(values: Floats, row: Ints, column: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((values, (row, column)), shape=shape)


class _Draws:
    """Sums of the simulation: counts of each prompt and replicate, and inner products over all prompts."""

    def __init__(self, prompts: int, replicates: int, truth: Truth | None) -> None:
        each = (prompts, replicates)
        self.kept, self.tokens, self.units, self.weight, self.weight_sq = (np.zeros(each) for _ in range(5))
        self.own, self.cross, self.wanted = (Gram(replicates) for _ in range(3))
        """Σ over prompts of ⟨X_r, X_r'⟩, ⟨X_r, Y_r'⟩ and ⟨Y_r, Y_r'⟩ for actor updates X and on-policy ones Y."""
        self.truth = truth
        self.surprises: Floats = np.full((3, *each), math.nan)
        """Σ over tokens of the policy of log p/q̃, log p/q_w and the prefixes' part, up to their normaliser."""
        self.masses: Floats = np.full((3, *each), math.nan)
        """Σ over tokens of the actor of a, and twice of a·w."""
        self.policy_tokens = np.ones(each)

    def count(self, index: int, sequences: Sequences, mask: Flags, weight: Floats, unit: Level) -> None:
        per_unit = 1.0 if unit is Level.TOKEN else 1 / sequences.lengths[:, None]
        units = sequences.lengths if unit is Level.TOKEN else np.ones(len(sequences))
        for total, values in (
            (self.kept, mask.sum(axis=-1)),
            (self.tokens, sequences.lengths),
            (self.units, units),
            (self.weight, np.sum(weight * per_unit, axis=-1)),
            (self.weight_sq, np.sum(weight**2 * per_unit, axis=-1)),
        ):
            total[index] = values.reshape(total.shape[1], -1).sum(axis=-1)

    def scale(self, denominator: Denominator, n_samples: int) -> Floats:
        """The factor of each update's sum over sequences, shape (prompts, replicates); nan where nothing is kept."""
        rate = np.ones(self.kept.shape) * (self.kept.sum(axis=0) / self.tokens.sum(axis=0))
        divisors = divisor(denominator, rate, self.weight / self.units)
        return 1 / (n_samples * np.where(divisors > 0, divisors, math.nan))

    def add(self, updates: _Updates, wanted: _Updates) -> None:
        self.own.products += updates.dot(updates)
        self.cross.products += updates.dot(wanted)
        self.wanted.products += wanted.dot(wanted)

    def add_known(
        self,
        updates: _Updates,
        replicates: int,
        pull: Floats,
        sequences: Sequences,
        along: Floats,
        lost: Sequence[_Lost],
    ) -> None:
        """Adds updates where g is known; every column of `cross` then holds ⟨X_r, g⟩."""
        self.own.products += updates.dot(updates)
        known = pull * sequences.gather(along)
        for each in lost:
            known = known - each.coefficient * np.sum(each.law * along, axis=-1)[sequences.prefix]
        known = known.sum(axis=-1).reshape(replicates, -1).sum(axis=-1)
        self.cross.products += known[:, None]

    def surprise(self, index: int, rollouts: SampledSequences, tables: TokenWeights[Floats]) -> None:
        """Adds log P(s, x)/Q(s, x) along the policy's own sequences, where P(s)/Q(s) = e^{Σ ℓ before s}."""
        laws, replicates = rollouts.laws, self.kept.shape[1]
        q = np.exp(laws.actor_log_probs)
        accept = np.where(q > 0, tables.accept, 0.0)
        law = TokenWeights(accept, tables.weight).expected()
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.asarray(log_ratio(laws.policy_log_probs, laws.actor_log_probs))
            upto = np.cumsum(rollouts.policy.gather(ratio), axis=-1)
            before = np.concatenate([np.zeros((len(upto), 1)), upto[:, :-1]], axis=-1)
            log_mass = np.log(np.sum(q * law, axis=-1))
            surprises = (
                upto - rollouts.policy.gather(np.log(accept)),
                upto - rollouts.policy.gather(np.log(law)),
                before - rollouts.policy.gather(log_mass),
            )
        # Draws may miss a rare support violation, which makes the KL infinite; the laws at visited prefixes show it.
        visited = np.unique(rollouts.policy.prefix[rollouts.policy.mask])
        possible = laws.policy_log_probs[visited] > -math.inf
        before_last = np.unique(rollouts.policy.prefix[:, :-1][rollouts.policy.mask[:, :-1]])
        lost = (laws.policy_log_probs[before_last] > -math.inf) & (q[before_last] == 0)
        if rollouts.end_token is not None:
            lost[:, rollouts.end_token] = False  # no prefix lies beyond it
        missed = (possible & (accept[visited] == 0), possible & (law[visited] == 0), lost)
        for row, (values, by, out_of_reach) in enumerate(zip(surprises, (accept, law, law), missed, strict=True)):
            total = np.sum(np.where(rollouts.policy.mask, values, 0.0), axis=-1)
            self.surprises[row, index] = math.inf if out_of_reach.any() else total.reshape(replicates, -1).sum(axis=-1)
            self.masses[row, index] = rollouts.actor.gather(by).sum(axis=-1).reshape(replicates, -1).sum(axis=-1)
        self.policy_tokens[index] = rollouts.policy.lengths.reshape(replicates, -1).sum(axis=-1)

    def figures(self, n_samples: int, without: int | None = None) -> dict[str, float]:
        """The figures by name, from all replicates or all but one."""
        keep = np.arange(self.kept.shape[1]) != without
        (own, others), (_, cross), (wanted, signal) = (
            gram.means(without) for gram in (self.own, self.cross, self.wanted)
        )
        noise = n_samples * (wanted - signal)
        if self.truth is not None:
            signal, noise = self.truth.grad_norm_sq, self.truth.on_policy_variance
        with np.errstate(divide="ignore", invalid="ignore"):
            tokens = self.policy_tokens[:, keep].sum(axis=-1)
            laws = self.surprises[:, :, keep].sum(axis=-1) / tokens + np.log(
                self.masses[:, :, keep].sum(axis=-1) / tokens
            )
            kl_accepted, kl_effective, kl_prefix = laws.mean(axis=-1)
            weight, weight_sq, units = (x[:, keep].sum() for x in (self.weight, self.weight_sq, self.units))
            return {
                "acceptance_rate": float(self.kept[:, keep].sum() / self.tokens[:, keep].sum()),
                "kl_accepted": float(kl_accepted),
                "kl_effective": float(kl_effective),
                "kl_prefix": float(kl_prefix),
                **gradient_figures(
                    own=own, others=others, dot=cross, signal=signal, on_policy_variance=noise, n_samples=n_samples
                ),
                "ess_fraction": float(ess_fraction(weight, weight_sq, units)),
            }
