"""The chapters of `python -m jackpot_sim.sweep --help`: environments, estimators, files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import get_args

from jackpot_sim.environments.language_models import carried
from jackpot_sim.environments.language_models.build import LanguageModel
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.formats import Format
from jackpot_sim.environments.language_models.generated_prompts import GeneratedPrompts
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.rollouts.answers import AnswerReward, Match
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.sequences.reward import Reward
from jackpot_sim.environments.sequences.small_lm import SmallLM
from jackpot_sim.environments.sources.actor_source import ActorSource
from jackpot_sim.environments.sources.kinds import REAL_SOURCES, TINY_SOURCES
from jackpot_sim.environments.states.advantage import Advantage
from jackpot_sim.environments.states.base_laws import BaseLaw
from jackpot_sim.environments.states.families import FAMILIES
from jackpot_sim.estimators import names, presets
from jackpot_sim.estimators.corrections.registry import ours, registered
from jackpot_sim.help_pages import Chapter
from jackpot_sim.studies import plugins
from jackpot_sim.studies.help_texts import fields, kinds, page, pages


def _sources(sources: tuple[type[ActorSource], ...]) -> str:
    """The kinds of sources, each with its knob first and its other fields after it."""
    parts = []
    for source in sources:
        names = [field.name for field in dataclasses.fields(source) if field.name not in ("kind", "target_kl")]
        knob = [name for name in names if name == source.knob_name]
        parts.append(f"{source.kind} ({', '.join(dict.fromkeys([*knob, *names]))})")
    return "; ".join(parts)


def chapters(tokens: Sequence[str] = ()) -> list[Chapter]:
    """The chapters, with the corrections of the plug-ins that a command line names."""
    plugged = plugins.help_text(tokens)
    return [
        Chapter("environments", "--env.… options: kinds, base laws, advantages", _ENVIRONMENTS, _of_states()),
        Chapter(SmallLM.kind, "tiny language models, whole sequences", _SEQUENCES, _of_sequences()),
        Chapter(HuggingFace.kind, "real models and rollout servers", _REAL_MODELS, _of_real_models()),
        Chapter("log-probs", "what a trainer gets from a sampler that cuts", _CUTS),
        Chapter("estimators", "all corrections, their parameters and presets", _estimators(plugged), corrections()),
        Chapter("files", "config files, interruptions, exit codes", _FILES),
    ]


def corrections() -> dict[str, str]:
    """The page of each correction and of each preset, by name."""
    out = {name: page(registered(name), f"{name}, a correction: (accept, weight)") for name in names()}
    for preset in presets().values():
        becomes = f"becomes {preset.becomes}" if preset.parts else "is expressed by no correction here"
        out[preset.name] = f"{preset.name} {becomes} (version {preset.version}). {preset.note}"
    return out


def _of_states() -> dict[str, str]:
    return {
        **pages(FAMILIES, "--env.kind"),
        **pages(get_args(BaseLaw), "--env.base.kind"),
        **pages(get_args(Advantage), "--env.advantage.kind"),
    }


def _of_sequences() -> dict[str, str]:
    return {
        SmallLM.kind: page(SmallLM, "The fields, as --env.FIELD:"),
        **pages(TINY_SOURCES, "--env.source.kind"),
        **pages(get_args(Reward), "--env.reward.kind"),
        **pages(get_args(LanguageModel), "--env.model.kind"),
    }


def _of_real_models() -> dict[str, str]:
    return {
        HuggingFace.kind: page(HuggingFace, "The fields, as --env.FIELD:"),
        **pages(REAL_SOURCES, "--env.actor.kind"),
        AnswerReward.kind: page(AnswerReward, f"{AnswerReward.kind}, --env.reward.kind {AnswerReward.kind}"),
    }


_ENVIRONMENTS = f"""
Environments are set by dotted options, whose values may be lists (each value is one environment):
`--env.kind logit-noise --env.sigma 0.1 0.2 --env.base.kind zipf --env.base.vocab 5000`.
With `--env.kind` they replace the study's environments; without it they change each of them.
Any kind takes `--env.target-kl` in place of its knob, and solves for the knob.

Kinds, knob first: {"; ".join(f"{each.kind} ({each.knob_name})" for each in FAMILIES)}.
actor-file reads the actor's own logits: `--env.base.kind logits-file --env.base.path POLICY.npy
--env.kind actor-file --env.path ACTOR.npy --env.share 1`.

Base laws (`--env.base.kind`): {kinds(get_args(BaseLaw))}.

Advantages (`--env.advantage.kind`): {kinds(get_args(Advantage))}.
"""

_SEQUENCES = f"""
Sequences: `--env.kind small-lm --env.source.kind weight-noise --env.source.target-kl 0.01 --env.length 5` takes
tiny language models {fields(SmallLM, "source", "reward", "model")} and measures estimators over whole sequences:
exactly where all of them fit into memory_limit_gib, by Monte Carlo beyond. `--env.end-token null` gives all
sequences the same length. It needs torch and transformers
(`pip install '.[hf]'`).
Sources of the mismatch (`--env.source.kind`), knob first:
{_sources(TINY_SOURCES)}.
A stale actor has old weights. `--env.updates` steps lead from p_ref to p_new after the rollouts were written, so
that the update of a token is accept, weight, p_new/p_ref (unclipped) and advantage times the gradient.
Rewards (`--env.reward.kind`): {kinds(get_args(Reward))}.
Models (`--env.model.kind`): {kinds(get_args(LanguageModel))}.
"""

_REAL_MODELS = f"""
Real models: `--env.kind hf --env.policy PATH_OR_ID --env.actor PATH_OR_ID --env.prompts FILE` takes any causal language
models through transformers {fields(HuggingFace, "actor", "prompts", "reward", "policy")}: rollouts of both, scored over
the whole vocabulary at every token, on CPU or CUDA. The file holds a prompt a line (.txt), or objects with a `prompt`,
text or chat messages, and perhaps an `answer` (.jsonl). `--env.prompts.kind dataset --env.prompts.name ID` takes a data
set. Either takes a limit. `--env.prompts.kind reasoning-gym --env.prompts.dataset NAME` generates problems
{fields(GeneratedPrompts)}. The actor is another checkpoint, or made from the policy: `--env.actor
quantized-weights`, or
`--env.actor.kind ...`: {_sources(REAL_SOURCES)}.
A checkpoint is a folder, a hub id, a GGUF file (`--env.policy model.gguf`) or smollm2.
{carried.help_text()}
llama.cpp runs a GGUF file (`--env.actor FILE.gguf`), that which the policy is made of (`--env.actor llama-cpp`), or the
policy's weights in one (`--env.actor.kind llama-cpp --env.actor.format q4_0`): `pip install '.[llama-cpp]'`.
A rollout server is named by its address (`--env.actor http://127.0.0.1:8000/v1`): vLLM, SGLang, llama.cpp, TGI or
another that speaks OpenAI's completions; of its laws --env.actor.topk likeliest tokens are known (20; at most
stored_topk).
Formats are {", ".join(Format)}; precisions {", ".join(Precision)}.
`--env.reward.kind` is {AnswerReward.kind} (match={" or ".join(Match)}; the default where every prompt carries an
answer), distinct-share (the default elsewhere) or another of those above. temperature is that of both models; top_k and
top_p are the actor's sampling. Gradients are measured in the space of the parameters that block names. n_samples counts
rollouts of each prompt in an update, and an update takes those of all prompts; by default there are 8 of them and 4
replicates, from which bias and variance are estimated.
"""

_CUTS = f"""
A sampler that cuts, by top-k or top-p: `--env.log-probs` says what the trainer gets, in every kind of environment.
{LogProbs.PROCESSED} (the default): the actor's log-probs after the cut, against the whole policy. r is right for the
whole policy on the tokens kept, and S, their mass, times that of the policy as it was cut: a policy and its own nucleus
have r = S. {LogProbs.RAW}: the actor's log-probs before temperature, top-k and top-p: r is blind to the cut.
{LogProbs.SUPPORT}: the tokens kept are recorded, and the policy is renormalised on them, in ratios and in the update's
gradient: right for the policy as it was cut. Bias and KLs are against the whole policy in all three.
"""


def _estimators(plugged: str) -> str:
    return f"""
Estimators: {"; ".join(f"{name} {fields(registered(name))}".strip() for name in ours())}. Parameters are
given in a config file, beside their kind:
`estimators: [none, {{kind: tis, clip: [1.5, 2, 5]}}, {{kind: jackpot, acceptance_rate: 0.9, rao_blackwell: true}}]`.

Presets are the rules of training frameworks by their own names, `--estimators verl:decoupled_token_is trl:token_mask`.
They are measured with their framework's denominator unless denominators are given; `--presets` lists them.

In a config file an estimator also takes `rao_blackwell: true`, `centred: true` (arXiv 2609.20807: each token's term
loses its mean over the actor's law), `batch_normalize: true`, `masked_by: ANOTHER` (accept
probabilities and weights are multiplied: `{{kind: tis, masked_by: veto}}`) and, on small-lm, `target: p_new`: a
correction with a c2 aims at the policy being trained instead of the one before the update, see `updates`. m2po and
batch_normalize look at the whole batch: their exact figures are the limit of an infinitely large batch, and
Monte Carlo takes batches of n_samples sequences of every prompt.

{plugged}

Denominators: proposed divides by all tokens, accepted by those kept in the batch, self_normalized by
each state's own weights.
"""


_FILES = """

"""
