"""The mean KL per token between two language models, over the prefixes that the first of them reaches.

    KL(p‖q) = E_p[Σ_t KL(p(·|s_t) ‖ q(·|s_t))] / E_p[L],

of each prompt, and of several the mean: as `core.sequence_divergences` has it. nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.core.sequences import per_sequence
from jackpot_sim.environments.language_models.scoring import Scorer
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.sequences.drawn_prefixes import DrawnPrefixes, visited

_KEPT = 4
"""Models whose tables are kept: a search for a knob comes back to the one that does not change."""


@dataclass(frozen=True)
class MeanKL:
    """A mean KL per token, nats, and its standard error: 0 if every sequence was counted."""

    value: float
    standard_error: float


class KLEstimator(Protocol):
    """What says how far two models are apart, and gives the laws of any."""

    def kl(self, first: Scorer, second: Scorer) -> MeanKL:
        """KL(first‖second) per token, over what the first one writes."""
        ...

    def states(self, scorer: Scorer) -> Floats:
        """The model's law at every prefix that is looked at, all prompts after one another; (states, vocab)."""
        ...


class ExactKL:
    """Every prefix of every prompt, weighed by its probability."""

    def __init__(self, tree: PrefixTree, prompts: Ints) -> None:
        self._tree = tree
        self.table = lru_cache(maxsize=_KEPT)(lambda scorer: scorer.log_probs(prompts, tree))
        """The laws of a model at every prefix of every prompt, (prompts, prefixes, vocab), nats."""

    def kl(self, first: Scorer, second: Scorer) -> MeanKL:
        """Exact."""
        p, q = self.table(first), self.table(second)
        weight = np.exp([self._tree.reach(each) for each in p])
        kl = np.where(weight > 0, divergences.kl(p, q), 0.0)
        per_token = np.sum(weight * kl, axis=-1, where=weight > 0) / np.sum(weight, axis=-1)
        return MeanKL(float(np.mean(per_token)), 0.0)

    def states(self, scorer: Scorer) -> Floats:
        """At every prefix there is."""
        out: Floats = self.table(scorer).reshape(-1, self._tree.vocab)
        return out


class SampledKL:
    """The prefixes of sequences drawn from the first model, always from the same uniforms.

    Args:
        prompts: shape (prompts, prompt_length).
        uniforms: shape (prompts, n, length), in [0, 1).
        end_token: the token that ends a sequence.
    """

    def __init__(self, prompts: Ints, uniforms: Floats, end_token: int | None) -> None:
        self._prompts, self._uniforms, self._end_token = prompts, uniforms, end_token
        self._of = lru_cache(maxsize=_KEPT)(self._sampled)

    def kl(self, first: Scorer, second: Scorer) -> MeanKL:
        """From the whole laws at the prefixes drawn, so that only which prefixes they are is left to chance."""
        found = []
        for prompt, (seen, laws) in zip(self._prompts, self._of(first), strict=True):
            kl = np.asarray(divergences.kl(laws, seen.laws(second, prompt)))
            found.append(ratio_of_means(per_sequence(seen.sequences.gather(kl)), seen.sequences.lengths))
        values, errors = np.array(found).T
        return MeanKL(float(np.mean(values)), float(np.sqrt(np.sum(errors**2))) / len(found))

    def states(self, scorer: Scorer) -> Floats:
        """At the prefixes of its own sequences."""
        return np.concatenate([laws for _, laws in self._of(scorer)])

    def _sampled(self, scorer: Scorer) -> list[tuple[DrawnPrefixes, Floats]]:
        out = []
        for prompt, uniforms in zip(self._prompts, self._uniforms, strict=True):
            seen = visited(*scorer.draw(prompt, uniforms, self._end_token))
            out.append((seen, seen.laws(scorer, prompt)))
        return out
