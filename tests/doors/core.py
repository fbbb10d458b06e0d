"""The doors of jackpot_sim.core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from jackpot_sim.core import (
    budget,
    checks,
    divergences,
    intervals,
    log_ratios,
    normalizer,
    numerics,
    obrs,
    policy_gradient,
    sampling,
    sequence_divergences,
    sequences,
    support,
    weighted_laws,
)
from jackpot_sim.core.heads import ChunkedLaw, Head
from jackpot_sim.core.log_ratios import Aggregate
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.topk import TopK
from jackpot_sim.core.two_laws import TwoLaws, kl_by_blocks
from tests.doors.harness import Door, Given, Sizes, Values, array, floats, ids, laws, masks, negative, numbers, shares
from tests.doors.sized import sized

PAIR = {"policy_log_probs": array("states vocab", laws), "actor_log_probs": array("states vocab", laws)}
TWO = {"p": array("states vocab", laws), "q": array("states vocab", laws)}
LAM = {"lam": array("states", numbers(0.5, 2.0), "states 1", "1 1", "", any_dtype=True)}
PATHS = {
    "prefix": array("n length", ids("prefixes")),
    "token": array("n length", ids("vocab")),
    "mask": array("n length", masks),
}


def on_topk(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Log-probs of k tokens, which add up to less than 1."""
    return laws(generator, shape, sizes) - 0.1


def distinct(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Ids of `k` distinct tokens of each state, of a vocabulary with k + vocab tokens."""
    rows = [generator.permutation(sizes["k"] + sizes["vocab"])[: shape[-1]] for _ in range(shape[0])]
    return np.array(rows)


def larger_laws(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Laws over the k + vocab tokens of `distinct`, whatever the last axis of `shape`."""
    return laws(generator, (*shape[:-1], sizes["k"] + sizes["vocab"]), sizes)


def paths(generator: np.random.Generator, sizes: Sizes) -> sequences.Sequences:
    """Sequences in a table of (prefixes, vocab)."""
    shape = (sizes["n"], sizes["length"])
    return sequences.Sequences(**{name: given.make(generator, shape, sizes) for name, given in PATHS.items()})


def complete(vocab: int) -> sequences.Sequences:
    """Every sequence of one token."""
    column = np.arange(vocab)[:, None]
    return sequences.Sequences(column * 0, column, column >= 0)


def scored(generator: np.random.Generator, sizes: Sizes) -> ScoredRollouts:
    """Rollouts as `ROLLOUTS` makes them."""
    shapes = dict.fromkeys(("policy_log_probs", "actor_log_probs", "mask"), (sizes["n"], sizes["length"]))
    shapes |= dict.fromkeys(("advantage", "prompt"), (sizes["n"],))
    return ScoredRollouts(**{name: ROLLOUTS[name].make(generator, shape, sizes) for name, shape in shapes.items()})


ROLLOUTS = {
    "policy_log_probs": array("n length", negative),
    "actor_log_probs": array("n length", negative),
    "mask": array("n length", masks),
    "advantage": array("n"),
    "prompt": array("n", ids("n")),
}


def same(*names: str, shape: str = "states vocab") -> Mapping[str, Given]:
    """Arguments of one shape, which may be any."""
    return {name: array(shape, any_shape=len(names) == 1) for name in names}


def fixed(**values: Any) -> Any:
    """Other arguments that do not depend on the sizes."""
    return lambda generator, sizes: values


def sequence_laws(generator: np.random.Generator, sizes: Sizes) -> dict[str, Any]:
    """Laws at every prefix, for all three policies."""
    made = [laws(generator, (sizes["prefixes"], sizes["vocab"]), sizes) for _ in range(3)]
    return {"laws": sequences.SequenceLaws(*made)}


def head_of(generator: np.random.Generator, sizes: Sizes) -> Head:
    """A head whose arrays are tensors, as are all of these doors."""
    return Head(torch.as_tensor(generator.normal(size=(sizes["vocab"], sizes["hidden"]))))


def one_each(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """The offsets of states that keep one token each."""
    return np.arange(shape[0])


def sampling_mask(states: int) -> support.SamplingMask:
    """States that keep one token each, for as many sequences of one token."""
    return support.SamplingMask(np.zeros(states, dtype=np.int32), np.arange(states + 1), np.arange(states)[:, None])


def gather(table: Values, sequence: sequences.Sequences) -> Values:
    """`Sequences.gather`."""
    return sequence.gather(table)


def scatter(values: Values, sequence: sequences.Sequences, shape: tuple[int, int]) -> Values:
    """`Sequences.scatter`."""
    return sequence.scatter(values, shape)


def log_probs(table: Values, sequence: sequences.Sequences) -> Values:
    """`Sequences.log_probs`."""
    return sequence.log_probs(table)


def log_ratio(policy_log_probs: Values, actor_log_probs: Values, sequence: sequences.Sequences) -> Values:
    """`Sequences.log_ratio`."""
    return sequence.log_ratio(policy_log_probs, actor_log_probs)


def on_ids(log_probs: Values, own: TopK) -> Any:
    """`TopK.gather`."""
    return own.gather(log_probs)


def topk_of(log_probs: Values, k: int) -> TopK:
    """`TopK.of`."""
    return TopK.of(log_probs, k)


def head_logits(hidden: Any, head: Head) -> Any:
    """`Head.logits`."""
    return head.logits(hidden)


def chunked_law(hidden: Any, head: Head) -> Any:
    """`ChunkedLaw.of`."""
    return ChunkedLaw.of(head, hidden).log_probs(slice(None))


def along(generator: np.random.Generator, sizes: Sizes) -> dict[str, Any]:
    """Sequences for the methods of `Sequences`."""
    return {"sequence": paths(generator, sizes)}


def two_laws(policy_log_probs: Any, actor_log_probs: Any) -> object:
    both = TwoLaws(policy_log_probs, actor_log_probs)
    return both.ratio, both.kl, both.divergences()


def less_policy(policy_log_probs: Any, actor_log_probs: Any, weight: Any) -> object:
    return TwoLaws(policy_log_probs, actor_log_probs).less_policy(weight)


def kl_to(policy_log_probs: Any, actor_log_probs: Any, weight: Any) -> object:
    return TwoLaws(policy_log_probs, actor_log_probs).kl_to(weight)


def binary_kl_exceeds(p: Any, q: Any) -> object:
    return divergences.binary_kl_exceeds(p, q, 0.1)


WEIGHT = {"weight": array("states vocab", numbers(0.5, 2.0))}
TABLE = array("prefixes vocab", floats, "*prefixes *vocab")
AGGREGATED = {"mask": array("n length", masks)}

DOORS = (
    # ---- obrs, budget
    Door(
        obrs.acceptance_probability,
        {
            "log_ratio": array("states vocab", any_shape=True),
            "lam": array("states vocab", numbers(0.5, 2), "states 1", "1 vocab", "1 1", "", any_dtype=True),
        },
    ),
    Door(obrs.overlap, PAIR | LAM),
    *(Door(call, PAIR) for call in (support.BelievedLaws, support.cuts, support.on_support)),
    Door(
        support.SamplingMask,
        {
            "ids": array("n", ids("vocab")),
            "offsets": sized("n", lambda sizes: (sizes["n"] + 1,), one_each),
            "places": array("*rows *length", ids("n"), any_shape=True),
        },
        torch=False,
        letters=("vocab",),
    ),
    Door(
        lambda rows, mask: mask.take(rows),
        {"rows": array("*rows", ids("n"))},
        lambda generator, sizes: {"mask": sampling_mask(sizes["n"])},
        name="core.support.SamplingMask.take",
        torch=False,
        letters=("n",),
    ),
    Door(obrs.accepted_log_probs, PAIR | LAM),
    Door(
        budget.solve_lam,
        PAIR | {"acceptance_rate": array("states", numbers(0.2, 0.8), "", any_dtype=True)},
    ),
    # ---- divergences, log-ratios
    *(
        Door(divergence, TWO)
        for divergence in (
            *(divergences.kl, divergences.total_variation, divergences.chi_square, divergences.hellinger),
            divergences.jensen_shannon,
        )
    ),
    Door(divergences.renyi, TWO, fixed(alpha=1.5)),
    *(
        Door(
            log_ratios.aggregate,
            {"values": array("n length"), **AGGREGATED},
            fixed(how=how),
            name=f"core.log_ratios.aggregate[{how}]",
        )
        for how in Aggregate
    ),
    *(
        Door(
            log_ratios.chi_square,
            {"log_ratio": array("n length"), **AGGREGATED},
            fixed(how=how),
            name=f"core.log_ratios.chi_square[{how}]",
        )
        for how in (None, Aggregate.SUM)
    ),
    Door(log_ratios.perplexity_ratio, {"log_ratio": array("n length"), **AGGREGATED}),
    Door(log_ratios.effective_sample_size, {"weight": array("n length", numbers(0.5, 2.0)), **AGGREGATED}),
    Door(log_ratios.masked_mean, {"values": array("n length"), **AGGREGATED}),
    # ---- numerics
    Door(numerics.log_softmax, {"logits": array("states vocab", any_shape=True)}),
    *(
        Door(function, same("p", "ratio", "q"))
        for function in (divergences.kl_terms, divergences.chi_square_of_checked)
    ),
    Door(divergences.kl_of_checked, TWO),
    *(
        Door(binary_kl, {name: array("states vocab", negative, any_shape=True) for name in ("p", "q")}, name=name)
        for name, binary_kl in {
            "core.divergences.binary_kl": divergences.binary_kl,
            "core.divergences.binary_kl_exceeds": binary_kl_exceeds,
        }.items()
    ),
    Door(divergences.kl_to_measure, same("p", "ratio", "measure")),
    Door(obrs.overlap_of_checked, PAIR | LAM),
    Door(obrs.log_overlap_terms, PAIR | LAM),
    Door(numerics.log_ratio, PAIR),
    Door(numerics.mul_exp, same("x", "log_weight")),
    Door(numerics.exp_difference, same("log_first", "log_second")),
    Door(checks.check_pair, PAIR),
    # ---- normalizer
    *(
        Door(function, PAIR | LAM, fixed(k=2))
        for function in (normalizer.topk, normalizer.bracket, normalizer.intersection)
    ),
    Door(
        normalizer.bracket_on_topk,
        {"policy_topk_log_probs": array("states k", on_topk), "actor_topk_log_probs": array("states k", on_topk)} | LAM,
    ),
    Door(
        normalizer.actor_topk_bracket,
        {
            "policy_log_probs": array("states vocab", laws),
            "actor_topk_ids": array("states 1", ids("vocab")),
            "actor_topk_log_probs": array("states 1", negative),
        }
        | LAM,
    ),
    Door(
        normalizer.chunked,
        {"policy_hidden": array("states hidden"), "actor_hidden": array("states hidden")} | LAM,
        lambda generator, sizes: {f"{who}_head": head_of(generator, sizes) for who in ("policy", "actor")},
        numpy=False,
        letters=("vocab",),
    ),
    Door(
        normalizer.bias_correction,
        {
            "topk_overlap": array("states", numbers(0.5, 0.9), any_shape=True),
            "accepted": array("states", numbers(0.5, 0.9), any_shape=True, any_dtype=True),
        },
    ),
    Door(
        normalizer.calibrated,
        {
            "low": array("states", numbers(0.3, 0.5)),
            "high": array("states", numbers(0.5, 0.9)),
            "acceptance_probability": array("states", numbers(0.4, 0.8), any_shape=True),
        },
    ),
    Door(
        normalizer.calibrated_on_topk,
        {
            "policy_topk_log_probs": array("states k", on_topk),
            "actor_topk_log_probs": array("states k", on_topk),
            "acceptance_probability": array("states", numbers(0.4, 0.8), any_shape=True),
        }
        | LAM,
    ),
    # ---- heads, top-k, sampling
    Door(Head, {"weight": array("vocab *hidden"), "bias": array("vocab")}),
    *(
        Door(
            call,
            {"hidden": array("... hidden")},
            lambda generator, sizes: {"head": head_of(generator, sizes)},
            name=f"core.heads.{name}",
            numpy=False,
            letters=("vocab",),
        )
        for call, name in ((head_logits, "Head.logits"), (chunked_law, "ChunkedLaw.of"))
    ),
    Door(topk_of, {"log_probs": array("states vocab", laws, any_shape=True)}, fixed(k=2), name="core.topk.TopK.of"),
    Door(
        on_ids,
        {"log_probs": array("states vocab", laws)},
        lambda generator, sizes: {"own": TopK.of(laws(generator, (sizes["states"], sizes["vocab"]), sizes), 2)},
        name="core.topk.TopK.gather",
        torch=False,
    ),
    Door(
        sampling.categorical,
        {"log_probs": array("states vocab", laws), "uniforms": array("states *draws", numbers(0, 1))},
    ),
    # ---- gradients and weighted laws
    Door(policy_gradient.gradient_under, same("law", "p", "advantage")),
    Door(
        policy_gradient.policy_gradient,
        {"p": array("states vocab", numbers(0.1, 0.9)), "advantage": array("states vocab")},
    ),
    Door(
        policy_gradient.feature_norm_sq,
        {"p": array("states vocab", numbers(0.1, 0.9)), "advantage": array("states vocab")},
    ),
    Door(policy_gradient.score_dot, {"p": array("states vocab", numbers(0.1, 0.9)), "vector": array("states vocab")}),
    Door(
        weighted_laws.weighted_less_policy,
        same("q", "p", "ratio") | {"weight": array("*states *vocab")},
    ),
    Door(
        weighted_laws.over_divisor,
        same("law", "excess")
        | {"p": array("states vocab", floats, "states 1", "1 vocab", "1 1", "")}
        | dict.fromkeys(("divisor", "divisor_less_one"), array("states 1", numbers(0.5, 2.0))),
    ),
    Door(two_laws, PAIR, name="core.two_laws.TwoLaws"),
    Door(kl_by_blocks, PAIR),
    Door(less_policy, PAIR | WEIGHT, name="core.two_laws.TwoLaws.less_policy"),
    Door(kl_to, PAIR | WEIGHT, name="core.two_laws.TwoLaws.kl_to"),
    Door(weighted_laws.kl_to_weighted, {"log_p": array("states vocab", laws), "log_q": array("states vocab", laws)}),
    # ---- rollouts and sequences
    Door(ScoredRollouts, ROLLOUTS, torch=False),
    Door(sequences.Sequences, PATHS, torch=False, letters=("prefixes", "vocab")),
    Door(
        gather,
        {"table": array("prefixes vocab", floats, "*prefixes *vocab", "*prefixes", any_dtype=True)},
        along,
        name="core.sequences.Sequences.gather",
        torch=False,
        letters=("n", "length"),
    ),
    Door(
        scatter,
        {"values": array("n length", floats, "n 1", "1 1", "1 length", "", any_dtype=True)},
        lambda generator, sizes: along(generator, sizes) | {"shape": (sizes["prefixes"], sizes["vocab"])},
        name="core.sequences.Sequences.scatter",
        torch=False,
        letters=("prefixes", "vocab"),
    ),
    Door(
        log_probs,
        {"table": TABLE},
        along,
        name="core.sequences.Sequences.log_probs",
        torch=False,
        letters=("n", "length"),
    ),
    Door(
        log_ratio,
        {"policy_log_probs": array("prefixes vocab"), "actor_log_probs": array("prefixes vocab")},
        along,
        name="core.sequences.Sequences.log_ratio",
        torch=False,
        letters=("n", "length"),
    ),
    Door(
        sequences.SequenceLaws,
        {f"{who}_log_probs": array("prefixes vocab", laws) for who in ("policy", "actor", "reference")},
        torch=False,
    ),
    Door(
        sequences.Enumeration,
        {"advantage": array("vocab")},
        lambda generator, sizes: sequence_laws(generator, sizes) | {"sequences": complete(sizes["vocab"])},
        torch=False,
        letters=("prefixes",),
    ),
    Door(
        sequences.SampledSequences,
        {"actor_advantage": array("n"), "policy_advantage": array("n")},
        lambda generator, sizes: (
            sequence_laws(generator, sizes) | {who: paths(generator, sizes) for who in ("actor", "policy")}
        ),
        torch=False,
        letters=("length", "prefixes", "vocab"),
    ),
    Door(sequences.per_sequence, {"values": array("*n *length")}, torch=False),
    Door(
        sequences.occupancy,
        {"probability": array("n", shares)},
        lambda generator, sizes: {"sequences": paths(generator, sizes), "shape": (sizes["prefixes"], sizes["vocab"])},
        torch=False,
        letters=("length", "prefixes", "vocab"),
    ),
    Door(
        sequences.kl_of_measures,
        {"first": array("states vocab", shares), "second": array("states vocab", shares)},
        torch=False,
    ),
    Door(intervals.student, {"values": array("*n")}, torch=False),
    Door(
        intervals.of_share,
        {"sums": array("clusters", shares), "sizes": array("clusters", numbers(1.0, 3.0))},
        torch=False,
    ),
    Door(
        intervals.of_share_moments,
        {"totals": array("2", numbers(1.0, 3.0)), "products": array("2 2", numbers(1.0, 3.0))},
        fixed(clusters=9),
        torch=False,
    ),
    Door(intervals.of_left_out, {"left_out": array("*n")}, fixed(value=0.5), torch=False),
    Door(
        intervals.stratified_mean,
        {"values": array("n"), "stratum": array("n", lambda generator, shape, sizes: np.arange(shape[0]) % 2)},
        torch=False,
    ),
    Door(
        sequence_divergences.ratio_of_means,
        {
            "values": array("n"),
            "counts": array("n", numbers(1.0, 3.0)),
            "stratum": array("n", lambda generator, shape, sizes: np.zeros(shape, dtype=np.int64)),
        },
        torch=False,
    ),
)

EXEMPT: Mapping[str, str] = {
    "core.backend.on_host": "one array of any shape, which it returns",
    "core.obrs.lesser": "laws and a λ that log_overlap_terms, or the fused overlap, has checked",
    **dict.fromkeys(
        (f"core.fused.{name}" for name in ("overlap", "overlap_of_logits")),
        "of torch alone, and compiled for every dtype: tests/core/test_fused.py tries wrong ones",
    ),
    **dict.fromkeys(
        (f"core.backend.{name}" for name in ("as_array", "as_ids", "floating", "into", "kth_largest", "logsumexp")),
        "what the array standard lacks: one array of any shape, or arrays that the caller has checked",
    ),
    **dict.fromkeys(
        (
            f"core.backend.{name}"
            for name in (
                "cumulative_minimum",
                "require_floating",
                "searchsorted",
                "read_only",
                "stop_gradient",
                "to_numpy",
                "topk",
                "topk_mask",
            )
        ),
        "what the array standard lacks: one array of any shape, or arrays that the caller has checked",
    ),
    "core.backend.is_differentiated": "asks one array of any kind a question",
    "core.backend.placed": "binary_kl_exceeds makes its mask: tests/core/test_backend.py",
    **dict.fromkeys(
        (f"core.checks.{name}" for name in ("beside", "check_advantage", "check_at_most_one")),
        "a check itself: tests/core/test_checks.py",
    ),
    **dict.fromkeys(
        (f"core.checks.{name}" for name in ("check_beside", "check_ids", "check_integers", "check_log_probs")),
        "a check itself: tests/core/test_checks.py",
    ),
    **dict.fromkeys(
        (f"core.checks.{name}" for name in ("check_mask", "check_same_shape", "check_same_states", "check_shape")),
        "a check itself: tests/core/test_checks.py",
    ),
    **dict.fromkeys(
        (f"core.checks.{name}" for name in ("check_axes", "check_floats", "check_padding", "check_per_token")),
        "a check itself: tests/core/test_checks.py",
    ),
    **dict.fromkeys(
        (f"core.checks.{name}" for name in ("check_reals", "check_rows")), "a check itself: tests/core/test_checks.py"
    ),
    **dict.fromkeys(
        (f"core.checks.{name}" for name in ("check_total", "per_state", "positive", "require_vocabulary")),
        "a check itself: tests/core/test_checks.py",
    ),
    "core.heads.Head.require": "a check itself, of the doors Head.logits and ChunkedLaw.of",
    "core.sequences.check_advantages": "a check itself: tests/core/test_sequences.py",
    **dict.fromkeys((f"core.log_ratios.k{i}" for i in (1, 2, 3)), "elementwise: any shape and real dtype fits"),
    "core.numerics.near_exp_remainder": "elementwise: any shape and real dtype fits",
    "core.numerics.exp_remainder": "elementwise: any shape and real dtype fits",
    "core.weighted_laws.log_mass": "elementwise: any shape and real dtype fits",
    "core.hashing.splitmix64": "elementwise: any shape of unsigned integers",
    **dict.fromkeys(
        (f"core.gaussian.{name}" for name in ("kl", "kl_accepted", "overlap", "total_variation")),
        "elementwise: any number or array-like fits, and is made float64",
    ),
    "core.heads.ChunkedLaw": "made by `ChunkedLaw.of` alone, which has a door",
    "core.topk.TopK": "refuses any dtype but its two: tests/core/test_topk.py",
    "core.scored.ScoredRollouts.take": "rows index as numpy's do, and the constructor checks the result",
    "core.sequences.Sequences.take": "rows index as numpy's do, and the constructor checks the result",
}
"""Public functions that take arrays and have no door, with the reason."""
