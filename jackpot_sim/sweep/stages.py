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
        rollouts: the rollouts that it writes, scores or differentiates.
        passes: the times that a model reads each of them.
    """

    stage: Stage
    name: str
    rollouts: int
    passes: int

    def tokens(self, prompt_tokens: float, length: float) -> float:
        """The forward tokens of the step, of prompts and rollouts of these mean lengths."""
        return self.rollouts * self.passes * (prompt_tokens + length)


LOADING, ACTOR_WRITES, POLICY_WRITES = "loading", "actor writes", "policy writes"
SCORING, OWN_SCORING, GRADIENTS, OWN_GRADIENTS = "scoring", "own scoring", "gradients", "own gradients"


def steps(env: HuggingFace, study: Study, prompts: int) -> list[Step]:
    """The steps of a cell in their order; machine-independent.

    Args:
        env: the environment.
        study: the sizes.
        prompts: the number of prompts.
    """
    rollouts, pilot = prompts * study.n_samples * study.replicates, prompts * POLICY_ROLLOUTS
    out = [Step(Stage.LOADING, LOADING, 0, 0)]
    if env.target_kl is not None:
        out.append(Step(Stage.SOLVING, OWN_SCORING, pilot * TARGET_PASSES, 2))
    out += [
        Step(Stage.ACTOR_WRITES, ACTOR_WRITES, rollouts, 1),
        Step(Stage.POLICY_WRITES, POLICY_WRITES, rollouts, 1),
    ]
    if env.gradients != "off":
        out.append(Step(Stage.POLICY_WRITES, POLICY_WRITES, pilot, 1))  # for the baseline
    laws = env.actor.shows_laws
    out.append(Step(Stage.SCORING, SCORING, rollouts, 2 if laws else 1))
    if laws:
        out.append(Step(Stage.SCORING, OWN_SCORING, rollouts, 2))
    if env.gradients != "off":
        own = Step(Stage.GRADIENTS, OWN_GRADIENTS, rollouts, 1)
        out += [own, Step(Stage.GRADIENTS, GRADIENTS, rollouts, 1)]
    return out
