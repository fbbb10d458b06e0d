"""The ways to Z compared: against plain formulas, and what holds whatever is drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.bench.timing import peak_bytes
from jackpot_sim.core import normalizer, obrs
from jackpot_sim.estimators.mismatch.overlap_estimates import Comparison, LawBlock, Way, compare
from tests.conftest import ToLibrary
from tests.core.laws import Pair, law_pairs, normalised

INF = math.inf

CORRECTED = (Way.BIAS_CORRECTED, Way.SERVER_BIAS_CORRECTED)
CALIBRATED = (Way.CALIBRATED, Way.SERVER_CALIBRATED)
INTERSECTION = (Way.INTERSECTION, Way.INTERSECTION_CORRECTED)


def drawn(policy: Any, actor: Any, seed: int = 0, cluster: Any = None) -> LawBlock:
    """A token of the actor at every state, by a search of the running sum."""
    rng = np.random.default_rng(seed)
    running = np.cumsum(np.exp(actor), axis=-1)
    tokens = np.argmax(running > rng.random((len(actor), 1)) * running[:, -1:], axis=-1)
    return LawBlock(
        policy, actor, tokens, rng.random(len(actor)), np.arange(len(actor)) if cluster is None else cluster
    )


def mixed(seed: int, states: int, vocab: int) -> Pair:
    """Laws from all but certain to all but uniform."""
    rng = np.random.default_rng(seed)
    actor = rng.uniform(0, 5, size=(states, 1)) * rng.normal(size=(states, vocab))
    return Pair(normalised(actor + 0.4 * rng.normal(size=actor.shape)), normalised(actor))


def rows(block: LawBlock, where: slice) -> LawBlock:
    return LawBlock(*(column[where] for column in vars(block).values()))


def timeless(found: Comparison) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if name not in ("way", "seconds")}


def assert_same(first: list[Comparison], second: list[Comparison], rel: float = 1e-11, within: float = 1e-12) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.way is other.way
        assert timeless(one) == pytest.approx(timeless(other), rel=rel, abs=within, nan_ok=True)


def by_hand(way: Way, block: LawBlock, k: int, lam: float) -> tuple[Any, Any, Any]:
    """(Ẑ, low, high), all tokens in one batch."""
    p, q = np.exp(block.policy_log_probs), np.exp(block.actor_log_probs)
    at = np.arange(len(p)), block.tokens
    accept = np.minimum(1, p[at] / q[at] / lam)
    kept = np.zeros((2, *p.shape), dtype=bool)
    for index, law in enumerate((q, p)):
        np.put_along_axis(kept[index], np.argsort(-law, axis=-1, kind="stable")[:, :k], True, axis=-1)
    if way in INTERSECTION:
        estimate = np.sum(np.where(kept.all(axis=0), np.minimum(q / lam, p), 0), axis=-1)
        kappa = np.mean(block.uniforms < accept) / np.mean(estimate)
        return (estimate if way is Way.INTERSECTION else np.minimum(1, kappa * estimate)), 0.0, 1.0
    known = kept[0] if way.from_server else kept.any(axis=0)
    low = np.sum(np.where(known, np.minimum(q, p / lam), 0), axis=-1)
    high = low + np.minimum(np.sum(np.where(known, 0, q), -1), np.sum(np.where(known, 0, p), -1) / lam)
    if way in CORRECTED:
        return low * np.mean(block.uniforms < accept) / np.mean(low), low, high
    if way in CALIBRATED:
        share = (np.mean(accept) - np.mean(low)) / np.mean(high - low)
        return low + np.clip(share, 0, 1) * (high - low), low, high
    return low, low, high


@pytest.mark.parametrize("lam", [0.7, 1.0, 1.5])
def test_against_plain_formulas(lam: float) -> None:
    block = drawn(*mixed(0, 300, 40))
    z = obrs.overlap(block.policy_log_probs, block.actor_log_probs, lam)
    found = compare([block], [2, 7], lam)
    assert [(one.k, one.way) for one in found] == list(itertools.product([2, 7], Way))
    for one in found:
        estimate, low, high = by_hand(one.way, block, one.k, lam)
        expected = {
            "overlap": np.mean(z),
            "kept": np.mean(estimate) / np.mean(z),
            "error": np.mean(np.abs(estimate / z - 1)),
            "error_max": np.max(np.abs(estimate / z - 1)),
            "above_one": np.mean(estimate > 1),
            "width": np.mean((high - low) / z),
        }
        # The server's top-k is stored in float32.
        rel = 1e-5 if one.way.from_server else 1e-12
        assert {name: getattr(one, name) for name in expected} == pytest.approx(expected, rel=rel, abs=rel)
        assert (one.tokens, one.lam, one.outside) == (300, lam, 0)
        assert one.bytes_per_token == (8 * one.k if one.way.from_server else 4 * 40)
        assert one.seconds > 0


@given(pair=law_pairs(shared=False), ks=st.lists(st.integers(1, 14), min_size=1, max_size=3), lam=st.floats(0.2, 5))
def test_no_z_lies_outside(pair: Pair, ks: list[int], lam: float) -> None:
    """Cut tokens, disjoint supports and ties among them."""
    policy, actor = (np.broadcast_to(law, (3, len(law))) for law in pair)
    if np.sum(np.minimum(pair.q, pair.p)) == 0:
        return
    for one in compare([drawn(policy, actor)], ks, lam):
        assert one.outside == 0
        assert one.above_one == 0 or one.way in (*CORRECTED, Way.INTERSECTION)
        if one.way in (Way.TOPK, Way.SERVER_TOPK) or (one.way is Way.INTERSECTION and lam == 1):
            assert one.kept <= 1 + 1e-5
        if one.k >= len(pair.policy) and one.way not in INTERSECTION:
            assert one.width < 1e-5 / one.overlap


def test_a_wrong_bracket_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jackpot_sim.core.normalizer.bracket", lambda p, q, k, lam: (np.full(len(p), 1e-3),) * 2)
    found = {one.way: one.outside for one in compare([drawn(*mixed(0, 20, 9))], [3])}
    assert (found[Way.CALIBRATED], found[Way.SERVER_CALIBRATED]) == (1, 0)


def test_kappa_is_unbiased_for_the_batch_mean() -> None:
    """Over every pair of tokens and every pair of masks that a batch of two states can have."""
    pair = mixed(1, 2, 4)
    q = np.exp(pair.actor)
    accept = np.minimum(1, np.exp(pair.policy - pair.actor))
    means = dict.fromkeys(CORRECTED, 0.0)
    for tokens in itertools.product(range(4), repeat=2):
        at = np.arange(2), np.array(tokens)
        for mask in itertools.product([True, False], repeat=2):
            chance = np.prod(q[at]) * np.prod(np.where(mask, accept[at], 1 - accept[at]))
            if chance == 0:
                continue
            uniforms = np.where(mask, 0.0, 1 - 1e-12)
            for one in compare([LawBlock(*pair, at[1], uniforms, at[0])], [1]):
                if one.way in CORRECTED:
                    means[one.way] += chance * one.kept * one.overlap
    z = float(np.mean(obrs.overlap(*pair)))
    assert list(means.values()) == pytest.approx([z, z], rel=1e-10)


def test_kappa_may_be_worse_than_nothing_where_states_differ() -> None:
    """Half the states known in full, half by a fifth: κ of the mean moves both the wrong way or too little."""
    certain, open_ = normalised([0.0, -20.0, -20.0, -20.0, -20.0]), np.log(np.full(5, 0.2))
    laws = np.array([certain, open_] * 50)
    found = {one.way: one for one in compare([drawn(laws, laws)], [1])}
    assert found[Way.TOPK].error == pytest.approx(0.4, rel=1e-6)  # 0 and 0.8
    assert found[Way.BIAS_CORRECTED].error == pytest.approx((2 / 3 + 2 / 3) / 2, rel=1e-6)  # 5/3 and 1/3 for 1
    assert found[Way.BIAS_CORRECTED].above_one == 0.5
    assert found[Way.BIAS_CORRECTED].kept == pytest.approx(1, rel=1e-12)
    assert found[Way.CALIBRATED].error < 1e-6


# ------------------------------------------------------- blocks and batches


def test_blocks_change_nothing(xp: ToLibrary) -> None:
    block = drawn(*mixed(2, 60, 30), cluster=np.arange(60) // 4)
    whole = compare([block], [1, 5], batch=25)
    cuts = [0, 1, 17, 40, 60]
    parts = [rows(block, slice(*cut)) for cut in itertools.pairwise(cuts)]
    assert_same(compare(iter(parts), [1, 5], batch=25), whole)
    of_library = [LawBlock(*(xp(column) for column in vars(part).values())) for part in parts]
    assert_same(compare(of_library, [1, 5], batch=25), whole, rel=1e-9)


def test_tokens_of_numpy_beside_laws_of_torch() -> None:
    torch = pytest.importorskip("torch")
    block = drawn(*mixed(3, 10, 6))
    laws = torch.tensor(block.policy_log_probs), torch.tensor(block.actor_log_probs)
    assert_same(
        compare([LawBlock(*laws, block.tokens, block.uniforms, block.cluster)], [2]), compare([block], [2]), rel=1e-9
    )


@pytest.mark.cuda
def test_laws_on_a_device() -> None:
    import torch

    block = drawn(*mixed(9, 50, 300))
    laws = (torch.tensor(law, device="cuda") for law in (block.policy_log_probs, block.actor_log_probs))
    assert_same(
        compare([LawBlock(*laws, block.tokens, block.uniforms, block.cluster)], [5]), compare([block], [5]), rel=1e-6
    )


def test_single_precision_on_the_same_draws() -> None:
    block = drawn(*mixed(4, 100, 50))
    single = LawBlock(
        *(law.astype(np.float32) for law in (block.policy_log_probs, block.actor_log_probs)),
        *(block.tokens, block.uniforms, block.cluster),
    )
    assert_same(compare([single], [3]), compare([block], [3]), rel=1e-3, within=1e-5)


def test_a_batch_fits_its_own_tokens() -> None:
    block = drawn(*mixed(5, 70, 20))
    together = compare([block], [2], batch=30)
    apart = [compare([rows(block, slice(start, start + 30))], [2]) for start in (0, 30, 60)]
    for one, *parts in zip(together, *apart, strict=True):
        assert one.error == pytest.approx(sum(part.error * part.tokens for part in parts) / 70, rel=1e-12)
        assert one.error_max == pytest.approx(max(part.error_max for part in parts), rel=1e-12)
    assert any(one.error != other.error for one, other in zip(together, compare([block], [2]), strict=True))


def test_memory_does_not_grow_with_the_blocks() -> None:
    def blocks(n: int) -> Iterator[LawBlock]:
        for seed in range(n):
            yield drawn(*mixed(seed, 32, 2000), seed=seed)

    few, many = (peak_bytes(lambda n=n: compare(blocks(n), [4])) for n in (2, 12))
    assert many < 1.1 * few


# ----------------------------------------------------------- standard errors


@pytest.mark.parametrize("size", [1, 5])
def test_standard_errors_are_the_scatter_of_repeated_draws(size: int) -> None:
    """Clusters of `size` states of one steepness, drawn 400 times: κ and the share wander with the tokens.

    An error that is all but the share's own is folded at 0, and scatters by 1/√(1 − 2/π) = 1.66 less than stated.
    """
    rng = np.random.default_rng(6)
    found = []
    for seed in range(400):
        steep = np.repeat(rng.uniform(0, 4, size=(200 // size, 1)), size, axis=0)
        actor = steep * rng.normal(size=(200, 12))
        laws = normalised(actor + 0.6 * rng.normal(size=actor.shape)), normalised(actor)
        found.append(compare([drawn(*laws, seed=seed, cluster=np.arange(200) // size)], [2]))
    for place, way in enumerate(Way):
        for name in ("kept", "error"):
            values = [getattr(each[place], name) for each in found]
            stated = float(np.sqrt(np.mean([getattr(each[place], f"{name}_se") ** 2 for each in found])))
            folded = 1.66 if name == "error" and way in CALIBRATED else 1.0
            assert 0.85 < stated / float(np.std(values, ddof=1)) < 1.15 * folded, (way, name)


def test_one_cluster_has_no_standard_error() -> None:
    for one in compare([drawn(*mixed(7, 5, 6), cluster=np.full(5, -3))], [2]):
        assert math.isnan(one.kept_se)
        assert math.isnan(one.error_se)
        assert math.isfinite(one.error)


def test_a_kappa_that_does_not_exist_is_nan() -> None:
    policy, actor = normalised([[0.0, -9.0, -INF], [0.0, 0.0, 0.0]]), normalised([[-INF, -9.0, 0.0], [0.0, 0.0, 0.0]])
    found = {one.way: one for one in compare([drawn(policy, actor)], [1], batch=1)}
    assert math.isnan(found[Way.BIAS_CORRECTED].error)
    assert math.isnan(found[Way.BIAS_CORRECTED].kept)
    assert math.isfinite(found[Way.TOPK].error)
    assert math.isfinite(found[Way.CALIBRATED].error)


def test_a_state_without_overlap_says_inf() -> None:
    policy = normalised([[0.0, 0.0, -INF, -INF], [0.0, 0.0, 0.0, 0.0]])
    actor = normalised([[-INF, -INF, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = {one.way: one for one in compare([drawn(policy, actor)], [1])}
    assert found[Way.TOPK].error == pytest.approx(0.75 / 2)  # nothing of nothing, and a quarter of 1
    assert found[Way.TOPK].outside == 0
    assert found[Way.CALIBRATED].width == math.inf


# -------------------------------------------------------------------- errors


def test_errors_name_the_argument() -> None:
    block = drawn(*mixed(8, 4, 6))
    for ks in ([], [3, 0]):
        with pytest.raises(ValueError, match="ks must hold at least one k, each at least 1"):
            compare([block], ks)
    for batch in (0, -2):
        with pytest.raises(ValueError, match=f"batch must be at least 1, got {batch}"):
            compare([block], [1], batch=batch)
    with pytest.raises(ValueError, match="blocks hold no token"):
        compare([], [1])
    with pytest.raises(ValueError, match="lam must be positive"):
        compare([block], [1], lam=0.0)
    with pytest.raises(ValueError, match="policy_log_probs is not normalised"):
        compare([LawBlock(block.policy_log_probs + 1, *list(vars(block).values())[1:])], [1])
    p, q, tokens, uniforms, cluster = vars(block).values()
    with pytest.raises(ValueError, match=r"policy_log_probs has shape \(4, 6\), actor_log_probs has shape \(3, 6\)"):
        LawBlock(p, q[:3], tokens, uniforms, cluster)
    with pytest.raises(ValueError, match=r"policy_log_probs has shape \(6,\): it must be \(rows, vocab\)"):
        LawBlock(p[0], q[0], tokens, uniforms, cluster)
    for wrong in (
        (tokens[:3], uniforms, cluster),
        (tokens, uniforms[:, None], cluster),
        (tokens, uniforms, cluster[1:]),
    ):
        with pytest.raises(ValueError, match=r"(tokens|uniforms|cluster) has shape .*, not \(4,\): one number per row"):
            LawBlock(p, q, *wrong)


def test_columns_of_another_kind_are_refused() -> None:
    block = vars(drawn(*mixed(8, 4, 6)))
    LawBlock(**block)
    for name in ("tokens", "cluster"):
        for kind in (np.float64, np.bool_):
            with pytest.raises(TypeError, match=f"{name} must hold integers"):
                LawBlock(**block | {name: block[name].astype(kind)})
    for name in ("uniforms", "policy_log_probs", "actor_log_probs"):
        with pytest.raises(TypeError, match=f"{name} must hold real floating numbers"):
            LawBlock(**block | {name: block[name].astype(np.int64)})
    for off in (-1, 6):
        with pytest.raises(ValueError, match="tokens must lie from 0 to 5, got"):
            LawBlock(**block | {"tokens": np.array([0, 1, 2, off])})


# ------------------------------------------------ the two of [J]'s authors


def correlations(block: LawBlock, k: int, lam: float) -> tuple[float, float]:
    """That of Z with κ·Ẑ on the intersection, at most 1, and with κ·Z_k on the union."""
    laws, at = (block.policy_log_probs, block.actor_log_probs), (np.arange(len(block)), block.tokens)
    accept = np.minimum(1, np.exp(laws[0][at] - laws[1][at]) / lam)
    z = obrs.overlap(*laws, lam)
    found = []
    for estimate, most in ((normalizer.intersection(*laws, k, lam), 1.0), (normalizer.topk(*laws, k, lam), INF)):
        calibrated = normalizer.bias_correction(estimate, block.uniforms < accept, most)
        found.append(float(np.corrcoef(calibrated, z)[0, 1]))
    return found[0], found[1]


def test_the_intersection_keeps_less_than_the_union_and_is_right_at_lam_1_only() -> None:
    """Laws of 500 tokens that are steep enough for k = 20 to keep three quarters of Z."""
    rng = np.random.default_rng(0)
    actor = 2.5 * rng.normal(size=(1000, 500))
    apart = 0.6 * rng.normal(size=actor.shape)
    block = drawn(normalised(actor + apart), normalised(actor), seed=9)
    found = {one.way: one for one in compare([block], [20])}
    kept = [found[way].kept for way in (Way.INTERSECTION, Way.TOPK, Way.INTERSECTION_CORRECTED)]
    assert kept[0] < kept[1] < kept[2] < 1, "the cap takes from the mean what it cuts"
    of_lab = {}
    for lam in (0.5, 1.0, 2.0):
        of_lab[lam], of_union = correlations(block, 20, lam)
        assert of_lab[lam] < of_union
    assert max(of_lab[0.5], of_lab[2.0]) < of_lab[1.0] / 2
