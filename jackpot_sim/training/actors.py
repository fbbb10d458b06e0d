"""Who writes the rollouts: the modes of a mismatch in training."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from jackpot_sim.environments.language_models.build import Checkpoint, TinyQwen3
from jackpot_sim.environments.sources.kinds import ServedSource
from jackpot_sim.environments.sources.served import QuantizedWeights
from jackpot_sim.studies.estimator_spec import Frozen
from jackpot_sim.training.loop.closed_loop import Feedback
from jackpot_sim.training.objective import Direction

_AnyModel: TypeAlias = Annotated[TinyQwen3 | Checkpoint, Field(discriminator="kind")]


class OnPolicy(Frozen):
    """The policy itself, as it is when the batch is written."""

    kind: Literal["on-policy"] = "on-policy"


class Stale(Frozen):
    """The policy as it was some batches ago, as in asynchronous training."""

    kind: Literal["stale"] = "stale"
    lag: Annotated[int, Field(ge=1)] = 1
    """Batches of rollouts; until there were so many, the first policy."""


class Served(Frozen):
    """The policy's weights of the moment, served otherwise: quantised, in a coarse KV cache, with noise."""

    kind: Literal["served"] = "served"
    source: Annotated[ServedSource, Field(discriminator="kind")] = QuantizedWeights(share=1.0)
    """What serving does to the weights; its knob is given, not solved for."""

    @model_validator(mode="after")
    def _known_knob(self) -> Served:
        if self.source.knob is None:
            name = self.source.knob_name
            raise ValueError(f"source.target_kl is not solved for while the weights change: give source.{name}")
        return self


class SmallActor(Frozen):
    """Another model, as a rule a smaller one, distilled from the policy and then frozen."""

    kind: Literal["frozen"] = "frozen"
    model: _AnyModel = TinyQwen3(hidden=64, layers=3, heads=2, kv_heads=2, initial_scale=5.0)
    """The model; a checkpoint is taken as it is."""
    kl: Annotated[float, Field(gt=0)] | None = 0.05
    """It is distilled until KL(policy‖actor) per token of its own rollouts is at most this, nats, at temperature 1;
    no checkpoint is."""

    @model_validator(mode="after")
    def _near_enough(self) -> SmallActor:
        if self.kl is None and isinstance(self.model, TinyQwen3):
            raise ValueError("kl is null, and an actor of random weights has to be distilled: give the KL to stop at")
        return self


class Distillation(Frozen):
    """λ_distill · E[KL(SG(p_new)‖p_ω)] over the states that the batch visits ([J] eq. 7)."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """λ_distill, or where it starts."""
    direction: Direction = Direction.FORWARD
    """Which KL."""
    feedback: Feedback | None = None
    """How λ_distill follows the measured KL; None keeps it. AdamW does not see the scale of a loss: λ_distill sets how
    much distillation counts beside the actor's own PPO, and once that is little a larger one changes nothing."""


class JointActor(SmallActor):
    """A model of its own that is trained beside the policy, on the same rollouts ([J] §4.2)."""

    kind: Literal["joint"] = "joint"  # type: ignore[assignment]
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """AdamW's."""
    ppo: bool = True
    """Whether it is rewarded too: ordinary PPO on its own ratio p_ω/p_inf, without any rejection.

    What wrote the batch is p_ω before the step's updates, so that the factor F(p_ω,ref/p_inf) of [J] is 1.
    """
    distillation: Distillation | None = Distillation()
    """What draws it to the policy; None: nothing does."""

    @model_validator(mode="after")
    def _weighs_something(self) -> JointActor:
        if not self.ppo and self.distillation is not None and self.distillation.feedback is not None:
            raise ValueError("distillation.feedback does nothing where ppo is false: AdamW cancels a lone weight")
        return self


Actor: TypeAlias = Annotated[OnPolicy | Stale | Served | SmallActor | JointActor, Field(discriminator="kind")]
"""Any of them, told apart by `kind`."""
