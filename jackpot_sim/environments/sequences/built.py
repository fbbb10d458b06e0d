"""An environment of sequences that was built: every sequence where they fit in memory, and any number of draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_shape
from jackpot_sim.core.sequences import Enumeration, SampledSequences, SequenceLaws
from jackpot_sim.core.support import on_support
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.scoring import CausalLM, Scorer
from jackpot_sim.environments.language_models.teaching import RewardOf
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.prefix_tree import PrefixTree, objective
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.recorded import LogProbs, believed
from jackpot_sim.environments.sequences.drawn_prefixes import DrawnPrefixes
from jackpot_sim.environments.sequences.mean_kl import ExactKL
from jackpot_sim.environments.sources.actor_source import TinyTask

BASELINE_ROLLOUTS = 4096
"""Sequences per prompt behind a baseline that is sampled."""


@dataclass(frozen=True, eq=False)
class Models:
    """The three policies of an update.

    Attributes:
        policy: p_new, whose gradient is wanted.
        actor: q, the policy that writes the rollouts.
        reference: p_ref, the policy before the update at hand; `policy` itself if there is none.
        log_probs: the log-probs that a trainer gets.
    """

    policy: Scorer
    actor: Scorer
    reference: Scorer
    log_probs: LogProbs = LogProbs.PROCESSED

    def laws(self, table_of: Callable[[Scorer], Floats]) -> SequenceLaws:
        """The laws of all three, from a function that gives those of one, (prefixes, vocab), nats."""
        policy, actor = table_of(self.policy), table_of(self.actor)
        reference = policy if self.reference is self.policy else table_of(self.reference)
        model = actor
        if self.log_probs is LogProbs.RAW and isinstance(self.actor, CausalLM) and self.actor.transform is not None:
            model = table_of(replace(self.actor, transform=None))
        told = believed(self.log_probs, policy, actor, model)
        if told is None:
            return SequenceLaws(policy, actor, reference)
        new, old = np.asarray(told.policy_log_probs), reference
        if reference is policy:
            old = new
        elif self.log_probs is LogProbs.SUPPORT:
            old = np.asarray(on_support(reference, actor))
        return SequenceLaws(policy, actor, reference, SequenceLaws(new, np.asarray(told.actor_log_probs), old))


@dataclass(frozen=True, eq=False)
class RealisedSequences:
    """An environment of sequences, built for one seed.

    The advantage of a sequence is R − b, b being the policy's mean reward after its prompt.

    Attributes:
        tree: the vocabulary, the most new tokens and the end token.
        prompts: shape (prompts, prompt_length).
        knob: the source's knob, given or solved for.
        target_kl: the mean KL per token that was asked for, nats; None if the knob was given.
        achieved: the mean KL per token between reference and actor, in the direction of the source's target, nats.
        achieved_se: its standard error: 0 where every sequence was enumerated.
        enumerations: every sequence after each prompt, or None where they do not fit in memory.
        features: ∂ log p(x|s)/∂θ of the policy after each prompt, (prefixes, vocab, parameters), nats; None unless
            asked for.
        models: the three policies.
        reward: (tokens, mask) → R of shape (n,).
        baseline: b of every prompt, (prompts,).
    """

    tree: PrefixTree
    prompts: Ints
    knob: float
    target_kl: float | None
    achieved: float
    achieved_se: float
    enumerations: tuple[Enumeration, ...] | None
    features: tuple[Floats, ...] | None
    models: Models
    reward: RewardOf
    baseline: Floats

    def __post_init__(self) -> None:
        check_integers(self.prompts, "prompts", "prompts", "prompt_length")
        check_shape(check_reals(self.baseline, "baseline"), self.prompts.shape[:1], "baseline", "one number per prompt")
        for each in self.features or ():
            check_reals(each, "features", "prefixes", "vocab", "parameters")
            check_shape(each, (self.tree.prefixes, self.tree.vocab, each.shape[2]), "features", "one row per prefix")

    def rollouts(self, seed: int, n: int, replicates: int) -> tuple[SampledSequences, ...]:
        """After each prompt, replicates · n sequences of the actor and as many of the policy.

        The same seed draws from the same uniforms at any knob, and more replicates begin with those of fewer.

        Raises:
            ValueError: a count is below 1.
        """
        check_count("n", n, 1)
        check_count("replicates", replicates, 1)
        shape = n * replicates, self.tree.length
        out = []
        with torch_threads(1):
            for prompt in range(len(self.prompts)):
                actor, policy = (
                    keyed_generator(seed, "rollouts", prompt, role).random(shape) for role in ("actor", "policy")
                )
                draw = self._from_models if self.enumerations is None else self._from_tables
                out.append(draw(prompt, actor, policy))
        return tuple(out)

    def _from_tables(self, prompt: int, actor_uniforms: Floats, policy_uniforms: Floats) -> SampledSequences:
        assert self.enumerations is not None
        laws, baseline = self.enumerations[prompt].laws, self.baseline[prompt]
        actor = self.tree.draw(laws.actor_log_probs, actor_uniforms)
        policy = self.tree.draw(laws.policy_log_probs, policy_uniforms)
        advantage = [self.reward(each.token, each.mask) - baseline for each in (actor, policy)]
        return SampledSequences(laws, actor, advantage[0], policy, advantage[1], self.tree.end_token)

    def _from_models(self, prompt: int, actor_uniforms: Floats, policy_uniforms: Floats) -> SampledSequences:
        ids, end = self.prompts[prompt], self.tree.end_token
        drawn = [self.models.actor.draw(ids, actor_uniforms, end), self.models.policy.draw(ids, policy_uniforms, end)]
        tokens, mask = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        prefixes = DrawnPrefixes.of(tokens, mask)
        laws = self.models.laws(lambda scorer: prefixes.laws(scorer, ids))
        advantage = self.reward(tokens, mask) - self.baseline[prompt]
        first, rest = slice(len(actor_uniforms)), slice(len(actor_uniforms), None)
        actor, policy = prefixes.sequences.take(first), prefixes.sequences.take(rest)
        return SampledSequences(laws, actor, advantage[first], policy, advantage[rest], end)


def enumerated(estimator: ExactKL, models: Models, task: TinyTask) -> tuple[tuple[Enumeration, ...], Floats]:
    """The enumeration of each prompt from the tables of `estimator`, and the exact mean reward, (prompts,)."""
    sequences = task.tree.sequences
    reward = task.reward(sequences.token, sequences.mask)

    def laws_after(prompt: int) -> SequenceLaws:
        return models.laws(lambda scorer: estimator.table(scorer)[prompt])

    laws = [laws_after(prompt) for prompt in range(len(task.prompts))]
    baseline = np.array([objective(sequences, each.policy_log_probs, reward) for each in laws])
    return tuple(Enumeration(each, sequences, reward - b) for each, b in zip(laws, baseline, strict=True)), baseline


def sampled_baseline(policy: Scorer, task: TinyTask, generator: np.random.Generator) -> Floats:
    """The policy's mean reward after each prompt, (prompts,), from rollouts that serve nothing else."""
    uniforms = generator.random((len(task.prompts), BASELINE_ROLLOUTS, task.tree.length))
    drawn = (
        policy.draw(prompt, each, task.tree.end_token) for prompt, each in zip(task.prompts, uniforms, strict=True)
    )
    return np.array([np.mean(task.reward(tokens, mask)) for tokens, mask in drawn])
