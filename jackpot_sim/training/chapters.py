"""The chapters of `python -m jackpot_sim.training --help`: the fields of a run, and the kinds that they may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from jackpot_sim.environments.language_models import carried
from jackpot_sim.estimators import names
from jackpot_sim.estimators.corrections.registry import registered
from jackpot_sim.help_pages import Chapter
from jackpot_sim.studies import plugins
from jackpot_sim.studies.help_texts import fields, kinds, page, pages, scalars
from jackpot_sim.training.actors import Distillation, JointActor, OnPolicy, Served, SmallActor, StaleActor
from jackpot_sim.training.config import Evaluation, Given, Sampling, Taught, Training, Update
from jackpot_sim.training.loop.closed_loop import Budget, Feedback
from jackpot_sim.training.models.adapters import Lora
from jackpot_sim.training.objective import Overlap
from jackpot_sim.training.tasks import AnyTask
from jackpot_sim.training.tasks.reasoning_gym import Extraction

_ACTORS = (OnPolicy, StaleActor, Served, SmallActor, JointActor)
_PARTS = {"rollout": Sampling, "update": Update, "evaluation": Evaluation, "budget": Budget}


def chapters(tokens: Sequence[str] = ()) -> list[Chapter]:
    """The chapters, with the corrections of the plug-ins that a command line names."""
    whole = f"{_CORRECTIONS}\n\n{plugins.help_text(tokens)}"
    tasks, policies = pages(get_args(AnyTask), "--task.kind"), pages(get_args(Taught | Given), "--policy.kind")
    parts = {name: page(part, f"{name}, --{name}.FIELD") for name, part in _PARTS.items()}
    by_name = {name: page(registered(name), f"{name}, --correction {name}") for name in names()}
    return [
        Chapter("fields", "--FIELD of a run: rollout, update, evaluation", _FIELDS, parts),
        Chapter("tasks", "--task.kind: sums, word problems, your own prompts", _TASKS, tasks),
        Chapter("policies", "--policy.kind: taught on the spot, or a checkpoint", _POLICIES, policies),
        Chapter("actors", "--actor.kind: who writes the rollouts", _OF_ACTORS, pages(_ACTORS, "--actor.kind")),
        Chapter("corrections", "--correction: any of the sweep's, and the overlap", whole, by_name),
        Chapter("studies", "config files, seeds, checkpoints, exit codes", _STUDIES),
    ]


_FIELDS = f"""
Fields of a run are options, dotted where they lie deeper: `--actor.kind frozen --actor.kl 0.05 --correction tis`,
`--correction.kind jackpot --correction.target p_new --update.clip null --steps 200`. They change every run of a study.
Each with its default: {scalars(Training)};
rollout {fields(Sampling)}; update {fields(Update)}; evaluation {fields(Evaluation)};
budget {fields(Budget)}, in the place of lam; feedback {fields(Feedback)}, of a budget or a distillation.
"""

_TASKS = f"""
Tasks (`--task.kind`): {kinds(get_args(AnyTask))}. The first three have an alphabet of their own, and their policy is
taught on the spot; answers of addition are written from their last digit on. The others need
`--policy FOLDER_OR_HUB_ID`, `--policy MODEL.gguf` or `--policy smollm2`.
{carried.help_text()}
Your own prompts are a file of objects with a prompt and an answer: `--task prompts --task.prompts FILE.jsonl`;
`--task.reward answer` compares the answer's text instead of its mathematical value.
A completion's answer in a reasoning-gym task is what its extraction finds:
{", ".join(Extraction)}.
"""

_POLICIES = f"""
Policies (`--policy.kind`): {kinds(get_args(Taught | Given))}. With lora {fields(Lora)} adapters alone are
trained. precision bf16 and fp16 multiply in 16 bits and keep weights in float32; with `--mixed-precision param_dtype`
a pass uses a copy of the weights in 16 bits throughout. fp16 scales the loss, and skips updates that overflow.
"""

_OF_ACTORS = f"""
Actors (`--actor.kind`): {kinds(_ACTORS)}. lag is in batches. served is the policy's model with quantised weights, a
coarse KV cache or noise (`--actor.source.kind quantized-weights --actor.source.format int8 --actor.source.share 1`), or
run by llama.cpp (`--actor.source.kind llama-cpp --actor.source.format q4_0`, of a policy that was a GGUF file).
frozen is a smaller model, distilled to a KL and then left alone, or `--actor.model FOLDER`. joint is the same, but
trained beside the policy, with distillation {fields(Distillation)}.
"""

_CORRECTIONS = f"""
Corrections: any name of `python -m jackpot_sim.sweep --help estimators`, or of a plug-in, with its parameters in a
config file or as `--correction.kind jackpot --correction.lam 1 --correction.c1 2 --correction.target p_new
--correction.rao-blackwell true`. It leads to p_ref, the policy before the update, unless its target is p_new.
The overlap Z by which Jackpot weighs (`--overlap`): {", ".join(Overlap)}; all but exact are from the rollout.topk
likeliest tokens that the actor told.
"""

_STUDIES = """
A config file holds these fields for every run, and `settings`, `methods` and `seeds` that span a grid; see
`paper_figures/configs/figure1.yaml`. A study can be killed at any time: the same command goes on from its checkpoints.
Studies that name the same `--models` folder teach a policy only once. More `--seeds` continue a finished study, and so
they do in a copy of its manifest and tables alone, without its runs: `cp -r paper_figures/measured/training/factorial
mine`, then `--config paper_figures/configs/factorial.yaml --out mine --seeds 16`.

Exit codes: 0 done; 1 done, but a run diverged (a sentence says at which step, why, and which checkpoint is kept;
--quiet too); 2 something asked for cannot be done (one sentence says what); 130 interrupted.
"""
