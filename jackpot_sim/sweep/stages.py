"""The stages of a cell of real models: the one list by which its cost is estimated and its progress is told."""

from __future__ import annotations

from dataclasses import dataclass

from jackpot_sim.environments.progress import Stage
from jackpot_sim.environments.rollouts.hf import POLICY_ROLLOUTS, HuggingFace
from jackpot_sim.environments.worlds import TARGET_PASSES
from jackpot_sim.sweep.spec import Study


@dataclass(frozen=True)
class Step:
    """A stage in its place among those of a cell.

    Attributes:
        stage: the stage.
        name: its name among the rates of a rehearsal: steps of one name cost the same a rollout.
        rollouts: the rollouts that it writes, scores or differentiates; 0 where all is known from another cell.
        passes: the times that these go through the layers of a model; laws and gradients of states that are kept take
            none.
        prompts: the prompts that are read in each pass.
    """

    stage: Stage
    name: str
    rollouts: int = 0
    passes: int = 0
    prompts: int = 0

    def tokens(self, prompt_tokens: float, length: float) -> float:
        """The tokens that go through layers, of prompts and rollouts of these mean lengths."""
        return self.passes * (self.rollouts * length + self.prompts * prompt_tokens)


@dataclass(frozen=True)
class Shared:
    """The passes that a cell need not make.

    Attributes:
        loaded: whether a cell before it loaded the policy.
        written: whether a cell before it wrote the policy's rollouts, which are known with their gradients.
        states: whether the policy's states are kept.
        actor_states: whether the actor's are.
        whole_laws: whether the actor shows its laws; if not, it scores nothing.
    """

    loaded: bool = False
    written: bool = False
    states: bool = True
    actor_states: bool = True
    whole_laws: bool = True


LOADING, ACTOR_LOADING, ACTOR_WRITES, POLICY_WRITES = "loading", "actor loading", "actor writes", "policy writes"
SCORING, OWN_SCORING, GRADIENTS, OWN_GRADIENTS = "scoring", "own scoring", "gradients", "own gradients"
MEASURED = {Stage.SCORING: (SCORING, OWN_SCORING), Stage.GRADIENTS: (OWN_GRADIENTS, GRADIENTS)}
"""The names of the steps after all is written, in their order."""


def steps(env: HuggingFace, study: Study, prompts: int, shared: Shared) -> list[Step]:
    """The steps of a cell in their order; machine-independent.

    Args:
        env: the environment.
        study: the sizes.
        prompts: the number of prompts.
        shared: the passes that it need not make.
    """
    rollouts, pilot = prompts * study.n_samples * study.replicates, prompts * POLICY_ROLLOUTS
    side_by_side = min(study.n_samples, env.batch_size)
    own = 0 if shared.written else 1
    out = [Step(Stage.LOADING, ACTOR_LOADING if shared.loaded else LOADING)]
    if env.target_kl is not None:
        out.append(Step(Stage.SOLVING, OWN_SCORING, pilot * TARGET_PASSES, 1, prompts * TARGET_PASSES))
    out += [
        Step(Stage.ACTOR_WRITES, ACTOR_WRITES, rollouts, 1, rollouts // side_by_side),
        Step(Stage.POLICY_WRITES, POLICY_WRITES, own * rollouts, 1, own * rollouts // side_by_side),
    ]
    if env.gradients != "off":  # for the baseline
        out.append(Step(Stage.POLICY_WRITES, POLICY_WRITES, own * pilot, 1, own * prompts))
    by_policy = 1 if shared.states else 2
    by_actor = 0 if shared.actor_states or not shared.whole_laws else 1
    out.append(Step(Stage.SCORING, SCORING, rollouts, 1 + by_actor, prompts))
    if shared.whole_laws:
        out.append(Step(Stage.SCORING, OWN_SCORING, rollouts, by_policy, prompts))
    if env.gradients != "off":
        through = 0 if shared.states and env.block is None else 1
        out.append(Step(Stage.GRADIENTS, OWN_GRADIENTS, own * rollouts, through, prompts))
        out.append(Step(Stage.GRADIENTS, GRADIENTS, rollouts, through, prompts))
    return out
