"""An environment of real models that was built: its rollouts, and both laws at every token of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from jackpot_sim.core.arrays import Array, Flags, Floats, Ints
from jackpot_sim.core.backend import namespace, to_numpy
from jackpot_sim.core.checks import check_integers, check_reals, check_same_shape, check_shape
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.core.sequences import per_sequence
from jackpot_sim.core.two_laws import kl_by_blocks
from jackpot_sim.environments.engines.engine import Engine, LawEngine, Order
from jackpot_sim.environments.engines.sharing import SharingEngine
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.memory import run_fitting
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.streaming import StreamedLaws
from jackpot_sim.environments.progress import Stage, report
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.recorded import LogProbs

RewardAfter: TypeAlias = Callable[[Ints, Ints, Flags], Floats]
"""(index of the prompt (n,), tokens (n, length), mask) → R of shape (n,)."""

Role: TypeAlias = Literal["actor", "policy"]
T = TypeVar("T")

ROLES: tuple[Role, ...] = ("actor", "policy")


@dataclass(frozen=True, eq=False)
class LawPair:
    """The laws of policy and actor at a few tokens of rollouts; tensors (rows, vocab), nats, on the models' device.

    Attributes:
        sequence: the index of the sequence that each row belongs to, (rows,).
        step: the index of the token in its sequence, (rows,).
        policy_log_probs: log p.
        actor_log_probs: log q of the law that the actor samples from.
        believed_log_probs: log q as corrections get it: another law only where raw log-probs are studied.
        believed_policy_log_probs: log p as corrections get it, where it is another law: that on a recorded support.
    """

    sequence: Ints
    step: Ints
    policy_log_probs: Array
    actor_log_probs: Array
    believed_log_probs: Array
    believed_policy_log_probs: Array | None = None

    def __post_init__(self) -> None:
        laws = check_reals(self.policy_log_probs, "policy_log_probs", "rows", "vocab")
        also = [] if self.believed_policy_log_probs is None else ["believed_policy_log_probs"]
        for name in ("actor_log_probs", "believed_log_probs", *also):
            check_same_shape(laws, check_reals(getattr(self, name), name), "policy_log_probs", name)
        for name in ("sequence", "step"):
            check_shape(check_integers(getattr(self, name), name), tuple(laws.shape[:1]), name, "one index per row")

    @property
    def told(self) -> tuple[Array, Array]:
        """log p and log q as corrections get them."""
        replayed = self.believed_policy_log_probs
        return self.policy_log_probs if replayed is None else replayed, self.believed_log_probs


@dataclass(frozen=True, eq=False)
class Setup:
    """The prompts, laws and batch sizes with which any models write and score rollouts.

    Attributes:
        prompts: the token ids of each prompt, (its length,).
        length: the most new tokens.
        end_tokens: the tokens that end a completion.
        policy_law: the policy's law, from its logits.
        actor_law: the law that the actor samples from, from its logits.
        log_probs: the log-probs that corrections get.
        batch_size: sequences that a model reads at once.
        rows: states whose laws are held at once.
        stored_topk: the actor's likeliest tokens that centred corrections are given at every state, and that an actor
            is asked for that shows no whole laws.
    """

    prompts: Sequence[Ints]
    length: int
    end_tokens: frozenset[int]
    policy_law: SamplingLaw
    actor_law: SamplingLaw
    log_probs: LogProbs
    batch_size: int
    rows: int
    stored_topk: int = 128

    def __post_init__(self) -> None:
        for each in self.prompts:
            check_integers(each, "prompts", "length of a prompt")

    def write(self, engine: Engine, role: Role, prompt: Ints, uniforms: Floats) -> Written:
        """A rollout after each of the prompts numbered `prompt`, shape (n,), from uniforms (n, length)."""
        check_reals(uniforms, "uniforms", "n", "length")
        stage = Stage.ACTOR_WRITES if role == "actor" else Stage.POLICY_WRITES
        order = Order(
            sampling=self.actor_law if role == "actor" else self.policy_law,
            end_tokens=self.end_tokens,
            batch_size=self.batch_size,
            topk=0 if isinstance(engine, LawEngine) else self.stored_topk,
            support=role == "actor" and self.log_probs is LogProbs.SUPPORT,
            report=lambda done: report(stage, done, len(uniforms)),
        )
        report(stage, 0, len(uniforms))
        return engine.write(self.prompts, prompt, uniforms, order)

    def pairs(self, policy: LawEngine, actor: LawEngine, written: Written) -> Iterator[LawPair]:
        """The two laws at every token, a few rows at a time."""
        sampled_from = [(policy, self.policy_law), (actor, self.actor_law)]
        if self.log_probs is LogProbs.RAW:
            sampled_from.append((actor, SamplingLaw()))
        streams = [
            engine.laws(self.prompts, written, sampling=law, batch_size=self.batch_size, rows=self.rows)
            for engine, law in sampled_from
        ]
        streams[0] = self.reported(streams[0], len(written.tokens))
        for p, q, *others in zip(*streams, strict=True):
            believed = others[0].log_probs if others else q.log_probs
            replayed = None
            if written.kept is not None:
                places = written.kept.places[p.sequence, p.step]
                kept = dataclasses.replace(written.kept, places=places).dense(p.log_probs.shape[-1])
                xp = namespace(p.log_probs)
                on_device = xp.asarray(kept, device=p.log_probs.device)
                replayed = log_softmax(xp.where(on_device, p.log_probs, -math.inf))
            yield LawPair(p.sequence, p.step, p.log_probs, q.log_probs, believed, replayed)

    def reported(self, laws: Iterator[StreamedLaws], total: int) -> Iterator[StreamedLaws]:
        """The same laws, of so many rollouts; a listener hears how far scoring has come, once a batch."""
        done = 0
        report(Stage.SCORING, done, total)
        for block in laws:
            if int(block.sequence[0]) // self.batch_size > done // self.batch_size:
                done = int(block.sequence[0])
                report(Stage.SCORING, done, total)
            yield block

    def kl(self, policy: LawEngine, actor: LawEngine, written: Written) -> tuple[float, float]:
        """KL(policy‖actor) per token over rollouts of the policy, nats, and its standard error; prompts are fixed."""
        kl = np.zeros(written.tokens.shape)
        for pair in self.pairs(policy, actor, written):
            kl[pair.sequence, pair.step] = to_numpy(kl_by_blocks(pair.policy_log_probs, pair.actor_log_probs))
        lengths = np.asarray(written.mask.sum(axis=-1), dtype=np.float64)
        return ratio_of_means(per_sequence(kl), lengths, written.prompt)

    def fitting(self, run: Callable[[Setup], T]) -> T:
        """The result of run(self).

        Raises:
            ValueError: memory is too small for the batch size; the error says which size fits.
        """
        return run_fitting(lambda size: run(self.with_batches_of(size)), self.batch_size)

    def with_batches_of(self, batch_size: int) -> Setup:
        """This setup with another batch size."""
        return dataclasses.replace(self, batch_size=batch_size)


@dataclass(frozen=True, eq=False)
class RealisedRollouts:
    """An environment of real models, built for one seed.

    Attributes:
        setup: the prompts, laws and batch sizes of rollouts.
        vocab: V.
        knob: the actor's knob, given or solved for.
        target_kl: the mean KL per token that was asked for, nats; None if the knob was given.
        divergence: measures the mean KL(policy‖actor) per token over a few rollouts of the policy, nats, and its
            standard error over those rollouts.
        policy_engine: the policy that is trained; p_ref and p_new are one.
        actor: the engine that writes the rollouts; if it is no `LawEngine`, there are no pairs of laws.
        reward: the reward of a completion.
        mean_rewards: measures b of every prompt, (prompts,).
        block: a pattern of the names of the parameters in whose space gradients are taken, or None.
    """

    setup: Setup
    vocab: int
    knob: float
    target_kl: float | None
    divergence: Callable[[], tuple[float, float]]
    policy_engine: SharingEngine
    actor: Engine
    reward: RewardAfter
    mean_rewards: Callable[[], Floats]
    block: str | None

    @property
    def policy(self) -> CausalLM:
        """The policy's model and its cache."""
        return self.policy_engine.scorer

    @property
    def achieved(self) -> float:
        """The mean KL(policy‖actor) per token over rollouts of the policy, nats."""
        return self.divergence()[0]

    @property
    def achieved_se(self) -> float:
        """The standard error of `achieved` over those rollouts."""
        return self.divergence()[1]

    @property
    def baseline(self) -> Floats:
        """b of every prompt, (prompts,): the mean reward of rollouts of the policy that serve nothing else.

        Raises:
            TypeError: the mean rewards are no real floating numbers.
            ValueError: they are not one for each prompt.
        """
        baseline, shape = self.mean_rewards(), (len(self.setup.prompts),)
        check_shape(check_reals(baseline, "baseline"), shape, "baseline", "one number per prompt")
        return baseline

    def with_batches_of(self, batch_size: int) -> RealisedRollouts:
        """This environment with another batch size."""
        return dataclasses.replace(self, setup=self.setup.with_batches_of(batch_size))

    def write(self, role: Role, seed: int, n: int, replicates: int) -> Written:
        """n rollouts after every prompt, `replicates` times over: replicate by replicate, within it prompt by prompt.

        The same seed draws from the same uniforms at any knob, and more replicates begin with those of fewer.

        Raises:
            ValueError: a count is below 1.
        """
        check_count("n", n, 1)
        check_count("replicates", replicates, 1)
        prompts, length = len(self.setup.prompts), self.setup.length
        uniforms = np.stack(
            [
                keyed_generator(seed, "rollouts", prompt, role).random((replicates, n, length))
                for prompt in range(prompts)
            ],
            axis=1,
        )
        prompt = np.tile(np.repeat(np.arange(prompts), n), replicates)
        engine = self.actor if role == "actor" else self.policy_engine
        return self.setup.write(engine, role, prompt, uniforms.reshape(-1, length))

    def pairs(self, written: Written) -> Iterator[LawPair]:
        """The two laws at every token of rollouts of either policy, a few rows at a time.

        Raises:
            TypeError: the actor does not show its laws.
        """
        if not isinstance(self.actor, LawEngine):
            raise TypeError("the actor is an engine that shows no whole laws: there are no pairs")
        return self.setup.pairs(self.policy_engine, self.actor, written)
