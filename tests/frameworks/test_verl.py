"""Ours against verl's own functions, by the values that `python -m tests.frameworks verl` has stored.

Two deviations are verl's, and tested as such: it clamps ℓ, or S, to ±20, and its masked means have 1e-8 in their
denominators.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import log_ratios
from jackpot_sim.estimators import Aggregate, Correction, Denominator, batch_normalize, combined, get
from tests.cases import each
from tests.frameworks.batches import CLAMPED, batches
from tests.frameworks.stored import ours, stored, tokens_of

VERL = stored("verl")
NAMES = [name for name in VERL["batches"] if name != CLAMPED]
CLOSE: dict[str, float] = {"rtol": 1e-6, "atol": 1e-9}
SAFETY = 20.0

TIS, SEQUENCE_TIS = get("tis", clip=2.0), get("sequence-tis", clip=2.0)
CORRECTIONS: dict[str, Correction] = {
    "token-normalized": batch_normalize(TIS),
    "sequence-normalized": batch_normalize(SEQUENCE_TIS),
    "token_k1": get("mask-k1", low=0.6, high=1.4, inverted=True),
    "token_k2": get("mask-k2", bound=0.1),
    "token_k3": get("mask-k3", bound=0.1),
    "seq_sum_k1": get("sequence-mask-k1", low=0.3, high=3.0, aggregate="sum", inverted=True),
    "seq_mean_k1": get("sequence-mask-k1", low=0.85, high=1.1, inverted=True),
    **{
        f"seq_{how}_{kind}": get(f"sequence-mask-{kind}", bound=bound, aggregate=how)
        for kind in ("k2", "k3")
        for how, bound in (("sum", 0.4), ("mean", 0.1), ("max", 0.3))
    },
    "several": combined(
        batch_normalize(TIS), get("mask-k1", low=0.5, high=2.0, inverted=True), get("sequence-mask-k2", bound=0.9)
    ),
}
"""What each of verl's options becomes here."""

LOSSES: dict[str, Correction] = {
    "vanilla": get("ppo-clip"),
    "dppo_tv": get("dppo-tv"),
    "dppo_kl": get("dppo-kl", delta=0.05),
    "sapo": get("sapo"),
    "cispo": get("cispo"),
    "gspo": get("gspo"),
    "geo_mean": get("gmpo", low=0.2, high=0.2),
}


def test_the_stored_batches_are_those_of_the_command() -> None:
    assert VERL["batches"] == batches()


def test_every_preset_of_verl_is_one_of_ours() -> None:
    for name in VERL["presets"]:
        assert estimators.presets()[f"verl:{name}"].version == VERL["version"]


def weights_and_mask(correction: Correction, batch: Any) -> tuple[Any, Any, Any, Any]:
    """Our weight where verl has one, our mask, and the live tokens.

    A token that IcePop drops has a weight of 0 in verl, which leaves it in the mask.
    """
    accept, weight, live = ours(correction, tokens_of(batch))
    return weight, accept, accept * weight, live


@each("name, preset", [(n, p) for n in NAMES for p in VERL["presets"] if not p.startswith("bypass_ppo")])
def test_a_preset_has_verls_weights_and_mask(name: str, preset: str) -> None:
    found, batch = VERL["presets"][preset], VERL["batches"][name]
    config, values = found["config"], found[name]
    weight, accept, product, live = weights_and_mask(get(f"verl:{preset}"), batch)
    masked = config["rollout_rs"] is not None
    mask = np.array(values["mask"])
    if values["weights"] is not None:
        # Weights stand at rejected tokens too.
        expected, mine = np.array(values["weights"]), weight if masked else product
        np.testing.assert_allclose(mine[live], expected[live], **CLOSE)
        np.testing.assert_allclose((mine * mask)[live], (expected * mask)[live], **CLOSE)
    if masked:
        np.testing.assert_array_equal(accept, mask)
    else:
        np.testing.assert_array_equal(mask, live)


@each("name, option", [(n, o) for n in NAMES for o in CORRECTIONS])
def test_an_option_has_verls_weights_and_mask(name: str, option: str) -> None:
    values = VERL["corrections"][option][name]
    accept, weight, live = ours(CORRECTIONS[option], tokens_of(VERL["batches"][name]))
    if values["weights"] is not None:
        np.testing.assert_allclose(weight[live], np.array(values["weights"])[live], **CLOSE)
    np.testing.assert_array_equal(accept, np.array(values["mask"]))


def test_the_masks_keep_some_and_drop_some() -> None:
    """Else the comparison above would say little."""
    for values in [*VERL["corrections"].values(), *VERL["presets"].values()]:
        masks = np.concatenate([np.ravel(values[name]["mask"]) for name in NAMES])
        assert masks.any()
    dropped = [
        option
        for option, values in VERL["corrections"].items()
        if any(np.sum(values[name]["mask"]) < np.sum(VERL["batches"][name]["mask"]) for name in NAMES)
    ]
    assert set(dropped) == set(CORRECTIONS) - {"token-normalized", "sequence-normalized"}


def test_the_denominator_of_a_preset_is_the_count_that_verl_divides_by() -> None:
    """verl divides a token mean by the mask that reaches the trainer: kept tokens, unless the loss makes the mask."""
    for name, found in VERL["presets"].items():
        in_the_loss = found["config"]["bypass_mode"] or found["config"]["rollout_rs"] is None
        expected = Denominator.PROPOSED if in_the_loss else Denominator.ACCEPTED
        assert estimators.presets()[f"verl:{name}"].denominator is expected, name


# --- policy losses: the coefficient of A·∇log p -----------------------------------------------------------------------


def coefficient(correction: Correction, batch: Any) -> Any:
    """The gradient of our loss in the log-probs with the token mean over all tokens."""
    accept, weight, live = ours(correction, tokens_of(batch))
    advantage = np.array(batch["advantage"])[:, None]
    return -(accept * weight * advantage) * live / live.sum()


@each("name, loss", [(n, loss) for n in NAMES for loss in LOSSES])
def test_the_gradient_of_a_policy_loss_is_verls(name: str, loss: str) -> None:
    batch, found = VERL["batches"][name], VERL["losses"][loss][name]
    mine = coefficient(LOSSES[loss], batch)
    live = np.array(batch["mask"])
    if loss in ("sapo", "geo_mean"):  # the mean over each sequence's tokens first, whatever the mode
        mine = mine * live.sum() / (live.sum(-1, keepdims=True) * len(live))
    np.testing.assert_allclose(mine, np.array(found["gradient"]), rtol=1e-6, atol=1e-8)


@each("name, preset", [(n, p) for n in NAMES for p in VERL["bypass"]])
def test_the_gradient_in_bypass_mode_is_verls(name: str, preset: str) -> None:
    """The presets as they are, and the denominator of all tokens that they state."""
    assert estimators.presets()[f"verl:{preset}"].bypass
    mine = coefficient(get(f"verl:{preset}"), VERL["batches"][name])
    np.testing.assert_allclose(mine, np.array(VERL["bypass"][preset][name]["gradient"]), rtol=1e-6, atol=1e-9)


@each("name", NAMES)
def test_the_clipped_shares_are_verls(name: str) -> None:
    batch = VERL["batches"][name]
    for loss in ("dppo_tv", "dppo_kl", "gspo"):
        accept, _, live = ours(LOSSES[loss], tokens_of(batch))
        shares = VERL["losses"][loss][name]["metrics"]
        assert 1 - accept[live].mean() == pytest.approx(shares["actor/pg_clipfrac"], abs=1e-6), loss
    accept, _, live = ours(LOSSES["vanilla"], tokens_of(batch))
    shares = VERL["losses"]["vanilla"][name]["metrics"]
    assert 1 - accept[live].mean() == pytest.approx(sum(shares.values()), abs=1e-6)


# --- metrics ----------------------------------------------------------------------------------------------------------


@each("name", NAMES)
def test_the_figures_of_the_mismatch_are_verls(name: str) -> None:
    tokens, metrics = tokens_of(VERL["batches"][name]), VERL["presets"]["disabled"][name]["metrics"]
    ratio, live = tokens.log_ratio, tokens.live
    mean = np.asarray(log_ratios.aggregate(ratio, live, Aggregate.MEAN))
    mine = {
        "kl": log_ratios.masked_mean(log_ratios.k1(ratio), live),
        "k3_kl": log_ratios.masked_mean(log_ratios.k3(ratio), live),
        "chi2_token": log_ratios.chi_square(ratio, live),
        "chi2_seq": log_ratios.chi_square(ratio, live, Aggregate.SUM),
        "log_ppl_diff": -mean.mean(),
        "ppl_ratio": log_ratios.perplexity_ratio(ratio, live),
    }
    for key, value in mine.items():
        assert float(value) == pytest.approx(metrics[key], rel=1e-6, abs=1e-8), key


@each("name", NAMES)
def test_the_figures_of_weights_are_verls(name: str) -> None:
    batch = VERL["batches"][name]
    for preset, correction in (("decoupled_token_is", TIS), ("decoupled_token_icepop", get("icepop"))):
        metrics = VERL["presets"][preset][name]["metrics"]
        accept, weight, live = ours(correction, tokens_of(batch))
        applied = (accept * weight)[live]
        for key, value in (("mean", applied.mean()), ("max", applied.max()), ("min", applied.min())):
            assert value == pytest.approx(metrics[f"rollout_is_{key}"], rel=1e-6), key
        ess = float(log_ratios.effective_sample_size(accept * weight, live))
        assert ess == pytest.approx(metrics["rollout_is_eff_sample_size"], rel=1e-6)


@each("name", NAMES)
def test_shares_of_rejected_tokens_and_sequences_are_verls(name: str) -> None:
    batch = VERL["batches"][name]
    for option, values in VERL["corrections"].items():
        if "rollout_rs_masked_fraction" not in values[name]["metrics"]:
            continue
        accept, _, live = ours(CORRECTIONS[option], tokens_of(batch))
        assert 1 - accept[live].mean() == pytest.approx(values[name]["metrics"]["rollout_rs_masked_fraction"], abs=1e-6)
        hit = ((accept == 0) & live).any(-1).mean()
        assert hit == pytest.approx(values[name]["metrics"]["rollout_rs_seq_masked_fraction"], abs=1e-6)


# --- deviations -------------------------------------------------------------------------------------------------------


def test_deviation_verl_clamps_every_log_ratio_to_20() -> None:
    batch = VERL["batches"][CLAMPED]
    for preset in ("decoupled_token_is", "decoupled_token_icepop"):
        expected = np.array(VERL["presets"][preset][CLAMPED]["weights"])
        for clamp, same in ((SAFETY, True), (np.inf, preset == "decoupled_token_icepop")):
            accept, weight, _ = ours(get(f"verl:{preset}"), tokens_of(batch, clamp=clamp))
            assert np.allclose(accept * weight, expected, rtol=1e-9, atol=0) == same, (preset, clamp)
    assert np.max(np.abs(tokens_of(batch).log_ratio)) > SAFETY


def test_deviation_verl_clamps_the_tokens_of_a_sequences_mask_and_the_sum_of_its_weight() -> None:
    batch = VERL["batches"][CLAMPED]
    clamped, plain = tokens_of(batch, clamp=SAFETY), tokens_of(batch)
    correction = get("sequence-mask-k2", bound=0.4, aggregate="sum")
    np.testing.assert_array_equal(ours(correction, clamped)[0], VERL["corrections"]["seq_sum_k2"][CLAMPED]["mask"])
    total = np.asarray(log_ratios.aggregate(plain.log_ratio, plain.live, Aggregate.SUM))
    expected = np.minimum(np.exp(np.clip(total, -SAFETY, SAFETY)), 2.0)
    found = np.array(VERL["presets"]["decoupled_seq_is"][CLAMPED]["weights"])
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-9)
