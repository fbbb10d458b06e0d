"""Exact moments of a correction over every sequence of a prompt, to which all other estimates are compared.

The update of a sequence y is X = A(y) Σ_t m_t w_t φ(s_t, y_t). In logits, φ is e_{y_t} − p(·|s_t) in the
row of its prefix s_t, so that tokens of one sequence are orthogonal; in parameters φ is ∇_θ log p(y_t|s_t).
The estimated quantity is g = E_{y~p}[A(y) Σ_t φ]. Everything follows from sums over all y with the actor's
probability q(y): no draw is made, and corrections that look at the whole batch are replaced by their limit in an
infinitely large one.

A prompt is a state of `statistics.combine`, and one of its sequences a proposal. So at length 1 every
figure is that of `moments.exact`.

Between near-equal laws a bias has as many digits as its weights, as in `moments.exact`. The KLs compare sums of
visits, each known to a relative 1e-16; where log-probs differ by s, a KL is known to a relative 1e-16/s.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.sequences import Enumeration, SequenceLaws, kl_of_measures, occupancy, per_sequence
from jackpot_sim.core.weighted_laws import over_divisor, weighted_less_policy
from jackpot_sim.estimators.corrections.composed import require_known_laws
from jackpot_sim.estimators.corrections.correction import Correction, Level
from jackpot_sim.estimators.corrections.inputs import TokenWeights
from jackpot_sim.estimators.sequences.centring import Centring, MeanTerm, mean_terms
from jackpot_sim.estimators.sequences.sampled import Truth
from jackpot_sim.estimators.sequences.spaces import Logits, Parameters, Space, believed_features, check_features
from jackpot_sim.estimators.sequences.updates import Proposals, UpdateTarget, in_the_limit, weigh
from jackpot_sim.estimators.statistics import Denominator, Moments, StateStatistics, combine_cell, divisor


def exact(
    enumerations: Sequence[Enumeration],
    correction: Correction,
    *,
    denominator: Denominator | str = Denominator.PROPOSED,
    n_samples: int | None = None,
    target: UpdateTarget | str = UpdateTarget.REFERENCE,
    features: Sequence[Floats] | None = None,
) -> Moments:
    """The exact moments of `correction` over the given prompts.

    To measure many corrections, make one `Referee`.

    Args:
        enumerations: one for each prompt.
        correction: any correction.
        denominator: a `Denominator` or its name.
        n_samples: sequences per prompt, for the MSE.
        target: an `UpdateTarget` or its name.
        features: as in `Referee`, shape (prefixes, vocab, parameters) for each prompt.

    Raises:
        ValueError: the denominator or the target is unknown or does not fit the correction, or n_samples < 1.
    """
    return Referee(enumerations, features).weigh(correction, target).moments(denominator, n_samples)


class Referee:
    """Enumerated prompts, with every quantity that does not depend on the correction.

    Args:
        enumerations: one for each prompt.
        features: ∂log p(x|s)/∂θ of each prompt, shape (prefixes, vocab, parameters), to measure gradients
            in the parameters; None measures them in the logits at every prefix.

    Raises:
        TypeError: features are not numpy arrays of real floating numbers.
        ValueError: features have another shape, or are not one array per prompt.
    """

    def __init__(self, enumerations: Sequence[Enumeration], features: Sequence[Floats] | None = None) -> None:
        if features is not None:
            check_features(features, [each.laws for each in enumerations])
        self.prompts = [
            _Prompt(each, *_spaces(each.laws, None if features is None else features[index]))
            for index, each in enumerate(enumerations)
        ]

    def weigh(self, correction: Correction, target: UpdateTarget | str = UpdateTarget.REFERENCE) -> Weighed:
        """The correction's weights on every sequence, for moments with any denominator."""
        target = UpdateTarget(target)
        for prompt in self.prompts:
            require_known_laws(correction, prompt.laws.believed)
        parts = [prompt.proposals for prompt in self.prompts]
        with overflow_to_inf():
            frozen = in_the_limit(parts, [prompt.actor for prompt in self.prompts], correction, target)
            pairs = weigh(parts, frozen, target)
            terms = [mean_terms(part, frozen, target) for part in parts]
        weighed = zip(self.prompts, pairs, terms, strict=True)
        return Weighed([_Weights(prompt, pair, correction, own) for prompt, pair, own in weighed])

    def truth(self) -> Truth:
        """The exact gradient, as an argument of `sequences.sampled.estimate`."""
        return Truth(
            along=[prompt.of_updates.along(prompt.gradient) for prompt in self.prompts],
            grad_norm_sq=sum(prompt.grad_norm_sq for prompt in self.prompts),
            on_policy_variance=sum(prompt.on_policy_variance for prompt in self.prompts),
        )


@dataclass(frozen=True)
class BiasShares:
    """Shares of the bias of a correction of single tokens by origin; the three add up to 1.

    ĝ has three factors, each of which can be exchanged for its true value: the law of the prefixes (the actor's or
    the policy's), the value of the continuation (the expected advantage if the actor or the policy writes on), and
    the token's own weight (a·w·q or p). A share is the projection on the bias of the change by one exchange, averaged
    over the orders in which the three can be exchanged.
    """

    prefix: float
    continuation: float
    weight: float


class Weighed:
    """The weights of one correction on every sequence of every prompt."""

    def __init__(self, prompts: list[_Weights]) -> None:
        self._prompts = prompts

    def moments(self, denominator: Denominator | str = Denominator.PROPOSED, n_samples: int | None = None) -> Moments:
        """The moments over the prompts; `per_state` has a row for each prompt.

        Raises:
            ValueError: the denominator is unknown or n_samples < 1.
        """
        denominator = Denominator(denominator)
        divisors = self._divisors(denominator)
        rows = [w.statistics(denominator, divisor) for w, divisor in zip(self._prompts, divisors, strict=True)]
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return combine_cell(StateStatistics(**columns), denominator, n_samples)

    def bias_shares(self, denominator: Denominator | str = Denominator.PROPOSED) -> BiasShares | None:
        """The shares of the bias; None without bias, and for corrections that fit no table of (prefix, token).

        None too where updates are gradients of another law than the policy's: they have a fourth factor.
        """
        if not all(w.fits_a_table and w.prompt.of_updates is w.prompt.space for w in self._prompts):
            return None
        divisors = self._divisors(Denominator(denominator))
        parts = [w.bias_parts(divisor) for w, divisor in zip(self._prompts, divisors, strict=True)]
        total = [sum(part) for part in parts]
        size = sum(float(np.sum(each**2)) for each in total)
        if not 0 < size < math.inf:
            return None
        along = [
            sum(float(np.sum(part[factor] * each)) for part, each in zip(parts, total, strict=True)) / size
            for factor in range(3)
        ]
        return BiasShares(*along)

    def _divisors(self, denominator: Denominator) -> list[float]:
        means = np.array([w.weight_mean for w in self._prompts])
        rate = sum(w.kept_mean for w in self._prompts) / sum(w.prompt.length_mean for w in self._prompts)
        divisors: list[float] = divisor(denominator, np.full_like(means, rate), means).tolist()
        return divisors


def _spaces(laws: SequenceLaws, features: Floats | None) -> tuple[Space, Space]:
    """The spaces of the policy's gradients and of the updates; the same one unless a trainer believes other laws."""
    believes = laws.told.policy_log_probs is not laws.policy_log_probs
    if features is None:
        space: Space = Logits(np.exp(laws.policy_log_probs))
        return space, Logits(np.exp(laws.told.policy_log_probs)) if believes else space
    space = Parameters(features)
    return space, Parameters(believed_features(features, laws)) if believes else space


class _Prompt:
    """The laws of a prompt as measures of sequences and of visits, and its true gradient."""

    def __init__(self, enumeration: Enumeration, space: Space, of_updates: Space) -> None:
        laws, sequences, advantage = enumeration.laws, enumeration.sequences, enumeration.advantage
        self.space, self.of_updates, self.laws = space, of_updates, laws
        policy, actor = (np.exp(sequences.log_probs(x)) for x in (laws.policy_log_probs, laws.actor_log_probs))
        live = np.flatnonzero(actor > 0)
        # Sequences that the actor never writes play no part in any update.
        self.proposals = Proposals(laws.told, sequences.take(live), advantage[live])
        self.actor: Floats = actor[live]
        """q(y) of the proposals, (n,)."""
        self.length_mean = float(self.actor @ self.proposals.sequences.lengths)
        self.policy_of_proposals: Floats = policy[live]
        """p(y) of the proposals, (n,)."""
        self.log_ratio: Floats = self.proposals.sequences.log_ratio(laws.policy_log_probs, laws.actor_log_probs)
        """log p(y)/q(y) of the proposals, (n,), nats."""
        self.visits_policy = occupancy(sequences, policy, laws.shape)
        self.value_policy = occupancy(sequences, policy * advantage, laws.shape)
        """Σ_{y ∋ (s, x)} p(y) A(y), shape (prefixes, vocab)."""
        self.value_out_of_reach = occupancy(sequences, np.where(actor > 0, 0.0, policy * advantage), laws.shape)
        """The part of this sum over sequences that the actor never writes."""
        # A constant advantage has no gradient; it is subtracted first, lest its rounding pass for a gradient.
        centred = advantage - advantage[np.argmax(policy)]
        self.gradient = space.update(occupancy(sequences, policy * centred, laws.shape))
        self.grad_norm_sq = float(np.sum(self.gradient**2))
        own = space.path_norm_sq(sequences, advantage[:, None] * sequences.mask)
        self.on_policy_variance = float(policy @ own) - self.grad_norm_sq

    @cached_property
    def visits_actor(self) -> Floats:
        """The actor's expected visits to every (prefix, token), shape (prefixes, vocab)."""
        return occupancy(self.proposals.sequences, self.actor, self.laws.shape)

    @cached_property
    def value_actor(self) -> Floats:
        """Σ_{y ∋ (s, x)} q(y) A(y), shape (prefixes, vocab)."""
        return occupancy(self.proposals.sequences, self.actor * self.proposals.advantage, self.laws.shape)

    @cached_property
    def path_norm(self) -> Floats:
        """‖φ‖² of every token of the proposals in their updates, shape (n, length)."""
        return self.proposals.sequences.gather(self.of_updates.norm_sq)


class _Weights:
    """The weights of one correction on every proposal of a prompt."""

    def __init__(
        self, prompt: _Prompt, pair: TokenWeights[Floats], correction: Correction, terms: list[MeanTerm]
    ) -> None:
        self.prompt, self.fits_a_table = prompt, correction.fits_a_table
        self.centring = Centring(prompt.proposals, prompt.actor, prompt.space, terms) if terms else None
        per_token = correction.unit is Level.TOKEN
        self.accept, self.weight = pair
        self.law: Floats = pair.expected()
        """a·w, shape (n, length)."""
        self.kept_weight: Floats = np.where(self.accept > 0, self.weight, 0.0)
        """w of the tokens that may be kept, 0 at the others."""
        self.root: Floats = np.sqrt(prompt.actor)[:, None]
        """√q(y), (n, 1): w² alone may overflow where q·w² does not."""
        sequences, q = prompt.proposals.sequences, prompt.actor
        self.mass = sequences.scatter((q * prompt.proposals.advantage)[:, None] * self.law, prompt.laws.shape)
        """Σ_{y ∋ (s, x)} q(y) A(y) a·w, less what a centred correction subtracts."""
        if self.centring is not None:
            self.mass = self.mass - self.centring.mass
        self.kept: Floats = per_sequence(self.accept)
        """E[kept tokens | y], (n,)."""
        self.kept_mean = float(q @ self.kept)
        self.units: Floats = sequences.lengths if per_token else np.ones(len(q))
        # If the unit is a sequence, weights are averaged over its tokens.
        self.per_unit: Floats = np.ones(len(q)) if per_token else 1 / sequences.lengths
        self.units_mean = float(q @ self.units)
        self.weight_mean = self._per_unit(self.law) / self.units_mean

    def _per_unit(self, values: Floats) -> float:
        return float(self.prompt.actor @ (per_sequence(values) * self.per_unit))

    def statistics(self, denominator: Denominator, divisor: float) -> dict[str, float]:
        """The row of `StateStatistics`."""
        prompt = self.prompt
        with np.errstate(divide="ignore", invalid="ignore"):
            mass = self.mass / np.float64(divisor)
            estimate = prompt.of_updates.update(mass)
            error = prompt.space.update(self._error_mass(np.float64(divisor)))
            if prompt.of_updates is not prompt.space:
                error = error + estimate - prompt.space.update(mass)
        second = self._second_moment
        if denominator is Denominator.SELF_NORMALIZED:
            second = second + self._divisor_noise()
        return self._without_denominator | {
            "divisor": divisor,
            "error_sq": float(np.sum(error**2)),
            "error_dot": float(np.sum(error * prompt.gradient)),
            "estimate_sq": float(np.sum(estimate**2)),
            "estimate_dot": float(np.sum(estimate * prompt.gradient)),
            "second_moment": second,
        }

    @cached_property
    def _without_denominator(self) -> dict[str, float]:
        prompt, q = self.prompt, self.prompt.actor
        sequences, length, policy = prompt.proposals.sequences, prompt.length_mean, prompt.visits_policy
        kept_dot = float(q @ self._dot_count(np.ones_like(self.law)))
        length_dot = float(q @ (self._mean_dot * sequences.lengths))
        kept_sq = float(q @ (self.kept**2 + per_sequence(self._accept_var)))
        accepted = sequences.scatter(q[:, None] * self.accept, prompt.laws.shape)
        return {
            "acceptance_rate": self.kept_mean / length,
            "weight_mean": self.weight_mean,
            "weight_square": float(self._weight_square @ self.per_unit) / self.units_mean,
            "grad_norm_sq": prompt.grad_norm_sq,
            "on_policy_variance": prompt.on_policy_variance,
            "kl_accepted": kl_of_measures(policy, accepted),
            "kl_effective": kl_of_measures(policy, self.visits),
            "kl_prefix": kl_of_measures(policy.sum(axis=-1), self.visits.sum(axis=-1)),
            "length": length,
            "units": self.units_mean,
            "kept_dot_cov": kept_dot - self._weighted_sq * self.kept_mean,
            "length_dot_cov": length_dot - self._weighted_sq * length,
            "kept_var": kept_sq - self.kept_mean**2,
            "kept_length_cov": float(q @ (self.kept * sequences.lengths)) - self.kept_mean * length,
            "length_var": float(q @ sequences.lengths**2) - length**2,
        }

    @cached_property
    def visits(self) -> Floats:
        """Σ_{y ∋ (s, x)} q(y) a·w, the visits of the weighted update, shape (prefixes, vocab)."""
        return self.prompt.proposals.sequences.scatter(self.prompt.actor[:, None] * self.law, self.prompt.laws.shape)

    @cached_property
    def _accept_var(self) -> Floats:
        """a(1 − a), the variance of each mask."""
        return np.asarray(self.accept * (1 - self.accept))

    @cached_property
    def _weighted(self) -> Floats:
        """g_w."""
        return self.prompt.of_updates.update(self.mass)

    @cached_property
    def _weighted_sq(self) -> float:
        return float(np.sum(self._weighted**2))

    @cached_property
    def _along(self) -> Floats:
        """A(y)⟨φ, g_w⟩ of every token, shape (n, length)."""
        proposals = self.prompt.proposals
        return proposals.advantage[:, None] * proposals.sequences.gather(self.prompt.of_updates.along(self._weighted))

    @cached_property
    def _mean_dot(self) -> Floats:
        """E[⟨X, g_w⟩ | y] of every sequence, (n,)."""
        own = per_sequence(self.law, self._along)
        return own if self.centring is None else np.asarray(own - self.centring.along(self._weighted))

    @cached_property
    def _second_moment(self) -> float:
        """E‖X‖²; a mask is drawn for each token, so that its variance adds to the square of the mean."""
        advantage = self.prompt.proposals.advantage[:, None]
        if self.centring is None:
            coefficients = self.root * advantage * self.law
            mean = self.prompt.of_updates.path_norm_sq(self.prompt.proposals.sequences, coefficients)
        else:
            mean = self.centring.path_norm_sq((self.root * advantage)[:, 0])
        pull = self.root * advantage * self.kept_weight
        return float(np.sum(mean + per_sequence(self._accept_var, pull, pull, self.prompt.path_norm)))

    def _error_mass(self, divisor: np.float64) -> Floats:
        """Σ_{y ∋ (s, x)} (q(y)·a·w/D − p(y))·A(y), each term from the log-ratio of its sequence."""
        prompt, proposals = self.prompt, self.prompt.proposals
        q, p, ratio = (each[:, None] for each in (prompt.actor, prompt.policy_of_proposals, prompt.log_ratio))
        excess = weighted_less_policy(q, p, self.law, ratio)
        error_law = np.asarray(over_divisor(q * self.law, excess, p, np.asarray(divisor), np.asarray(divisor - 1)))
        reached = proposals.sequences.scatter(proposals.advantage[:, None] * error_law, prompt.laws.shape)
        error = np.asarray(reached - prompt.value_out_of_reach)
        if self.centring is None:
            return error
        return np.asarray(error - self.centring.mass / divisor)

    @property
    def _weight_square(self) -> Floats:
        """q(y) Σ_t a·w² of every sequence."""
        rooted = self.root * self.kept_weight
        return per_sequence(self.accept, rooted, rooted)

    def _dot_count(self, counted: Floats) -> Floats:
        """E[⟨X, g_w⟩ Σ m·counted | y], with the same masks in both."""
        pull = self.law * self._along
        apart = self._mean_dot * per_sequence(self.accept, counted)
        return np.asarray(apart + per_sequence(pull, counted, 1 - self.accept))

    def _divisor_noise(self) -> float:
        """The excess of E‖X − g_w(1 − C/E[C] + D/E[D])‖² over E‖X‖², for weights D and their units C."""
        q, ratio = self.prompt.actor, self.weight_mean * self.units_mean
        if ratio == 0:
            return math.nan
        weights = self.kept_weight * self.per_unit[:, None]
        mean = per_sequence(self.law) * self.per_unit
        count = self.units / self.units_mean
        dot = float(q @ (self._dot_count(weights) / ratio - self._mean_dot * count))
        spread = per_sequence(self._accept_var, weights, weights) / ratio**2
        noise = float(q @ ((mean / ratio - count) ** 2 + spread))
        return -2 * dot + self._weighted_sq * (noise - 1)

    def bias_parts(self, divisor: float) -> list[Floats]:
        """The contributions of prefixes, continuations and weights to ĝ − g, as Shapley values."""
        prompt = self.prompt
        with np.errstate(divide="ignore", invalid="ignore"):
            values = [
                np.nan_to_num(value / visits)
                for value, visits in (
                    (prompt.value_policy, prompt.visits_policy),
                    (prompt.value_actor, prompt.visits_actor),
                )
            ]
            if self.centring is not None:  # whoever writes on, a state loses its mean over the actor's tokens
                q = np.exp(prompt.laws.actor_log_probs)
                values = [value - np.sum(q * value, axis=-1, keepdims=True) for value in values]
            prefixes = [visits.sum(axis=-1, keepdims=True) for visits in (prompt.visits_policy, prompt.visits_actor)]
            weights = [
                np.nan_to_num(prompt.visits_policy / prefixes[0]),
                np.nan_to_num(self.visits / prefixes[1]) / np.float64(divisor),
            ]
        corner = {
            wrong: prompt.space.update(prefixes[wrong[0]] * values[wrong[1]] * weights[wrong[2]])
            for wrong in itertools.product((0, 1), repeat=3)
        }
        return [_shapley(corner, factor) for factor in range(3)]


def _shapley(corner: dict[tuple[int, ...], Floats], factor: int) -> Floats:
    """The Shapley value of one of three factors: the mean over orders of the change from 0 to 1."""
    total: Floats = np.zeros(())
    for others in itertools.product((0, 1), repeat=2):
        before, after = ((*others[:factor], value, *others[factor:]) for value in (0, 1))
        share = 1 / 6 if sum(others) == 1 else 1 / 3
        total = total + share * (corner[after] - corner[before])
    return np.asarray(total)
