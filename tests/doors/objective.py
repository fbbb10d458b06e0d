"""The doors of jackpot_sim.training: the objective, the loop, and tasks. Most take tensors alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from jackpot_sim import estimators
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.estimators import Level, TokenWeights, UpdateTarget
from jackpot_sim.training import objective
from jackpot_sim.training.loop import closed_loop, measures, packing
from jackpot_sim.training.loop.passes import PaddedSequences, model_pass
from jackpot_sim.training.loop.reference import reference
from jackpot_sim.training.objective import (
    Aggregation,
    Direction,
    Divisor,
    ModelPass,
    Proposed,
    Standardisation,
    TokenPass,
)
from jackpot_sim.training.objective.batch import of_tokens
from jackpot_sim.training.tasks.addition import Addition
from tests.doors.harness import Door, Given, Make, Sizes, Values, array, floats, ids, laws, masks, negative, numbers

EXEMPT: Mapping[str, str] = {
    "training.loop.packing.Trees": "made by packed_logits, of what it has checked",
    "training.loop.packing.Trees.of": "called by packed_logits, with what it has checked",
    "training.loop.packing.Packed": "made by packed_logits, of what it has checked",
    "training.loop.packing.Packed.of": "called by packed_logits, with what it has checked",
    "training.loop.packing.Packed.at": "called by packed_logits, with numbers that Trees made",
    "training.objective.centring.mean_loss": "a part of policy_loss, whose door is centred",
    "training.objective.batch.Scored.check": "a protocol: ModelPass and TokenPass have doors",
}
"""The public functions without a door, and why."""

UPDATE = SimpleNamespace(aggregation=Aggregation.TOKEN_MEAN, clip=0.2, clip_high=None, bypass=False)


def given_tokens(dtype: Any = np.float64) -> Callable[[Make], Make]:
    """Another dtype for the numbers of a maker."""

    def of(make: Make) -> Make:
        return lambda generator, shape, sizes: make(generator, shape, sizes).astype(dtype)

    return of


single = given_tokens(np.float32)


def partial_laws(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """log p of a part of the tokens of a law."""
    return laws(generator, shape, sizes) - 0.1


def sorted_laws(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """log q of an actor's likeliest tokens."""
    return -np.sort(-partial_laws(generator, shape, sizes), axis=-1)


TOKENS = "n length"
MASK = {"mask": array(TOKENS, masks)}
PROPOSED = {
    "actor_log_probs": array(TOKENS, negative),
    "reference_log_probs": array(TOKENS, negative),
    **MASK,
    "advantage": array("n", floats, TOKENS),
    "uniforms": array(TOKENS, numbers(0, 1)),
    "reference_on_topk": array("n length k", partial_laws),
    "topk_ids": array("n length k", lambda generator, shape, sizes: ids("vocab")(generator, shape, sizes).astype("i4")),
    "topk_log_probs": array("n length k", single(sorted_laws)),
}
PASS = {
    # So unlikely that a token may stand several times among those stored.
    "logits": array("n length vocab", lambda generator, shape, sizes: laws(generator, shape, sizes) - np.log(6)),
    "log_normaliser": array(TOKENS, numbers(0, 0.1)),
    "log_probs": array(TOKENS, negative),
}
FACTOR = {"factor": array(TOKENS, numbers(0.1, 2))}
ROWS = {"rows": array("*m", ids("n"))}
SHARES = {"shares": array(TOKENS, numbers(0.01, 0.1))}


def proposed(topk_ids: Any, topk_log_probs: Any, **fields: Any) -> Proposed:
    """The rollouts with their arrays as arguments."""
    return Proposed(**fields, topk=TopK(topk_ids, topk_log_probs))


def of_both(function: Callable[[Proposed, ModelPass], Any]) -> Callable[..., Any]:
    """A function of rollouts and a pass, with the arrays of both as arguments."""

    def call(logits: Any, log_normaliser: Any, log_probs: Any, **fields: Any) -> Any:
        return function(proposed(**fields), ModelPass(logits, log_normaliser, log_probs))

    return call


def tokens_fixed(generator: np.random.Generator, sizes: Sizes) -> Proposed:
    """Rollouts that fit."""
    arrays = {name: each.make(generator, tuple(sizes[a] for a in each.shape), sizes) for name, each in PROPOSED.items()}
    return proposed(**{name: torch.as_tensor(each) for name, each in arrays.items()})


def with_proposed(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    """Rollouts as an argument."""
    return {"proposed": tokens_fixed(generator, sizes)}


def with_whole(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    """Rollouts with whole laws."""
    return {"proposed": tokens_fixed(generator, sizes), "vocab": sizes["k"]}


def with_topk(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    """The stored tokens of rollouts."""
    return {"topk": tokens_fixed(generator, sizes).topk}


def with_padded(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    """Padded sequences."""
    return {"padded": padded(generator, sizes)}


def padded(generator: np.random.Generator, sizes: Sizes) -> PaddedSequences:
    """n sequences after one prompt of two tokens."""
    n, length = sizes["n"], sizes["length"]
    written = torch.as_tensor(generator.integers(0, 5, size=(n, length + 2)))
    places = torch.arange(1, length + 1).expand(n, -1)
    return PaddedSequences(written, places, torch.as_tensor(masks(generator, (n, length), sizes)))


@cache
def model() -> Any:
    """A tiny model of five tokens."""
    return build(TinyQwen3(hidden=8, layers=1, heads=2, context=32), 5, np.random.default_rng(0))


def policy_loss(given: Proposed, new: ModelPass, shares: Any) -> Any:
    """To the target p_new, of a centred correction that needs the overlap."""
    jackpot = estimators.centred(estimators.get("jackpot"))
    return objective.policy_loss(jackpot, UpdateTarget.POLICY, given, new, UPDATE, shares)


def policy_loss_of(shares: Any, **arrays: Any) -> Any:
    """The same from arrays."""
    return of_both(lambda given, new: policy_loss(given, new, shares))(**arrays)


def actor_loss_of(shares: Any, own_logits: Any, own_log_normaliser: Any, own_log_probs: Any, **arrays: Any) -> Any:
    """The actor's loss from arrays."""
    own = ModelPass(own_logits, own_log_normaliser, own_log_probs)
    settings: Any = {"ppo": True, "direction": Direction.FORWARD, "weight": 0.5}
    return of_both(lambda given, new: objective.actor_loss(given, new, own, UPDATE, shares, **settings))(**arrays)


def means_tokens(factor: Any, accept: Any, clipped: Any, kl: Any, mask: Any, advantage: Any) -> Any:
    """Figures of the tokens of some sequences."""
    means = measures.Means()
    weights = TokenWeights(accept, factor)
    means.tokens(objective.PolicyLoss(torch.tensor(0.0), weights, clipped, factor, clipped), kl, mask, advantage)
    return means.means()


def kl_of(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """As many numbers as all tokens."""
    return generator.random(shape)


def whole_mask(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """A mask that leaves no token out."""
    return np.ones(shape, dtype=np.bool_)


def named(name: str, call: Callable[..., Any], given: Mapping[str, Given], **options: Any) -> Door:
    """A door of a function that takes tensors alone."""
    return Door(call, given, name=f"training.{name}", numpy=False, says=("ids", "log_probs", "topk"), **options)


def places(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Places after a prompt of one token, in a row of `length` + 1."""
    return np.broadcast_to(np.arange(shape[-1]), shape).copy()


def padded_of(prompt_ids: Any, prompt: Any, tokens: Any, mask: Any) -> Any:
    """Sequences after two prompts."""
    return PaddedSequences.of([prompt_ids, np.zeros(1, dtype=np.int64)], prompt, tokens, mask, "cpu")


def reference_of(padded: PaddedSequences, written: Any) -> Any:
    """log p_ref, from a pass over the first sequence, and for the others as they were written if that agrees."""
    read: Any = lambda sequences: model_pass(model(), sequences)  # noqa: E731
    how = {"dtype": torch.float64, "at_once": True, "batch_size": 2, "told": True}
    return reference(read, padded, written, None, torch.arange(1), **how).log_probs


OF_BATCH = "training.objective.batch."
DOORS = (
    named(
        "objective.advantages.advantages",
        lambda rewards: objective.advantages(rewards, 2, Standardisation.GROUP),
        {"rewards": array("*pairs", lambda generator, shape, sizes: generator.normal(size=2 * shape[0]))},
    ),
    named("objective.batch.Proposed", proposed, PROPOSED, letters=("vocab",)),
    named(
        "objective.batch.Proposed.take",
        lambda proposed, rows: proposed.take(rows),
        ROWS,
        fixed=with_proposed,
        letters=("n", "length", "k", "vocab"),
    ),
    named(
        "objective.batch.take_topk", objective.take_topk, ROWS, fixed=with_topk, letters=("n", "length", "k", "vocab")
    ),
    named(
        "objective.batch.check_on_topk",
        lambda log_probs, topk: objective.check_on_topk(log_probs, topk, "log_probs"),
        {"log_probs": array("n length k")},
        fixed=with_topk,
        letters=("vocab",),
    ),
    named(
        "objective.batch.of_tokens",
        lambda advantage, tokens: of_tokens(advantage, tokens, "tokens"),
        {"advantage": array("n", floats, TOKENS), "tokens": array(TOKENS, any_dtype=True)},
    ),
    named(
        "objective.batch.TokenPass.check",
        lambda mask, log_probs: TokenPass(log_probs).check(mask),
        {"log_probs": array(TOKENS, negative), **MASK},
    ),
    named(
        "objective.batch.ModelPass.check",
        lambda mask, **fields: ModelPass(**fields).check(mask),
        {**PASS, "logits": array("n length *vocab"), **MASK},
    ),
    named(
        "objective.batch.ModelPass.on",
        lambda logits, log_normaliser, topk: ModelPass(logits, log_normaliser, log_normaliser).on(topk),
        {name: PASS[name] for name in ("logits", "log_normaliser")},
        fixed=with_topk,
        letters=("k",),
    ),
    named(
        "objective.batch.ModelPass.law",
        lambda logits, log_normaliser: ModelPass(logits, log_normaliser, log_normaliser).law(),
        {"logits": array("n length *vocab"), "log_normaliser": array(TOKENS)},
    ),
    named("objective.loss.policy_loss", policy_loss_of, PROPOSED | PASS | SHARES),
    named(
        "objective.loss.actor_loss",
        actor_loss_of,
        PROPOSED | PASS | SHARES | {f"own_{name}": each for name, each in PASS.items()},
    ),
    named(
        "objective.loss.ppo_loss",
        lambda **arrays: objective.ppo_loss(**arrays, update=UPDATE),
        {
            **FACTOR,
            "new_log_probs": array(TOKENS, negative),
            "old_log_probs": array(TOKENS, negative),
            "advantage": array("n", floats, TOKENS),
            **MASK,
        },
    ),
    named(
        "objective.loss.surrogate",
        lambda new_log_probs, old_log_probs, advantage: objective.surrogate(
            new_log_probs, old_log_probs, advantage, 0.2
        ),
        {
            "new_log_probs": array(TOKENS, negative),
            "old_log_probs": array(TOKENS, negative),
            "advantage": array("n", floats, TOKENS),
        },
    ),
    named(
        "objective.loss.distillation",
        lambda policy_law, actor_law: objective.distillation(policy_law, actor_law, Direction.REVERSE),
        {"policy_law": array("n length vocab", laws), "actor_law": array("n length vocab", laws)},
    ),
    named(
        "objective.loss.token_shares",
        lambda mask: objective.token_shares(mask, Aggregation.SEQUENCE_MEAN),
        {"mask": array("*n *length", masks)},
    ),
    *(
        named(
            "objective.loss.divisor",
            lambda accepted, factor, mask, kind=kind, unit=unit: objective.divisor(kind, accepted, factor, mask, unit),
            {"accepted": array(TOKENS, masks), **FACTOR, **MASK},
        )
        for kind, unit in (
            (Divisor.ACCEPTED, Level.TOKEN),
            (Divisor.BATCH_NORMALIZED, Level.TOKEN),
            (Divisor.BATCH_NORMALIZED, Level.SEQUENCE),
        )
    ),
    named(
        "objective.weights.weigh",
        of_both(lambda given, new: objective.weigh(estimators.get("jackpot", c2=2.0), UpdateTarget.POLICY, given, new)),
        PROPOSED | PASS,
    ),
    named(
        "objective.weights.tokens_of",
        of_both(
            lambda given, new: objective.tokens_of(estimators.get("sequence-tis"), UpdateTarget.REFERENCE, given, new)
        ),
        PROPOSED | PASS,
    ),
    named(
        "objective.weights.estimated_overlap",
        lambda topk_ids, topk_log_probs, policy_on_topk, log_ratio, mask: objective.estimated_overlap(
            policy_on_topk, TopK(topk_ids, topk_log_probs), log_ratio, mask, 1.2
        ),
        {
            "topk_ids": PROPOSED["topk_ids"],
            "topk_log_probs": PROPOSED["topk_log_probs"],
            "policy_on_topk": array("n length k", partial_laws),
            "log_ratio": array(TOKENS),
            **MASK,
        },
        letters=("vocab",),
    ),
    named(
        "objective.weights.draw",
        lambda accept, weight, uniforms: objective.draw(TokenWeights(accept, weight), uniforms),
        {
            "accept": array(TOKENS, numbers(0, 1)),
            "weight": array(TOKENS, numbers(0, 2)),
            "uniforms": array(TOKENS, numbers(0, 1)),
        },
    ),
    named(
        "loop.closed_loop.lam_at",
        lambda log_ratio, mask: closed_loop.lam_at(0.3, log_ratio, mask),
        {"log_ratio": array(TOKENS), **MASK},
    ),
    named(
        "loop.measures.mismatch",
        lambda **fields: measures.mismatch(proposed(**fields), fields["topk_ids"].shape[-1]),
        PROPOSED,
        letters=("vocab",),
    ),
    named(
        "loop.measures.kl_to_actor",
        measures.kl_to_actor,
        {"log_probs": array(TOKENS, negative), "on_topk": array("n length k", partial_laws)},
        fixed=with_whole,
        letters=("vocab",),
    ),
    named(
        "loop.measures.whole_laws",
        measures.whole_laws,
        {"on_topk": array("n length k", partial_laws)},
        fixed=with_whole,
        letters=("vocab",),
    ),
    named(
        "loop.measures.Means.tokens",
        means_tokens,
        {
            **FACTOR,
            "accept": array(TOKENS, numbers(0, 1)),
            "clipped": array(TOKENS, masks),
            "kl": array("all", lambda generator, shape, sizes: generator.random(sizes["n"] * sizes["length"])),
            "mask": array(TOKENS, whole_mask),
            "advantage": array(TOKENS, floats, "n"),
        },
    ),
    named(
        "loop.packing.packed_logits",
        lambda ids, places, mask: packing.packed_logits(model(), ids, places, mask, 1),
        {
            # Of five tokens.
            "ids": array("n *7", lambda generator, shape, sizes: generator.integers(0, 5, size=shape)),
            "places": array(TOKENS, places),
            **MASK,
        },
    ),
    named(
        "loop.passes.PaddedSequences",
        PaddedSequences,
        {
            "ids": array("n *longest", ids("vocab")),
            "places": array(TOKENS, ids("longest")),
            **MASK,
        },
        letters=("vocab",),
    ),
    Door(
        padded_of,
        {
            "prompt_ids": array("*longest", ids("vocab")),
            "prompt": array("n", lambda generator, shape, sizes: generator.integers(0, 2, size=shape)),
            "tokens": array(TOKENS, ids("vocab")),
            **MASK,
        },
        name="training.loop.passes.PaddedSequences.of",
        torch=False,
        letters=("vocab",),
    ),
    named(
        "loop.passes.PaddedSequences.take",
        lambda padded, rows: padded.take(rows),
        ROWS,
        fixed=with_padded,
        letters=("n", "length"),
    ),
    named(
        "loop.passes.model_pass",
        lambda ids, places, mask: model_pass(model(), PaddedSequences(ids, places, mask)),
        {
            # Of five tokens.
            "ids": array("n *7", lambda generator, shape, sizes: generator.integers(0, 5, size=shape)),
            "places": array(TOKENS, places),
            **MASK,
        },
    ),
    named(
        "loop.reference.reference",
        reference_of,
        {"written": array(TOKENS, negative)},
        fixed=with_padded,
        letters=("n", "length"),
    ),
    Door(
        lambda rows: Addition()._grid.is_held_out(rows),
        {"rows": array("*n 2", lambda generator, shape, sizes: generator.integers(0, 9, size=shape))},
        name="training.tasks.splitting.Grid.is_held_out",
        torch=False,
    ),
)
