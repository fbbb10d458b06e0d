"""The doors of sequences that are enumerated or drawn."""

from __future__ import annotations

from typing import Any

from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.prefix_tree import objective, policy_gradient, prefix_shift, require_an_end
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.rollouts.built import RealisedRollouts, Setup
from jackpot_sim.environments.sequences.built import RealisedSequences
from jackpot_sim.environments.sequences.drawn_prefixes import DrawnPrefixes
from jackpot_sim.environments.sequences.mean_kl import ExactKL, SampledKL
from jackpot_sim.environments.sequences.reward import DistinctShareReward, RandomReward, SumReward, TokenShareReward
from jackpot_sim.environments.sources.actor_source import TinyTask
from tests.doors.environments.given import (
    END,
    LENGTH,
    PREFIXES,
    PROMPT,
    REWARDED,
    TABLE,
    TREE,
    TREE_PROMPTS,
    VOCAB,
    WRITTEN,
    fixed,
    generator,
    mixture,
    numpy_alone,
    scorer,
    tokens,
    zeros,
)
from tests.doors.harness import array, laws, numbers


def realised(prompts: Any, baseline: Any, features: Any) -> RealisedSequences:
    """An environment of sequences, of its arrays alone."""
    nothing: Any = None
    return RealisedSequences(TREE, prompts, 0.0, None, 0.0, 0.0, nothing, (features,), nothing, nothing, baseline)


def realised_rollouts(baseline: Any, first: Any, second: Any) -> RealisedRollouts:
    """An environment of two prompts, of its arrays alone."""
    nothing: Any = None
    setup = setup_of(first, second)
    built = RealisedRollouts(setup, VOCAB, 0.0, None, nothing, nothing, nothing, nothing, lambda: baseline, None)
    assert built.baseline is not None
    return built


def setup_of(*prompts: Any) -> Setup:
    """The setup of rollouts after these prompts."""
    return Setup(
        prompts, LENGTH, frozenset({END}), SamplingLaw(), SamplingLaw(temperature=0.5), LogProbs.PROCESSED, 2, 3
    )


def drawn(tokens: Any, mask: Any, prompt: Any) -> Any:
    """The laws at the prefixes of some sequences."""
    return DrawnPrefixes.of(tokens, mask).laws(scorer(), prompt)


SEQUENCES_DOORS = (
    numpy_alone("prefix_tree.PrefixTree.reach", TREE.reach, {"log_probs": TABLE}),
    numpy_alone("prefix_tree.PrefixTree.check_table", lambda table: TREE.check_table(table, "table"), {"table": TABLE}),
    numpy_alone(
        "prefix_tree.PrefixTree.draw",
        TREE.draw,
        {"log_probs": TABLE, "uniforms": array(f"*n {LENGTH}", numbers(0, 1))},
    ),
    numpy_alone(
        "prefix_tree.require_an_end",
        lambda log_probs: require_an_end(TREE, log_probs, "the policy"),
        {"log_probs": array(f"*states {VOCAB}", laws)},
    ),
    numpy_alone("prefix_tree.objective", objective, REWARDED, fixed=fixed(sequences=TREE.sequences), says=("token",)),
    numpy_alone(
        "prefix_tree.policy_gradient", policy_gradient, REWARDED, fixed=fixed(sequences=TREE.sequences), says=("token",)
    ),
    numpy_alone(
        "prefix_tree.prefix_shift",
        lambda policy_log_probs, actor_log_probs: prefix_shift(TREE, policy_log_probs, actor_log_probs),
        {"policy_log_probs": TABLE, "actor_log_probs": TABLE},
    ),
    *(
        numpy_alone(
            f"sequences.reward.{type(reward).__name__}.of",
            lambda tokens, mask, reward=reward: reward.of(tokens, mask, VOCAB, generator()),
            WRITTEN,
        )
        for reward in (SumReward(), RandomReward(), TokenShareReward(), DistinctShareReward())
    ),
    numpy_alone("sequences.drawn_prefixes.DrawnPrefixes.of", DrawnPrefixes.of, WRITTEN),
    numpy_alone(
        "sequences.drawn_prefixes.DrawnPrefixes",
        lambda example, depth: DrawnPrefixes(TREE.sequences, example, depth),
        {"example": array("rows", zeros), "depth": array("rows", zeros)},
    ),
    numpy_alone("sequences.drawn_prefixes.DrawnPrefixes.laws", drawn, {**WRITTEN, **PROMPT}),
    numpy_alone("sequences.mean_kl.ExactKL", lambda prompts: ExactKL(TREE, prompts).laws(scorer()), TREE_PROMPTS),
    numpy_alone(
        "sequences.mean_kl.SampledKL",
        lambda prompts, uniforms: SampledKL(prompts, uniforms, END).laws(scorer()),
        {
            "prompts": array("prompts *prompt_length", tokens),
            "uniforms": array("prompts *n *length", numbers(0, 1)),
        },
    ),
    numpy_alone(
        "sequences.built.RealisedSequences",
        realised,
        {
            "prompts": array("prompts *prompt_length", tokens),
            "baseline": array("prompts"),
            "features": array(f"{PREFIXES} {VOCAB} *parameters"),
        },
    ),
    numpy_alone(
        "sources.actor_source.TinyTask", lambda prompts: TinyTask(prompts, TREE, lambda *_: prompts), TREE_PROMPTS
    ),
    *(
        door
        for of in (scorer, mixture)
        for name in ("language_models.scoring.CausalLM" if of is scorer else "sources.tiny_models.GeometricMixture",)
        for door in (
            numpy_alone(f"{name}.log_probs", lambda prompts, of=of: of().log_probs(prompts, TREE), TREE_PROMPTS),
            numpy_alone(
                f"{name}.log_probs_along",
                lambda prompt, tokens, of=of: of().log_probs_along(prompt, tokens),
                {**PROMPT, "tokens": array("*n *length", tokens)},
            ),
            numpy_alone(
                f"{name}.draw",
                lambda prompt, uniforms, of=of: of().draw(prompt, uniforms, END),
                {**PROMPT, "uniforms": array("*n *length", numbers(0, 1))},
            ),
        )
    ),
)
