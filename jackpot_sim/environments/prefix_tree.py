"""The tree of prefixes that can follow a prompt, with every sequence through it: the referee for every estimator.

The prefixes form a tree. A row of a table is a prefix that has not ended; rows are in order of length, and the
children of a prefix lie side by side. So a model that keeps the keys and values of one level scores the next one with
a single new token each (`CausalLM.log_probs`), and a sequence is a path of rows. With a vocabulary of V and an end
token there are (V − 1)^t prefixes of t tokens; without, V^t.

Laws are tables over these rows. The objective J = E_{y~p}[R(y)], its gradient and the law of the prefixes are sums over
paths, without sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import psutil

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_numpy, check_reals, check_same_shape, check_shape
from jackpot_sim.core.policy_gradient import gradient_under
from jackpot_sim.core.sampling import categorical
from jackpot_sim.core.sequences import Sequences, kl_of_measures, occupancy
from jackpot_sim.environments.fields import check_count

_BYTES_PER_STEP, _BYTES_PER_STEP_AND_PROMPT = 80, 125
"""Bytes at the peak for each position of each sequence: its path, and the columns that moments are made of."""
_BYTES_PER_CELL = 120
"""Bytes at the peak for each (prefix, token): laws, gradients and occupancies."""


@dataclass(frozen=True)
class PrefixTree:
    """The prefixes and sequences of at most `length` new tokens.

    Attributes:
        vocab: V, tokens 0 … V − 1.
        length: T, the most new tokens; a sequence that has not ended by then is cut there.
        end_token: the token that ends a sequence, or None if all have T tokens.

    Raises:
        ValueError: a size is out of range, or the end token is none of the vocabulary.
    """

    vocab: int
    length: int
    end_token: int | None = None

    def __post_init__(self) -> None:
        check_count("vocab", self.vocab, 2)
        check_count("length", self.length, 1)
        if self.end_token is not None and not 0 <= self.end_token < self.vocab:
            raise ValueError(f"end_token={self.end_token} is never reached: the vocabulary is 0 to {self.vocab - 1}")

    @cached_property
    def going_on(self) -> Ints:
        """The tokens that do not end a sequence, (tokens,)."""
        return np.array([token for token in range(self.vocab) if token != self.end_token], dtype=np.int64)

    @cached_property
    def levels(self) -> tuple[slice, ...]:
        """The rows of the prefixes of 0, 1, …, T − 1 tokens."""
        sizes = [len(self.going_on) ** depth for depth in range(self.length)]
        ends = np.cumsum(sizes).tolist()
        return tuple(slice(end - size, end) for size, end in zip(sizes, ends, strict=True))

    @property
    def prefixes(self) -> int:
        """The number of rows."""
        return int(self.levels[-1].stop)

    @property
    def sequences_count(self) -> int:
        """The number of sequences, from the sizes alone."""
        ended = 0 if self.end_token is None else self.prefixes
        return int(ended + len(self.going_on) ** self.length)

    @cached_property
    def child(self) -> Ints:
        """The row that each (prefix, token) leads to, −1 where the sequence is over; (prefixes, vocab)."""
        out = np.full((self.prefixes, self.vocab), -1, dtype=np.int64)
        for here, below in zip(self.levels, self.levels[1:], strict=False):
            out[here, self.going_on] = np.arange(below.start, below.stop).reshape(-1, len(self.going_on))
        return out

    @cached_property
    def parent(self) -> Ints:
        """The row of each prefix without its last token, −1 for the empty one; (prefixes,)."""
        out = np.full(self.prefixes, -1, dtype=np.int64)
        for here, below in zip(self.levels, self.levels[1:], strict=False):
            out[below] = np.repeat(np.arange(here.start, here.stop), len(self.going_on))
        return out

    @cached_property
    def last_token(self) -> Ints:
        """The last token of each prefix, −1 for the empty one; (prefixes,)."""
        out = np.full(self.prefixes, -1, dtype=np.int64)
        for here, below in zip(self.levels, self.levels[1:], strict=False):
            out[below] = np.tile(self.going_on, here.stop - here.start)
        return out

    @cached_property
    def sequences(self) -> Sequences:
        """The sequences of the tree, each once, the shorter ones first."""
        parts: list[tuple[Ints, Ints]] = []
        prefix, token = np.zeros((1, 0), dtype=np.int64), np.zeros((1, 0), dtype=np.int64)
        for depth, rows in enumerate(self.levels):
            prefix = np.column_stack([prefix, np.arange(rows.start, rows.stop)])
            if self.end_token is not None:
                parts.append((prefix, np.column_stack([token, np.full(len(token), self.end_token)])))
            fan = len(self.going_on)
            token = np.column_stack([np.repeat(token, fan, axis=0), np.tile(self.going_on, len(prefix))])
            prefix = np.repeat(prefix, fan, axis=0)
            if depth == self.length - 1:
                parts.append((prefix, token))
        return _padded(parts, self.length)

    def reach(self, log_probs: Floats) -> Floats:
        """log P(prefix) under a law, shape (prefixes,), from log p(x|s) of shape (prefixes, vocab); nats.

        Raises:
            TypeError: the table holds no real floating numbers.
            ValueError: the table has another shape.
        """
        self.check_table(log_probs, "log_probs")
        out = np.zeros(self.prefixes)
        for rows in self.levels[1:]:
            parent = self.parent[rows]
            out[rows] = out[parent] + log_probs[parent, self.last_token[rows]]
        return out

    def draw(self, log_probs: Floats, uniforms: Floats) -> Sequences:
        """Sequences drawn token by token, one per row of `uniforms`, shape (n, length), in [0, 1).

        Raises:
            TypeError: an array holds no real floating numbers.
            ValueError: a shape differs, a law is not normalised, or a uniform lies outside [0, 1).
        """
        self.check_table(log_probs, "log_probs")
        check_reals(uniforms, "uniforms", "n", "length")
        check_shape(uniforms, (len(uniforms), self.length), "uniforms", "one number per token of the tree's length")
        prefix, token = (np.zeros(uniforms.shape, dtype=np.int64) for _ in range(2))
        mask: Flags = np.zeros(uniforms.shape, dtype=bool)
        at, alive = np.zeros(len(uniforms), dtype=np.int64), np.arange(len(uniforms))
        for step in range(self.length):
            if not alive.size:
                break
            here = at[alive]
            token[alive, step] = categorical(log_probs[here], uniforms[alive, step, None])[:, 0]
            prefix[alive, step], mask[alive, step] = here, True
            at[alive] = self.child[here, token[alive, step]]
            alive = alive[at[alive] >= 0]
        return Sequences(prefix, token, mask)

    def check_table(self, table: Floats, name: str) -> None:
        """Refuses a table that does not hold real floating numbers in the shape (prefixes, vocab)."""
        check_shape(check_reals(table, name), (self.prefixes, self.vocab), name, "(prefixes, vocab) of the tree")

    def bytes_needed(self, prompts: int = 1) -> int:
        """About the most bytes that the enumeration of so many prompts holds at a time."""
        steps, cells = self.sequences_count * self.length, self.prefixes * self.vocab
        per_step = _BYTES_PER_STEP + _BYTES_PER_STEP_AND_PROMPT * prompts
        return steps * per_step + cells * _BYTES_PER_CELL * prompts

    def require_fits(self, limit: int, prompts: int = 1) -> None:
        """Refuses an enumeration that would hold more than `limit` bytes.

        Raises:
            ValueError: it says the cost, and the ways out.
        """
        self._require(prompts, limit, "the memory limit is", "measure by Monte Carlo")

    def require_memory(self, prompts: int = 1) -> None:
        """Refuses an enumeration that would hold more than this machine has free.

        Raises:
            ValueError: it says the cost, and the ways out.
        """
        free = int(psutil.virtual_memory().available)
        self._require(prompts, free, "this machine has free", "set a memory limit below that to measure by Monte Carlo")

    def _require(self, prompts: int, limit: int, because: str, otherwise: str) -> None:
        needed = self.bytes_needed(prompts)
        if needed > limit:
            raise ValueError(
                f"enumerating {self.sequences_count:,} sequences over {self.prefixes:,} prefixes (vocab {self.vocab}, "
                f"length {self.length}) needs about {needed / 2**30:.3g} GiB and {because} {limit / 2**30:.3g} GiB: "
                f"make length or vocab smaller, or {otherwise}"
            )


def require_an_end(tree: PrefixTree, log_probs: Floats, name: str) -> None:
    """Refuses a policy that gives the end token no chance at any prefix.

    Args:
        tree: the prefixes.
        log_probs: log p at any prefixes, (states, vocab), nats.
        name: the name of the policy, for the error.

    Raises:
        TypeError: `log_probs` holds no real floating numbers.
        ValueError: the policy gives the end token no chance, or `log_probs` has another shape.
    """
    check_reals(log_probs, "log_probs", "states", "vocab")
    check_shape(log_probs, (len(log_probs), tree.vocab), "log_probs", "(states, vocab) of the tree")
    if tree.end_token is not None and not np.any(np.exp(log_probs[:, tree.end_token]) > 0):
        raise ValueError(f"the end token {tree.end_token} is never reached: {name} gives it probability 0 everywhere")


def objective(sequences: Sequences, log_probs: Floats, reward: Floats) -> float:
    """J = Σ_y p(y) R(y), from log p(x|s) of shape (prefixes, vocab) and R of shape (n,).

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: a shape differs, or a sequence leaves the table.
    """
    _check_objective(sequences, log_probs, reward)
    return float(np.exp(sequences.log_probs(log_probs)) @ reward)


def policy_gradient(sequences: Sequences, log_probs: Floats, reward: Floats) -> Floats:
    """∇J with respect to the logits at every prefix, shape (prefixes, vocab).

    Σ_y p(y) R(y) Σ_t (e_{y_t} − p(·|s_t)) at row s_t. Arguments and errors as `objective`.
    """
    _check_objective(sequences, log_probs, reward)
    shape = log_probs.shape[0], log_probs.shape[1]
    value = occupancy(sequences, np.exp(sequences.log_probs(log_probs)) * reward, shape)
    return np.asarray(gradient_under(value, np.exp(log_probs), np.ones(shape)))


def _check_objective(sequences: Sequences, log_probs: Floats, reward: Floats) -> None:
    check_numpy(log_probs=log_probs, reward=reward)
    check_reals(log_probs, "log_probs", "prefixes", "vocab")
    check_shape(check_reals(reward, "reward"), (len(sequences),), "reward", "one number per sequence")


@dataclass(frozen=True)
class PrefixShift:
    """The distance between the prefixes that two policies reach.

    Attributes:
        total_variation: Σ_s |P(s) − Q(s)| / 2 among the prefixes of t tokens, sequences that have ended
            counted as one more; shape (length,). 0 at the empty prefix.
        kl: KL between the two laws of a visited prefix, that is of expected visits over expected length; nats.
    """

    total_variation: Floats
    kl: float


def prefix_shift(tree: PrefixTree, policy_log_probs: Floats, actor_log_probs: Floats) -> PrefixShift:
    """The exact shift of the prefix law between policy and actor, both of shape (prefixes, vocab).

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: a shape is not that of the tree.
    """
    check_same_shape(policy_log_probs, actor_log_probs, "policy_log_probs", "actor_log_probs")
    tree.check_table(policy_log_probs, "policy_log_probs")
    tree.check_table(actor_log_probs, "actor_log_probs")
    p, q = np.exp(tree.reach(policy_log_probs)), np.exp(tree.reach(actor_log_probs))
    by_depth = [(np.abs(p[rows] - q[rows]).sum() + abs(p[rows].sum() - q[rows].sum())) / 2 for rows in tree.levels]
    return PrefixShift(np.array(by_depth), kl_of_measures(p, q))


def _padded(parts: list[tuple[Ints, Ints]], length: int) -> Sequences:
    """Paths of different lengths in one array: each part is prefixes and tokens, both (n, its length)."""
    count = sum(len(prefix) for prefix, _ in parts)
    prefix, token = (np.zeros((count, length), dtype=np.int64) for _ in range(2))
    mask: Flags = np.zeros((count, length), dtype=np.bool_)
    start = 0
    for rows, tokens in parts:
        here = slice(start, start + len(rows)), slice(0, rows.shape[1])
        prefix[here], token[here], mask[here] = rows, tokens, True
        start += len(rows)
    return Sequences(prefix, token, mask)
