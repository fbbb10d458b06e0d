"""The doors of jackpot_sim.environments. Those of language models read a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from jackpot_sim.core.topk import TopK
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
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.example import loss_on
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.prefix_tree import PrefixTree, objective, policy_gradient, prefix_shift, require_an_end
from jackpot_sim.environments.recorded import LogProbs, believed
from jackpot_sim.environments.rollouts.built import LawPair, RealisedRollouts, Setup
from jackpot_sim.environments.rollouts.hf import mean_of_each
from jackpot_sim.environments.sequences.built import RealisedSequences
from jackpot_sim.environments.sequences.drawn_prefixes import DrawnPrefixes
from jackpot_sim.environments.sequences.mean_kl import ExactKL, SampledKL
from jackpot_sim.environments.sequences.reward import DistinctShareReward, RandomReward, SumReward, TokenShareReward
from jackpot_sim.environments.sources.actor_source import TinyTask, moved
from jackpot_sim.environments.sources.tiny_models import GeometricMixture
from jackpot_sim.environments.states.advantage import BinaryReward, NormalAdvantage
from jackpot_sim.environments.states.compressed import LowerOrder, LowRank, QuantizedLogits
from jackpot_sim.environments.states.mismatch import Mismatch
from jackpot_sim.environments.states.ngram import Ngram, pack
from jackpot_sim.environments.states.perturbed import DirichletMixture, LogitNoise, Temperature
from jackpot_sim.environments.states.stale import Ascent, StaleLogits
from jackpot_sim.environments.states.truncated import Ranked, TopKTruncation, TopPTruncation
from tests.doors.harness import Door, Given, Make, Sizes, Values, array, floats, ids, laws, masks, negative, numbers

EXEMPT: Mapping[str, str] = {
    "environments.language_models.block_gradients.OtherTokens.beside": "called by gradients, which has checked it",
    "environments.language_models.completions.Completions.logits": "its arrays are a model's parameters, by name",
    "environments.language_models.example.trained_model": "trains for minutes; its check is that of loss_on",
    "environments.language_models.scoring.Scorer.log_probs": "a protocol",
    "environments.language_models.scoring.Scorer.log_probs_along": "a protocol",
    "environments.language_models.scoring.Scorer.draw": "a protocol",
    "environments.language_models.walking.on_device": "takes any array",
    "environments.language_models.walking.new_tokens": "prompts that check_tree has checked",
    "environments.prefix_tree.PrefixShift": "a result",
    "environments.states.actor_file.ActorFile.actor_law": "compared with a file",
    "environments.states.actor_file.ActorFile.solve": "looks at no array",
    "environments.states.advantage.FileAdvantage.draw": "compared with a file",
    "environments.states.mismatch.Mismatch.laws": "abstract",
    "environments.states.mismatch.Mismatch.solve": "abstract",
    "environments.states.mismatch.TransformedLaw.laws": "as actor_law",
    "environments.states.mismatch.TransformedLaw.actor_law": "abstract",
    "environments.states.compressed.QuantizedLogits.solve": "looks at no array",
    "environments.states.compressed.LowerOrder.solve": "looks at no array",
    "environments.states.perturbed.DirichletMixture.solve": "looks at no array",
    "environments.states.perturbed.LogitNoise.solve": "looks at no array",
    "environments.states.perturbed.Temperature.solve": "looks at no array",
    "environments.states.stale.StaleLogits.solve": "looks at no array",
}
"""The public functions without a door, and why."""

VOCAB, LENGTH, END = 4, 2, 0
TREE = PrefixTree(VOCAB, LENGTH, END)
PREFIXES, SEQUENCES = TREE.prefixes, TREE.sequences_count


@cache
def model() -> Any:
    """A tiny model of four tokens."""
    return build(TinyQwen3(hidden=8, layers=1, heads=2, context=24), VOCAB, np.random.default_rng(0))


@cache
def scorer() -> CausalLM:
    """The tiny model as a policy."""
    return CausalLM(model())


@cache
def mixture() -> GeometricMixture:
    """A policy between the tiny model and another one."""
    other = build(TinyQwen3(hidden=8, layers=1, heads=2, context=24), VOCAB, np.random.default_rng(1))
    return GeometricMixture(scorer(), CausalLM(other), 0.5)


def tokens(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Ids of the tiny model."""
    return generator.integers(0, VOCAB, size=shape)


def zeros(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Indices of the only prompt."""
    return np.zeros(shape, dtype=np.int64)


def as_dtype(make: Make, dtype: Any) -> Make:
    """A maker of another dtype."""
    return lambda generator, shape, sizes: make(generator, shape, sizes).astype(dtype)


def fixed(**given: Any) -> Callable[[np.random.Generator, Sizes], Mapping[str, Any]]:
    """The same other arguments for all sizes."""
    return lambda generator, sizes: given


def numpy_alone(name: str, call: Callable[..., Any], given: Mapping[str, Given], **options: Any) -> Door:
    """A door of a function that takes numpy arrays."""
    return Door(call, given, name=f"environments.{name}", torch=False, **options)


TABLE = array(f"{PREFIXES} {VOCAB}", laws)
FREE_TABLE = {"log_probs": array("*states *vocab", laws)}
BASE = {"base": array("*states *vocab", laws)}
REWARDED = {
    "log_probs": array(f"*{PREFIXES} *{VOCAB}", laws),
    "reward": array(f"{SEQUENCES}"),
}
WRITTEN = {"tokens": array("n length", tokens), "mask": array("n length", masks)}
PROMPT = {"prompt": array("*prompt_length", tokens)}
COMPLETIONS = {"prompt": array("n", zeros), **WRITTEN}
PROMPTS = (np.array([1, 2, 3]),)
STREAMED = {"sequence": array("rows", ids("n")), "step": array("rows", ids("length"))}
ROWS = array("*m", ids("n"))
TREE_PROMPTS = {"prompts": array("*prompts *prompt_length", tokens)}


def generator() -> np.random.Generator:
    """The same draws each time."""
    return np.random.default_rng(7)


# --- States -----------------------------------------------------------------------------------------------------------


def law_at(family: Mismatch, knob: float) -> Callable[..., Any]:
    """Both laws of a family at a knob."""
    return lambda base, advantage: family.laws(base, advantage, 3)(knob)


def of_target(family: Any) -> Callable[..., Any]:
    """The knobs that a family tries."""
    return lambda base: family.solve(Candidates(), base)


class Candidates:
    """A target that takes all knobs."""

    nearest = nearest_ordered = staticmethod(list)


PAIR = {**BASE, "advantage": array("*states *vocab")}
SAME_PAIR = {"base": array("states vocab", laws), "advantage": array("states vocab")}
FAMILIES: tuple[tuple[str, Any, float], ...] = (
    ("compressed.QuantizedLogits", QuantizedLogits(bits=2), 2),
    ("compressed.LowRank", LowRank(rank=1), 1),
    ("perturbed.Temperature", Temperature(temperature=2.0), 2.0),
    ("truncated.TopKTruncation", TopKTruncation(k=1), 1),
    ("truncated.TopPTruncation", TopPTruncation(p=0.5), 0.5),
)
SOLVED: tuple[tuple[str, Any], ...] = (
    ("compressed.LowRank", LowRank(rank=1)),
    ("truncated.TopKTruncation", TopKTruncation(k=1)),
    ("truncated.TopPTruncation", TopPTruncation(p=0.5)),
)

STATES = (
    *(
        Door(
            lambda told=told, **laws: believed(told, **laws),
            dict.fromkeys(names, array("states vocab", laws)),
            lambda generator, sizes, names=names: {
                name: np.log(np.full((sizes["states"], sizes["vocab"]), 1 / sizes["vocab"]))
                for name in {"actor_log_probs", "model_log_probs"} - set(names)
            },
            name="environments.recorded.believed",
            torch=False,
            says=("actor_log_probs",),
        )
        for told, names in (
            (LogProbs.RAW, ("policy_log_probs", "model_log_probs")),
            (LogProbs.SUPPORT, ("policy_log_probs", "actor_log_probs")),
        )
    ),
    numpy_alone(
        "policy_pair.PolicyPair",
        PolicyPair,
        {
            "policy_log_probs": array("states vocab", laws),
            "actor_log_probs": array("states vocab", laws),
            "advantage": array("states vocab"),
        },
    ),
    *(
        numpy_alone(
            f"states.{name}.actor_law", lambda base, family=family, knob=knob: family.actor_law(base)(knob), BASE
        )
        for name, family, knob in FAMILIES
    ),
    *(numpy_alone(f"states.{name}.solve", of_target(family), BASE) for name, family in SOLVED),
    numpy_alone("states.perturbed.DirichletMixture.laws", law_at(DirichletMixture(epsilon=0.1), 0.1), PAIR),
    numpy_alone("states.perturbed.LogitNoise.laws", law_at(LogitNoise(sigma=0.1), 0.1), PAIR),
    numpy_alone("states.stale.StaleLogits.laws", law_at(StaleLogits(steps=2), 2), SAME_PAIR),
    numpy_alone(
        "states.compressed.LowerOrder.laws", law_at(LowerOrder(base=Ngram(states=4, order=2), order=1), 1), PAIR
    ),
    numpy_alone(
        "states.stale.Ascent",
        lambda start, reward: Ascent(start, reward, 1.0).log_probs_after(2),
        {"start": array("states vocab", laws), "reward": array("states vocab")},
    ),
    numpy_alone(
        "states.truncated.Ranked",
        lambda log_probs: (Ranked(log_probs).ids, Ranked(log_probs).tail),
        FREE_TABLE,
    ),
    numpy_alone(
        "states.truncated.Ranked.keep",
        lambda count, log_probs: Ranked(log_probs).keep(count),
        {"count": array("states", zeros), "log_probs": array("states *vocab", laws)},
    ),
    *(
        numpy_alone(
            f"states.advantage.{type(kind).__name__}.draw",
            lambda log_probs, kind=kind: kind.draw(log_probs, generator()),
            FREE_TABLE,
        )
        for kind in (NormalAdvantage(), BinaryReward())
    ),
    numpy_alone(
        "states.ngram.pack",
        lambda symbols: pack(symbols, 2),
        {"symbols": array("*bytes", as_dtype(tokens, np.uint8))},
    ),
    numpy_alone(
        "states.ngram.Ngram.log_probs_at",
        lambda contexts: Ngram(states=4, order=2).log_probs_at(contexts, 2),
        {"contexts": array("*contexts", as_dtype(tokens, np.uint64))},
    ),
)

# --- Sequences --------------------------------------------------------------------------------------------------------


def realised(prompts: Any, baseline: Any, features: Any) -> RealisedSequences:
    """An environment of sequences, of its arrays alone."""
    nothing: Any = None
    return RealisedSequences(TREE, prompts, 0.0, None, 0.0, 0.0, nothing, (features,), nothing, nothing, baseline)


def realised_rollouts(baseline: Any, first: Any, second: Any) -> RealisedRollouts:
    """An environment of two prompts, of its arrays alone."""
    nothing: Any = None
    setup = setup_of(first, second)
    return RealisedRollouts(setup, VOCAB, 0.0, None, 0.0, 0.0, nothing, nothing, nothing, baseline, None)


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

# --- Rollouts of models -----------------------------------------------------------------------------------------------


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
    """What a server returns, of arrays."""
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
            "raw_log_probs": array("n length", negative),
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
        lambda prompt, uniforms: setup_of(*PROMPTS).write(scorer(), "actor", prompt, uniforms),
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

DOORS = (*STATES, *SEQUENCES_DOORS, *MODELS)
