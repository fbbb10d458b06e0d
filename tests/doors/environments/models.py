"""The doors of language models and of their rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.engines.engine import ModelEngine
from jackpot_sim.environments.language_models import (
    block_gradients,
    completions,
    derivatives,
    formats,
    generation,
    library,
    streaming,
    teaching,
    walking,
)
from jackpot_sim.environments.language_models import (
    prompts as prompts_,
)
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.example import loss_on
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.rollouts.built import LawPair
from jackpot_sim.environments.rollouts.hf import mean_of_each
from jackpot_sim.environments.sources.actor_source import moved
from tests.doors.environments.given import (
    COMPLETIONS,
    END,
    PREFIXES,
    PROMPTS,
    ROWS,
    STREAMED,
    TREE,
    TREE_PROMPTS,
    VOCAB,
    as_dtype,
    fixed,
    generator,
    model,
    numpy_alone,
    scorer,
    tokens,
    zeros,
)
from tests.doors.environments.sequences import realised_rollouts, setup_of
from tests.doors.harness import Door, Sizes, array, floats, laws, negative, numbers


def direction(of_norm: Any) -> Any:
    """A model moved along one vector of its parameters."""
    name = "model.norm.weight"
    return moved(model(), {name: of_norm}, 0.5).get_parameter(name)


def gathered_keys(rows: Any) -> Any:
    """The keys of some rows of a cache of five."""
    cache = scorer().empty_cache()
    with torch.no_grad():
        library.logits(model(), torch.zeros((5, 2), dtype=torch.int64), cache=cache)
    return [holder[name] for holder, name in library.cached_tensors(library.gathered(cache, rows))]


def written(topk_ids: Any, topk_log_probs: Any, **arrays: Any) -> Written:
    """The answer of a server, of arrays."""
    return Written(**arrays, topk=TopK(topk_ids, topk_log_probs))


def whole_gradients(coefficients: Any, **arrays: Any) -> Any:
    """Gradients in the final norm's gain, of all sequences at once."""
    return [
        part
        for _, part in block_gradients.gradients(
            model(),
            PROMPTS,
            coefficients=coefficients,
            patterns=("model.norm.weight",),
            batches=[slice(0, 9)],
            **arrays,
        )
    ]


def with_completions(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    """Completions that fit."""
    shape = sizes["n"], sizes["length"]
    given = Completions(
        PROMPTS, np.zeros(shape[0], dtype=np.int64), tokens(generator, shape, sizes), np.ones(shape) > 0
    )
    return {"given": given}


def log_probs_of(result: Any) -> Any:
    """The values of a stream, one after the other."""
    return [getattr(each, "log_probs", getattr(each, "states", None)) for each in result]


MODELS = (
    numpy_alone(
        "language_models.block_gradients.token_log_probs",
        lambda **arrays: block_gradients.token_log_probs(model(), PROMPTS, **arrays),
        COMPLETIONS,
    ),
    numpy_alone(
        "language_models.block_gradients.gradients",
        whole_gradients,
        {**COMPLETIONS, "coefficients": array("*kinds n length")},
    ),
    numpy_alone(
        "language_models.block_gradients.OtherTokens",
        lambda ids, factor, coefficients: block_gradients.OtherTokens(ids, [None, (factor, coefficients)]),
        {"ids": array("n length j", tokens), "factor": array("n"), "coefficients": array("n length j")},
    ),
    numpy_alone(
        "language_models.completions.Completions", lambda **arrays: Completions(PROMPTS, **arrays), COMPLETIONS
    ),
    numpy_alone(
        "language_models.completions.Completions.checked",
        lambda prompt_ids, **arrays: Completions.checked(model(), [prompt_ids], **arrays),
        {"prompt_ids": array("*prompt_length", tokens), **COMPLETIONS},
        says=("prompt",),
    ),
    numpy_alone(
        "language_models.completions.Completions.take",
        lambda rows, given: given.take(rows),
        {"rows": ROWS},
        fixed=with_completions,
        letters=("n", "length"),
    ),
    numpy_alone(
        "language_models.completions.checked_prompts",
        lambda prompt, ids: completions.checked_prompts(model(), [ids], prompt, (3, 2)),
        {"prompt": array("3", zeros), "ids": array("*prompt_length", tokens)},
        says=("prompt",),
    ),
    numpy_alone(
        "language_models.completions.logits_along",
        lambda prompts, tokens: completions.logits_along(model(), prompts, tokens).detach(),
        {
            "prompts": array("n *prompt_length", tokens),
            "tokens": array("n *length", tokens),
        },
    ),
    numpy_alone(
        "language_models.completions.right_padded",
        lambda row: completions.right_padded([row, np.zeros(2, dtype=np.int64)]),
        {"row": array("*length", tokens)},
    ),
    numpy_alone(
        "language_models.prompts.left_padded",
        lambda prompt: prompts_.left_padded([prompt, np.zeros(2, dtype=np.int64)]),
        {"prompt": array("*length", tokens)},
    ),
    numpy_alone(
        "language_models.derivatives.parameter_gradient",
        lambda prompts, table: derivatives.parameter_gradient(model(), prompts, TREE, table),
        {
            "prompts": array("prompts *prompt_length", tokens),
            "table": array(f"prompts {PREFIXES} {VOCAB}"),
        },
    ),
    numpy_alone(
        "language_models.derivatives.log_prob_features",
        lambda prompts: derivatives.log_prob_features(model(), prompts, PrefixTree(VOCAB, 1)),
        TREE_PROMPTS,
    ),
    numpy_alone(
        "language_models.example.loss_on",
        lambda ids: loss_on(model(), ids, 3),
        {"ids": array("*9", tokens)},
    ),
    Door(
        formats.rounded,
        {"values": array("rows n", any_shape=True)},
        fixed=fixed(to=formats.Format.INT4),
        numpy=False,
    ),
    numpy_alone(
        "language_models.generation.Written",
        written,
        {
            **COMPLETIONS,
            "log_probs": array("n length", negative),
            "own_log_probs": array("n length", negative),
            "topk_ids": array("n length k", as_dtype(tokens, np.int32)),
            "topk_log_probs": array("n length k", as_dtype(negative, np.float32)),
        },
        says=("topk", "ids"),
    ),
    numpy_alone(
        "language_models.generation.generate",
        lambda prompt, uniforms: generation.generate(
            scorer(),
            PROMPTS,
            prompt,
            uniforms,
            sampling=SamplingLaw(top_p=0.9),
            end_tokens=(END,),
            batch_size=2,
            topk=2,
        ),
        {"prompt": array("n", zeros), "uniforms": array("n *length", numbers(0, 1))},
    ),
    Door(
        lambda ids, positions: library.logits(model(), ids, positions=positions).detach(),
        {"ids": array("rows new", tokens), "positions": array("rows new", zeros)},
        name="environments.language_models.library.logits",
        numpy=False,
    ),
    Door(
        lambda ids: library.hidden_states(model(), ids).detach(),
        {"ids": array("*rows *new", tokens)},
        name="environments.language_models.library.hidden_states",
        numpy=False,
    ),
    Door(
        lambda states: library.logits_of_states(model(), states).detach(),
        {"states": array("*rows 8")},
        name="environments.language_models.library.logits_of_states",
        numpy=False,
    ),
    Door(
        gathered_keys,
        {"rows": array("*m", zeros)},
        name="environments.language_models.library.gathered",
        numpy=False,
    ),
    Door(
        SamplingLaw(temperature=0.7, top_k=2, top_p=0.9).log_probs,
        {"logits": array("states vocab", any_shape=True)},
        name="environments.language_models.sampling_law.SamplingLaw.log_probs",
    ),
    numpy_alone(
        "language_models.streaming.StreamedLaws",
        streaming.StreamedLaws,
        {**STREAMED, "log_probs": array("rows *width", laws)},
        letters=("n", "length"),
    ),
    numpy_alone(
        "language_models.streaming.StreamedStates",
        streaming.StreamedStates,
        {**STREAMED, "states": array("rows *width")},
        letters=("n", "length"),
    ),
    numpy_alone(
        "language_models.streaming.laws",
        lambda **arrays: log_probs_of(
            streaming.laws(scorer(), PROMPTS, **arrays, sampling=SamplingLaw(), batch_size=2, rows=3)
        ),
        COMPLETIONS,
    ),
    numpy_alone(
        "language_models.streaming.last_hidden",
        lambda **arrays: log_probs_of(streaming.last_hidden(scorer(), PROMPTS, **arrays, batch_size=2, rows=3)),
        COMPLETIONS,
    ),
    numpy_alone(
        "language_models.teaching.PolicyGradientAscent",
        lambda prompts: [
            each.detach()
            for each in teaching.PolicyGradientAscent(
                model(), prompts, TREE, lambda tokens, mask: mask.sum(-1) / 1.0, 0.1, generator()
            )
            .after(1)
            .parameters()
        ],
        TREE_PROMPTS,
    ),
    numpy_alone(
        "language_models.teaching.Distillation",
        lambda prompts: [
            each.detach()
            for each in teaching.Distillation(model(), model(), prompts, TREE, 0.1, generator()).after(1).parameters()
        ],
        TREE_PROMPTS,
    ),
    numpy_alone(
        "language_models.walking.check_tree", lambda prompts: walking.check_tree(model(), prompts, TREE), TREE_PROMPTS
    ),
    numpy_alone(
        "language_models.walking.check_tokens",
        lambda tokens: walking.check_tokens(model(), tokens, "tokens", 2),
        {"tokens": array("*n *length", tokens)},
    ),
    numpy_alone(
        "rollouts.built.LawPair",
        LawPair,
        {
            **STREAMED,
            "policy_log_probs": array("rows vocab", laws),
            "actor_log_probs": array("rows vocab", laws),
            "believed_log_probs": array("rows vocab", laws),
        },
        letters=("n", "length"),
    ),
    numpy_alone(
        "rollouts.built.Setup",
        lambda first, second: setup_of(first, second),
        {"first": array("*one", tokens), "second": array("*other", tokens)},
        says=("prompts",),
    ),
    numpy_alone(
        "rollouts.built.Setup.write",
        lambda prompt, uniforms: setup_of(*PROMPTS).write(ModelEngine(scorer()), "actor", prompt, uniforms),
        {"prompt": array("n", zeros), "uniforms": array("n *length", numbers(0, 1))},
    ),
    numpy_alone(
        "rollouts.built.RealisedRollouts",
        realised_rollouts,
        {
            "baseline": array("2"),
            "first": array("*one", tokens),
            "second": array("*other", tokens),
        },
        says=("prompts",),
    ),
    numpy_alone("rollouts.hf.mean_of_each", mean_of_each, {"rewards": array("*prompts *n")}),
    Door(
        direction,
        {"of_norm": array("8", as_dtype(floats, np.float32))},
        name="environments.sources.actor_source.moved",
        numpy=False,
        says=("directions",),
    ),
)
