"""The actor of a run as training goes on: the weights that write the next batch."""

from __future__ import annotations

import copy
from collections import deque
from typing import TypedDict, cast

from jackpot_sim.environments.engines.engine import Engine, engine_of
from jackpot_sim.environments.language_models.build import Model, Tokenizer
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.sources.actor_source import Setting
from jackpot_sim.training.actors import Actor, OnPolicy, Served, StaleActor
from jackpot_sim.training.models.adapters import Merged, Weights, is_adapted, restore, trained_weights


class ServerState(TypedDict):
    """The part of a checkpoint that the next actor depends on."""

    past: list[Weights]
    """The policy's weights of the last batches, the oldest first; empty unless the actor is stale."""


class Server:
    """The source of the current actor.

    Attributes:
        model: the actor's own model; None where the policy, or a copy of it, writes.
    """

    def __init__(
        self,
        config: Actor,
        policy: Model,
        own: Model | None,
        seed: int,
        *,
        name: str = "",
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """The source of a run's actors.

        Args:
            config: the actor.
            policy: the model that is trained.
            own: the actor's own model, if it has one.
            seed: the seed of all draws.
            name: the checkpoint that the policy started from, as it was named.
            tokenizer: the policy's.
        """
        self._name, self._tokenizer = name, tokenizer
        self._config, self._policy, self._seed = config, policy, seed
        self.model: Model = own
        self._past: deque[Weights] = deque(maxlen=config.lag + 1 if isinstance(config, StaleActor) else 1)
        self._old = copy.deepcopy(policy) if isinstance(config, StaleActor) else None
        self._merged = Merged(policy) if isinstance(config, Served) and is_adapted(policy) else None

    @property
    def models(self) -> tuple[Model, ...]:
        """The models in this process that may write a batch: the actor's own, the policy as it was, or the policy."""
        others = tuple(each for each in (self.model, self._old) if each is not None)
        return others or (self._policy,)

    def actor(self) -> Engine:
        """The engine that writes the next batch; called once for each batch."""
        return engine_of(self._current())

    def _current(self) -> CausalLM | Engine:
        if self.model is not None:
            return CausalLM(self.model)
        if isinstance(self._config, StaleActor):
            self._past.append({name: weight.clone() for name, weight in trained_weights(self._policy).items()})
            assert self._old is not None
            restore(self._old, self._past[0])
            return CausalLM(self._old)
        if isinstance(self._config, Served):
            return self._served(self._config)
        assert isinstance(self._config, OnPolicy)
        return CausalLM(self._policy)

    def _served(self, config: Served) -> CausalLM | Engine:
        setting = Setting(
            self._policy if self._merged is None else self._merged.current(),
            lambda *key: keyed_generator(self._seed, "serving", *key),
            name=self._name,
            tokenizer=self._tokenizer,
        )
        knob = config.source.knob
        assert knob is not None  # `Served` refuses a target
        return cast("CausalLM | Engine", config.source.actors(setting)(knob)[1])  # no mixture: these are of tiny ones

    def state(self) -> ServerState:
        """The server's part of a checkpoint."""
        return {"past": list(self._past)}

    def restore(self, state: ServerState) -> None:
        """Goes back to where `state` was taken."""
        self._past.clear()
        self._past.extend(state["past"])
