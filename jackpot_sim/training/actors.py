"""The actors that write the rollouts: the modes of a mismatch in training."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from jackpot_sim.environments.language_models.build import Checkpoint, TinyQwen3
from jackpot_sim.environments.sources.kinds import ServedSource
from jackpot_sim.environments.sources.llama_cpp import LlamaCppActor
from jackpot_sim.environments.sources.quantized import QuantizedWeights
from jackpot_sim.studies.estimator_spec import Frozen
from jackpot_sim.training.loop.closed_loop import Feedback
from jackpot_sim.training.objective import Direction

_AnyModel: TypeAlias = Annotated[TinyQwen3 | Checkpoint, Field(discriminator="kind")]


class OnPolicy(Frozen):
    """The policy itself, with its weights at the beginning of the step."""

    kind: Literal["on-policy"] = "on-policy"


class StaleActor(Frozen):
    """The policy of some batches ago, as in asynchronous training."""

    kind: Literal["stale"] = "stale"
    lag: Annotated[int, Field(ge=1)] = 1
    """Batches of rollouts between the two; until there were so many, the first policy writes."""


class Served(Frozen):
    """The policy with its current weights, served otherwise: quantised, with a coarse KV cache, or with noise."""

    kind: Literal["served"] = "served"
    source: Annotated[ServedSource, Field(discriminator="kind")] = QuantizedWeights(share=1.0)
    """The change that serving makes; its knob is given, not solved for."""

    @model_validator(mode="after")
    def _known_knob(self) -> Served:
        if self.source.knob is None:
            name = self.source.knob_name
            raise ValueError(f"source.target_kl is not solved for while the weights change: give source.{name}")
        if isinstance(self.source, LlamaCppActor) and self.source.format is None:
            raise ValueError("llama-cpp needs the policy's weights of the moment as a file: give source.format")
        return self


class SmallActor(Frozen):
    """Another model, usually a smaller one, distilled from the policy and then frozen."""

    kind: Literal["frozen"] = "frozen"
    model: _AnyModel = TinyQwen3(hidden=64, layers=3, heads=2, kv_heads=2, initial_scale=5.0)
    """The model; a checkpoint is taken as it is, and not distilled."""
    kl: Annotated[float, Field(gt=0)] | None = 0.05
    """KL(policy‖actor) per token of the actor's own rollouts, nats, at temperature 1, at which distillation stops."""

    @model_validator(mode="after")
    def _near_enough(self) -> SmallActor:
        if self.kl is None and isinstance(self.model, TinyQwen3):
            raise ValueError("kl is null, and an actor of random weights has to be distilled: give the KL to stop at")
        return self


class Distillation(Frozen):
    """λ_distill · E[KL(SG(p_new)‖p_ω)] over the states that the batch visits ([J] eq. 7)."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """λ_distill; with feedback, its first value."""
    direction: Direction = Direction.FORWARD
    """The direction of the KL."""
    feedback: Feedback | None = None
    """The loop that lets λ_distill follow the measured KL; None keeps λ_distill fixed.

    AdamW does not see the scale of a loss. So λ_distill sets the weight of distillation relative to the actor's own
    PPO, and once PPO counts for little a larger λ_distill changes nothing.
    """


class JointActor(SmallActor):
    """A separate model that is trained beside the policy, on the same rollouts ([J] §4.2)."""

    kind: Literal["joint"] = "joint"  # type: ignore[assignment]
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """AdamW's."""
    ppo: bool = True
    """True rewards the actor too: ordinary PPO on its own ratio p_ω/p_inf, without any rejection.

    p_ω before the step's updates wrote the batch, so that the factor F(p_ω,ref/p_inf) of [J] is 1.
    """
    distillation: Distillation | None = Distillation()
    """The distillation that draws it to the policy; None: no distillation."""

    @model_validator(mode="after")
    def _weighs_something(self) -> JointActor:
        if not self.ppo and self.distillation is not None and self.distillation.feedback is not None:
            raise ValueError("distillation.feedback does nothing where ppo is false: AdamW cancels a lone weight")
        return self


Actor: TypeAlias = Annotated[OnPolicy | StaleActor | Served | SmallActor | JointActor, Field(discriminator="kind")]
"""The union of all actors; `kind` says which."""
