"""The making of dumps: tokens that an actor draws, and both sides' laws along them, as a framework writes them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import torch

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.formats import Format
from jackpot_sim.environments.language_models.library import Model, Tensor, logits
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.worlds import VOCAB, World, half, keyed, letters, quantised, written

STEPS = 8
"""The training steps of a dump."""
K = 20
"""The tokens of the top-k columns."""


class LawOf(Protocol):
    """The law that tokens are drawn from, of the model's, (m, vocab), at the sequences `rows`, (m,)."""

    def __call__(self, law: Tensor, *, rows: Ints) -> Tensor: ...


def _itself(law: Tensor, *, rows: Ints) -> Tensor:
    return law


class Engine(StrEnum):
    """The numbers that the actor's engine computes with."""

    EXACT = "exact"
    BF16 = "bf16"
    INT8 = "int8"

    def of(self, model: Model) -> Model:
        """The model as the engine holds it."""
        if self is Engine.EXACT:
            return model
        return half(model) if self is Engine.BF16 else quantised(model, Format.INT8)


@dataclass(frozen=True, eq=False)
class Draws:
    """Some dumps' sequences, n in all, all of the same length before they are cut.

    Attributes:
        prompts: (n, prompt).
        tokens: (n, length).
        raw: the actor's own laws, (n, length, vocab), float32, nats.
        drawn: the laws that the tokens come from, likewise.
    """

    prompts: Ints
    tokens: Ints
    raw: Tensor
    drawn: Tensor


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of the dumps: laws of both sides, (n, length, vocab), and the log-probs of the tokens, (n, length)."""

    tokens: Ints
    actor_law: Tensor
    policy_law: Tensor
    version: Ints
    changed: dict[str, Floats] = field(default_factory=dict)
    """Columns of log-probs that the fault replaces, by name."""

    def of_tokens(self, side: str) -> Floats:
        """The log-probs of one side, `actor` or `policy`, at the tokens, (n, length), float64."""
        if side in self.changed:
            return self.changed[side]
        law = self.actor_law if side == "actor" else self.policy_law
        return law.gather(-1, torch.from_numpy(self.tokens)[..., None])[..., 0].double().numpy()


@dataclass(frozen=True, eq=False)
class Lab:
    """The making of dumps from one world, for several seeds at once.

    Attributes:
        world: its models.
        seeds: the number of each dump.
        engine: the numbers that the actor computes with, beside the fault.
    """

    world: World
    seeds: tuple[int, ...]
    engine: Engine

    @functools.cached_property
    def rows(self) -> int:
        """The number of sequences of all dumps, n."""
        return len(self.seeds) * self.world.family.sequences

    @functools.cached_property
    def seed(self) -> Ints:
        """The seed of each sequence's dump, (n,)."""
        return np.repeat(np.array(self.seeds, dtype=np.int64), self.world.family.sequences)

    @functools.cached_property
    def step(self) -> Ints:
        """The training step of each sequence, (n,)."""
        size = self.world.family.sequences
        return np.tile(np.arange(size) * STEPS // size, len(self.seeds))

    @functools.cached_property
    def _known(self) -> dict[tuple[object, ...], tuple[Draws, Tensor]]:
        return {}

    def known(self, *key: object, make: Callable[[], tuple[Draws, Tensor]]) -> tuple[Draws, Tensor]:
        """Draws and the policy's laws along them, made once: faults that differ in what is said of them share them."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @functools.cached_property
    def plain(self) -> Draws:
        """Sequences of the engine, whose weights are the policy's."""
        return self.draw([self.engine.of(self.world.policy)])

    @functools.cached_property
    def plain_law(self) -> Tensor:
        """The policy's laws along `plain`."""
        return self.score(self.plain, [self.world.policy])

    def uniforms(self, key: str, *shape: int) -> Floats:
        """Uniform numbers of every sequence, (n, …), that depend on its seed and the key alone."""
        each = (self.world.family.sequences, *shape)
        return np.concatenate([keyed(self.world, key, seed).random(each) for seed in self.seeds])

    def draw(
        self,
        models: Sequence[Model],
        which: Ints | None = None,
        law_of: LawOf = _itself,
    ) -> Draws:
        """Completions by the model that `which` names for each sequence, from the law of `law_of`(law, rows)."""
        family = self.world.family
        which = np.zeros(self.rows, dtype=np.int64) if which is None else which
        generators = [keyed(self.world, "prompts", seed) for seed in self.seeds]
        prompts = np.concatenate([self.world.prompts(each, family.sequences) for each in generators])
        uniforms = self.uniforms("tokens", family.tokens)
        tokens = np.empty((self.rows, family.tokens), dtype=np.int64)
        laws = [torch.empty((self.rows, family.tokens, VOCAB)) for _ in range(2)]
        with torch.inference_mode():
            for number, model in enumerate(models):
                rows = np.flatnonzero(which == number)
                if len(rows):
                    tokens[rows], *of_rows = written(
                        model, prompts[rows], uniforms[rows], functools.partial(law_of, rows=rows)
                    )
                    for out, law in zip(laws, of_rows, strict=True):
                        out[torch.from_numpy(rows)] = law
        return Draws(prompts, tokens, *laws)

    def score(
        self, draws: Draws, models: Sequence[Model], which: Ints | None = None, prompts: Ints | None = None
    ) -> Tensor:
        """The laws along completions from one pass over each sequence, perhaps after other prompts."""
        which = np.zeros(self.rows, dtype=np.int64) if which is None else which
        before = draws.prompts if prompts is None else prompts
        ids = torch.from_numpy(np.concatenate([before, draws.tokens[:, :-1]], axis=1))
        out = torch.empty(draws.raw.shape)
        with torch.inference_mode():
            for number, model in enumerate(models):
                for some in np.array_split(np.flatnonzero(which == number), math.ceil(self.rows / 256)):
                    if len(some):
                        at = torch.from_numpy(some)
                        scores = logits(model, ids[at], slice(before.shape[1] - 1, None))
                        out[at] = torch.log_softmax(scores.float(), -1)
        return out

    def tables(self, columns: Columns) -> list[TokenTable]:
        """One dump a seed, with every column that a dump may have; sequences are cut to lengths of their own."""
        size, length = self.world.family.sequences, columns.tokens.shape[1]
        lengths = length // 2 + np.floor(self.uniforms("lengths") * (length - length // 2 + 1)).astype(np.int64)
        live = np.arange(length) < lengths[:, None]
        reward = letters(columns.tokens)
        law = columns.policy_law
        entropy = -(law.exp() * law.clamp(min=-1e4)).sum(-1).double().numpy()
        ids, log_probs = {}, {}
        for side, law in (("actor", columns.actor_law), ("policy", columns.policy_law)):
            values, at = law.topk(K, dim=-1)
            ids[side], log_probs[side] = at.to(torch.int32).numpy(), values.float().numpy()
        out = []
        for number, seed in enumerate(self.seeds):
            rows = slice(number * size, (number + 1) * size)
            kept = live[rows]

            def taken(values: Floats, rows: slice = rows, kept: Flags = kept) -> Floats:
                return values[rows][kept]

            own = reward[rows]
            advantage = (own - own.mean()) / (own.std() + 1e-6)
            out.append(
                TokenTable(
                    name=tuple(f"{each}" for each in range(size)),
                    place=tuple(f"dump {seed}: line {each + 1}" for each in range(size)),
                    starts=np.concatenate([[0], np.cumsum(lengths[rows])]).astype(np.int64),
                    position=np.broadcast_to(np.arange(length), kept.shape)[kept].astype(np.int64),
                    mask=np.ones(int(kept.sum()), dtype=np.bool_),
                    actor_log_probs=taken(columns.of_tokens("actor")),
                    policy_log_probs=taken(columns.of_tokens("policy")),
                    token=columns.tokens[rows][kept],
                    advantages=np.broadcast_to(advantage[:, None], kept.shape)[kept],
                    entropy=taken(entropy),
                    weight_version=np.broadcast_to(columns.version[rows, None], kept.shape)[kept],
                    reward=own,
                    step=self.step[rows],
                    actor_topk=TopK(taken(ids["actor"]), taken(log_probs["actor"])),
                    policy_topk=TopK(taken(ids["policy"]), taken(log_probs["policy"])),
                )
            )
        return out
