"""The cost of cells of real models, from the rates of a rehearsal and from what cells share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim.environments.engines import sharing
from jackpot_sim.environments.progress import Stage
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.stages import Shared, Step, steps


@dataclass(frozen=True)
class Rate:
    """The seconds of a step: a constant, and multiples of its rollouts and of their tokens."""

    constant: float
    per_rollout: float
    per_token: float

    @classmethod
    def of(cls, timed: Sequence[tuple[int, float, float]]) -> Rate:
        """The rate nearest to some timings, of which noise makes no part negative.

        What never changes cannot be told from the rest, and has no part of its own.

        Args:
            timed: rollouts, their mean length, and seconds.
        """
        from scipy.optimize import nnls  # heavy, and no other command needs it

        rollouts, lengths, seconds = np.array(timed, dtype=np.float64).T
        constant, counted = len(np.unique(rollouts)) > 1, len(np.unique(lengths)) > 1
        columns = [constant * np.ones(len(rollouts)), counted * rollouts, rollouts * lengths]
        parts, _ = nnls(np.stack(columns, axis=1) / seconds[:, None], np.ones(len(seconds)))
        return cls(*parts.tolist())

    def seconds(self, rollouts: int, length: float) -> float:
        """The seconds of rollouts of this mean length; none if there are none."""
        return self.constant + rollouts * (self.per_rollout + self.per_token * length) if rollouts else 0.0


@dataclass(frozen=True)
class Timed:
    """The cost of a cell.

    Attributes:
        steps: its steps in their order.
        seconds: of each step.
        tokens: the tokens that models read and write.
        bytes: the memory that it needs.
    """

    steps: tuple[Step, ...]
    seconds: tuple[float, ...]
    tokens: float
    bytes: float


@dataclass(frozen=True)
class Rehearsed:
    """The cost of the cells of one kind.

    Attributes:
        rates: the seconds of each step, by its name.
        loading: the seconds of each way to load, by its name.
        prompts: the number of prompts.
        prompt_tokens: their mean length.
        length: the mean length of rollouts.
        policy_as_is: whether the actor leaves the policy as it is loaded.
        own_bytes: the bytes of the states of the policy's own rollouts.
        shared: what is kept in a first cell.
        bytes: the memory that a cell needs.
    """

    rates: Mapping[str, Rate]
    loading: Mapping[str, float]
    prompts: int
    prompt_tokens: float
    length: float
    policy_as_is: bool
    own_bytes: int
    shared: Shared
    bytes: float

    def of_cell(self, env: HuggingFace, study: Study, shared: Shared) -> Timed:
        """The cost of a cell that need not make some passes."""
        planned = tuple(steps(env, study, self.prompts, shared))
        seconds = tuple(
            self.loading[each.name]
            if each.stage is Stage.LOADING
            else self.rates[each.name].seconds(each.rollouts, self.length)
            for each in planned
        )
        tokens = sum(each.tokens(self.prompt_tokens, self.length) for each in planned)
        return Timed(planned, seconds, tokens, self.bytes)


class Kept:
    """The policy's rollouts that are kept from cell to cell."""

    def __init__(self) -> None:
        self._policy = ""
        self._written: set[str] = set()
        self._bytes = 0

    def before(self, cell: Cell, rehearsed: Rehearsed) -> Shared:
        """The passes that earlier cells spare this one, which is the next."""
        env = cell.env
        assert isinstance(env, HuggingFace)
        policy = repr((env.policy, env.precision, env.device, env.threads))
        loaded = policy == self._policy
        if not loaded:
            self._policy, self._written, self._bytes = policy, set(), 0
        fields = {each.name: getattr(env, each.name) for each in dataclasses.fields(env) if each.name != "actor"}
        rollouts = repr((cell.seed, fields))
        written = rollouts in self._written and self._bytes <= sharing.LIMIT
        if rehearsed.policy_as_is and rollouts not in self._written:
            self._written.add(rollouts)
            self._bytes += rehearsed.own_bytes
        return dataclasses.replace(rehearsed.shared, loaded=loaded, written=written and rehearsed.policy_as_is)
