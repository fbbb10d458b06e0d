"""The part that integrations share: settings by name, the same loss without logits, uniforms by a hash, figures."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats

from jackpot_sim import estimators
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.integrations import corrected
from jackpot_sim.integrations.corrected import (
    Loss,
    Settings,
    agreement,
    correct,
    metrics,
    policy_loss,
    uniforms,
)
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.training.objective import Aggregation, Divisor, TokenPass, ppo_loss, token_shares
from tests.cases import each
from tests.integrations.parity import CENTRED, CORRECTIONS, Case, OnTheBatchsDevice, assert_equal, case

MASK = torch.ones(400, 50, dtype=torch.bool)
LOG_PROBS = -torch.rand(400, 50, generator=torch.Generator().manual_seed(0))


def new_of(batch: Case) -> TokenPass:
    return TokenPass(batch.new_log_probs(), batch.new_on_topk())


@each("aggregation", list(Aggregation))
@pytest.mark.parametrize("divisor", list(Divisor))
@pytest.mark.parametrize("topk", [False, True], ids=["batch", "topk"])
@each("name", CORRECTIONS)
def test_the_loss_without_logits_is_the_projects_own(
    name: str, topk: bool, divisor: Divisor, aggregation: Aggregation
) -> None:
    batch, loss = case(CORRECTIONS[name], topk=topk, divisor=divisor), Loss(aggregation)
    found, _ = policy_loss(batch.settings, batch.given, new_of(batch), loss)
    assert_equal((found, batch.gradient(found)), batch.own(loss))


def test_a_centred_loss_without_logits_is_the_projects_own() -> None:
    batch = case(CENTRED, topk=True)
    found, _ = policy_loss(batch.settings, batch.given, new_of(batch), Loss())
    assert_equal((found, batch.gradient(found)), batch.own(Loss()))
    with pytest.raises(ValueError, match="no factor on a token's loss"):
        correct(batch.settings, batch.given, new_of(batch))


@pytest.mark.parametrize("topk", [False, True], ids=["batch", "topk"])
@each("name", CORRECTIONS)
def test_the_factor_on_the_trainers_loss_makes_the_same_loss(name: str, topk: bool) -> None:
    batch, loss = case(CORRECTIONS[name], topk=topk, divisor="accepted"), Loss(Aggregation.SEQUENCE_MEAN)
    factor = correct(batch.settings, batch.given, new_of(batch)).factor
    shares = token_shares(batch.mask, loss.aggregation) * factor
    given = batch.given
    found = ppo_loss(shares, batch.new_log_probs(), given.reference_log_probs, given.advantage, given.mask, loss)
    assert_equal((found, batch.gradient(found)), batch.own(loss))


def test_advantages_of_tokens_are_those_of_their_sequence_repeated() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=True)
    wide = dataclasses.replace(batch.given, advantage=batch.advantage[:, None].expand(batch.mask.shape))
    found, _ = policy_loss(batch.settings, wide, new_of(batch), Loss())
    assert_equal((found, batch.gradient(found)), batch.own(Loss()))


def test_without_a_topk_the_overlap_is_the_batchs_mean_acceptance() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    found = correct(batch.settings, batch.given, new_of(batch))
    log_ratio = (batch.given.reference_log_probs - batch.given.actor_log_probs)[batch.mask].double()
    mean = float(log_ratio.exp().clamp(max=1).mean())
    assert found.tokens.overlap is not None
    assert torch.allclose(torch.as_tensor(found.tokens.overlap)[batch.mask], torch.tensor(mean, dtype=torch.float64))
    with pytest.raises(ValueError, match="hold no top-k"):
        correct(batch.settings, dataclasses.replace(batch.given, overlap_of_batch=False), new_of(batch))


# ------------------------------------------------------------------- settings


def test_a_name_a_preset_a_mapping_a_text_and_objects_are_settings() -> None:
    jackpot = estimators.get("jackpot", c1=3.0)
    expected = Settings(jackpot, divisor=Divisor.ACCEPTED, topk=5)
    text = "{kind: jackpot, c1: 3, divisor: accepted, topk: 5}"
    mapping = {"kind": "jackpot", "c1": 3, "divisor": "accepted"}
    assert Settings.of(text) == Settings.of(mapping, topk=5) == Settings.of(expected) == expected
    assert Settings.of(jackpot, divisor="accepted", topk=5) == expected
    assert Settings.of({"topk": 9} | mapping, topk=5) == expected
    assert Settings.of(EstimatorSpec(kind="jackpot", parameters={"c1": 3.0}), divisor="accepted", topk=5) == expected
    assert Settings.of("verl:decoupled_token_is").correction == estimators.get("verl:decoupled_token_is")
    assert Settings.of("{kind: jackpot, target: p_new}").target is UpdateTarget.POLICY


@pytest.mark.parametrize("given", [None, 3, ["tis"], b"tis", type(estimators.get("tis")), Settings, estimators.get])
def test_what_is_no_correction_is_told_what_one_is(given: Any) -> None:
    named = "TruncatedImportanceSampling|Settings" if isinstance(given, type) else ""
    with pytest.raises(TypeError, match=rf"^the correction is .*({named}).*: give a name \(jackpot\), a preset"):
        Settings.of(given)


def test_a_line_of_yaml_is_a_mapping_without_braces_too() -> None:
    assert Settings.of("kind: jackpot") == Settings.of("jackpot")


@pytest.mark.parametrize("bad", [0.7, float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["actor", "reference", "new"])
def test_what_is_no_log_prob_is_refused_by_its_name(side: str, bad: float) -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    given, new = batch.given, new_of(batch).log_probs.detach().clone()
    fields = {"actor": given.actor_log_probs, "reference": given.reference_log_probs, "new": new}
    fields = {name: each.clone() for name, each in fields.items()}
    fields[side][2, 1] = bad
    name = {"actor": "the_engines", "reference": "log p_ref, .*", "new": "log p_new, .*"}[side]
    sentence = f"^{name} holds {bad:g} at token 1 of row 2: log-probs are logarithms of probabilities, at most 0"
    proposed = dataclasses.replace(given, reference_log_probs=fields["reference"])
    if side == "actor":
        with pytest.raises(ValueError, match=sentence):
            uniforms(fields["actor"], batch.mask, name="the_engines")
        return
    with pytest.raises(ValueError, match=sentence):
        correct(batch.settings, proposed, TokenPass(fields["new"]))
    with pytest.raises(ValueError, match=sentence):
        policy_loss(batch.settings, proposed, TokenPass(fields["new"]), Loss())


def test_a_token_that_the_policy_cannot_write_has_no_weight_and_the_actor_wrote_none_such() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    impossible = batch.given.reference_log_probs.clone()
    impossible[2, 1] = -torch.inf
    given = dataclasses.replace(batch.given, reference_log_probs=impossible)
    assert correct(batch.settings, given, new_of(batch)).factor[2, 1] == 0
    with pytest.raises(
        ValueError, match=r"holds -inf at token 1 of row 2: .*, and finite for a token that was written"
    ):
        uniforms(impossible, batch.mask)
    padded = LOG_PROBS.clone()
    padded[:, -1] = 5.0
    mask = MASK.clone()
    mask[:, -1] = False
    uniforms(padded, mask)


def test_a_preset_brings_its_denominator() -> None:
    found = {each.denominator: name for name, each in estimators.presets().items() if each.parts}
    for denominator, name in found.items():
        assert Settings.of(name).divisor is Divisor.of(denominator)
    assert len(found) > 1


@pytest.mark.parametrize(
    ("correction", "own", "sentence"),
    [
        ("jackpott", {}, "did you mean 'jackpot'"),
        ("{kind: jackpot, c1: x}", {}, "c1 must be a number"),
        ("{kind: jackpot, c9: 1}", {}, "no parameter 'c9'"),
        ("{kind: [", {}, "is no YAML"),
        ("{kind: jackpot, divisor: none}", {}, "divisor 'none' is none of proposed"),
        ("{kind: jackpot, acceptance_rate: 0.9}", {}, "give lam"),
        ("{c1: 3}", {}, "no kind: write {kind: jackpot"),
        ("jackpot", {"topk": -1}, "topk must be at least 0"),
        ("jackpot", {"topk": 2.5}, "topk must be a whole number"),
        ("jackpot", {"tok": 1}, "no setting tok"),
        ("{kind: tis, target: p_new}", {}, "p_new"),
    ],
)
def test_wrong_settings_are_one_sentence(correction: str, own: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        Settings.of(correction, **own)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------- uniforms


def test_uniforms_are_uniform_and_independent() -> None:
    found = uniforms(LOG_PROBS, MASK)
    assert stats.kstest(found.flatten().numpy(), "uniform").pvalue > 1e-3
    assert (
        found * 2.0**53 % 2 == 1
    ).any()  # of 53 bits: rounded to those of float32 one may be 1, and reject a sure token
    pairs = [(found[:, 1:], found[:, :-1]), (found, LOG_PROBS), (found, uniforms(LOG_PROBS, MASK, 1))]
    for first, second in pairs:
        both = torch.stack([first.flatten().double(), second.flatten().double()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / first.numel() ** 0.5


def test_rollouts_with_the_same_beginning_have_other_uniforms() -> None:
    changed = LOG_PROBS.clone()
    changed[:, -1] -= 0.25
    assert not (uniforms(changed, MASK) == uniforms(LOG_PROBS, MASK)).any()


def test_equal_rollouts_of_a_batch_have_uniforms_of_their_own() -> None:
    """A group whose answers are the same short word would else be kept or rejected as one."""
    rows = torch.tensor([5, 3, 5, 5, 3, 9])
    found = uniforms(LOG_PROBS[rows], MASK[rows], seed=4)
    assert torch.equal(found[[0, 1, 5]], uniforms(LOG_PROBS[[5, 3, 9]], MASK[:3], seed=4))
    assert found.unique().numel() == found.numel()
    same = uniforms(LOG_PROBS[:1].expand(400, 50), MASK)
    assert stats.kstest(same.flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(same.T).triu(1).sum())) / (50 * 49 / 2) < 4 / (400 * 50 * 49 / 2) ** 0.5


def test_uniforms_know_no_padding_no_packing_and_no_random_state() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mask = torch.zeros(400, 60, dtype=torch.bool)
    mask[:, 7:57] = True
    padded = torch.full((400, 60), -9.0).masked_scatter(mask, LOG_PROBS)
    found = uniforms(padded, mask)[:, 7:57]
    assert torch.equal(found, uniforms(LOG_PROBS, MASK))
    assert torch.equal(found[17:19], uniforms(LOG_PROBS[17:19], MASK[17:19]))
    assert torch.equal(before, torch.get_rng_state())


def test_a_device_without_float64_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    corrected.require_float64(torch.device("cuda"))
    with pytest.raises(ValueError, match=r"in float64, which mps has not: train on a CPU \(use_cpu=True in TRL\)"):
        corrected.require_float64(torch.device("mps"))
    asked = []
    monkeypatch.setattr(corrected, "require_float64", asked.append)
    uniforms(LOG_PROBS, MASK)
    assert asked == [torch.device("cpu")]


# ------------------------------------------------------------------- figures


def test_metrics_are_raw_and_count_tokens_alone() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=True, divisor="accepted")
    found = correct(batch.settings, batch.given, new_of(batch))
    figures = metrics(found, batch.given)
    ratio = (batch.given.reference_log_probs - batch.given.actor_log_probs)[batch.mask].double().exp()
    assert figures["ratio/max"] == pytest.approx(float(ratio.max()))
    assert figures["ratio/max"] > 1.2
    assert figures["masked_share"] == pytest.approx(1 - float(found.accepted[batch.mask].double().mean()))
    weight = found.factor[batch.mask].double()
    assert figures["ess"] == pytest.approx(float(weight.mean() ** 2 / (weight**2).mean()))
    assert figures["weight/mean"] == pytest.approx(float(weight.mean()))
    assert figures["weight/max"] == pytest.approx(float(weight.max()))
    assert figures["kl"] == pytest.approx(float((ratio - 1 - ratio.log()).mean()))
    overlap = torch.as_tensor(found.tokens.overlap)[batch.mask]
    for name, share in (("p05", 0.05), ("p50", 0.5)):
        below = torch.quantile(overlap, share, interpolation="lower")
        assert figures[f"overlap/{name}"] == pytest.approx(float(below))
    with pytest.raises(ValueError, match="no token in its mask"):
        metrics(found, dataclasses.replace(batch.given, mask=torch.zeros_like(batch.mask)))


def test_a_batch_of_which_every_token_is_rejected_has_a_loss_of_zero_and_numbers_as_figures() -> None:
    """So it is with any short rollout that a mask of sequences rejects, where a loss sees one at a time."""
    batch = case({"kind": "sequence-mis", "low": 10.0, "high": 11.0}, topk=False, divisor="accepted")
    loss, found = policy_loss(batch.settings, batch.given, new_of(batch), Loss())
    assert float(loss.detach()) == 0
    assert not batch.gradient(loss).any()
    figures = metrics(found, batch.given)
    assert figures["ess"] == 0
    assert all(math.isfinite(value) for value in figures.values())


@each("name", CORRECTIONS)
def test_agreement_has_the_figures_of_a_batch_on_which_both_policies_agree(name: str) -> None:
    batch = case(CORRECTIONS[name], topk=False)
    agreed = dataclasses.replace(batch, before=batch.actor, logits=batch.actor.clone().requires_grad_())
    found = metrics(correct(agreed.settings, agreed.given, new_of(agreed)), agreed.given)
    assert list(found) == list(agreement(batch.settings))
    assert found == pytest.approx(agreement(batch.settings), abs=1e-6)


@each("divisor", list(Divisor))
@each("name", ["tis", "sequence-mis", "jackpot"])
def test_a_rollout_without_a_token_changes_nothing(name: str, divisor: Divisor) -> None:
    batch = case(CORRECTIONS[name], topk=False, divisor=divisor)
    rows = torch.tensor([0, 0, 1])
    mask = batch.given.mask[rows].clone()
    mask[1] = False
    with_empty = dataclasses.replace(batch.given.take(rows), mask=mask)
    found = correct(batch.settings, with_empty, TokenPass(batch.new_log_probs()[rows]))
    without = correct(batch.settings, batch.given.take(rows[1:]), TokenPass(batch.new_log_probs()[rows[1:]]))
    assert found.divisor == pytest.approx(without.divisor)
    assert torch.allclose(found.factor[[0, 2]], without.factor)


@pytest.mark.parametrize("topk", [False, True], ids=["batch", "topk"])
@each("name", CORRECTIONS)
def test_loss_and_figures_stay_on_the_batchs_device(name: str, topk: bool) -> None:
    batch = case(CORRECTIONS[name], topk=topk, divisor="accepted")
    new, settings = new_of(batch), batch.settings
    log_probs, mask, proposed = batch.given.actor_log_probs, batch.given.mask, batch.given
    with OnTheBatchsDevice() as made:
        uniforms(log_probs, mask)
        _, found = policy_loss(settings, proposed, new, Loss())
        metrics(found, proposed)
        metrics(correct(settings, proposed, new), proposed)
    assert made.on
    assert made.apart == []


def test_log_ratios_of_coarse_log_probs_are_their_exact_differences() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    # Numbers of one size have an exact difference in bf16 too; these are not of one size.
    actor = (batch.given.actor_log_probs / 100).bfloat16()
    low = {"actor_log_probs": actor, "reference_log_probs": batch.given.reference_log_probs.bfloat16()}
    found = correct(batch.settings, dataclasses.replace(batch.given, **low), new_of(batch)).tokens.log_ratio
    exact = low["reference_log_probs"].double() - low["actor_log_probs"].double()
    mask = batch.given.mask
    assert torch.equal(torch.as_tensor(found)[mask], exact[mask])
