"""The hooks of slime and miles, against stand-ins of their losses and reducers; the real files are for `real_files`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from jackpot_sim.integrations import miles, slime
from jackpot_sim.training.objective import Divisor
from tests.cases import each
from tests.integrations.packed_batches import (
    AT_REFERENCE,
    PROMPT,
    REDUCTIONS,
    Packed,
    expected,
    on_policy,
    with_observations,
)
from tests.integrations.parity import CENTRED, CORRECTIONS, VOCAB, OnTheBatchsDevice, assert_equal, case

TRAINERS = {"slime": slime, "miles": miles}


def responses(
    logits: Tensor, *, args: Any, unconcat_tokens: Any, total_lengths: Any, response_lengths: Any, **_: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """The trainers' way from packed logits to responses."""
    end = 0
    for tokens, total, response in zip(unconcat_tokens, total_lengths, response_lengths, strict=True):
        end += total
        yield logits[0, end - response - 1 : end - 1], tokens[-response:]


def scored(logits: Tensor, **named: Any) -> dict[str, list[Tensor]]:
    found = responses(logits, **named)
    return {"log_probs": [each.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0] for each, ids in found]}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {
        "slime.backends.megatron_utils.loss": {
            "get_rollout_top_p_logprob_kwargs": lambda args, batch: {"replayed": batch["response_lengths"]},
            "get_log_probs_and_entropy": lambda logits, *, replayed, **named: (replayed, scored(logits, **named)),
            "get_responses": responses,
        },
        "miles.backends.training_utils.loss_hub.logit_processors": {
            "get_log_probs_and_entropy": lambda logits, *, max_seq_lens, **named: scored(logits, **named),
            "get_responses": lambda logits, *, max_seq_lens, **named: responses(logits, **named),
        },
    }
    for name, functions in theirs.items():
        module = types.ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)


# ------------------------------------------------------------------- the TIS function


@each("trainer", TRAINERS)
@each("reduction", REDUCTIONS)
@pytest.mark.parametrize("divisor", list(Divisor))
@each("name", AT_REFERENCE)
def test_a_corrected_term_is_the_projects_own(name: str, divisor: Divisor, reduction: str, trainer: str) -> None:
    packed = Packed(case(CORRECTIONS[name], topk=False, divisor=divisor))
    term, masks, _ = packed.tis(TRAINERS[trainer])
    assert all(torch.equal(*pair) for pair in zip(masks, packed.masks, strict=True))
    loss = packed.reducer(reduction)(term) / packed.count(reduction)
    assert_equal((loss, packed.batch.gradient(loss)), expected(packed, reduction))


@pytest.mark.usefixtures("stand_ins")
@each("name", AT_REFERENCE)
def test_tokens_that_no_policy_wrote_have_no_part(name: str) -> None:
    packed = Packed(with_observations(case(CORRECTIONS[name], topk=False, divisor="accepted")))
    term = packed.tis(slime)[0]
    for loss in (packed.reducer("tokens")(term), packed.custom(slime, "tokens")[0]):
        found = loss / packed.count("tokens")
        assert_equal((found, packed.batch.gradient(found)), expected(packed, "tokens"))


@each("trainer", TRAINERS)
def test_the_signature_is_the_one_documented(trainer: str) -> None:
    parameters = inspect.signature(TRAINERS[trainer].tis_function).parameters
    named = ["pg_loss", "train_log_probs", "rollout_log_probs", "loss_masks", "total_lengths", "response_lengths"]
    assert list(parameters)[:7] == ["args", *named]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in named)
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    assert list(inspect.signature(TRAINERS[trainer].custom_loss).parameters) == [
        *("args", "batch", "logits", "sum_of_sample_mean")
    ]


def test_figures_are_numbers_of_tokens_whose_mean_is_the_figure() -> None:
    packed = Packed(case(CORRECTIONS["jackpot"], topk=False))
    term, _, figures = packed.tis(slime)
    assert all(each.shape == term.shape and not each.requires_grad for each in figures.values())
    ratio = (packed.batch.given.reference_log_probs - packed.batch.given.actor_log_probs)[packed.batch.mask].exp()
    mean = packed.reducer("samples")(figures["jackpot_sim/ratio/max"]) / packed.count("samples")
    assert float(mean) == pytest.approx(float(ratio.max()))
    assert "jackpot_sim/overlap/p05" in figures


def test_figures_alone_leave_the_loss_as_it_is() -> None:
    packed = Packed(case(CORRECTIONS["jackpot"], topk=False))
    args = packed.arguments()
    args.use_tis = False
    term, _, figures = packed.tis(slime, args=args)
    assert torch.equal(term, packed.term)
    assert list(figures) == list(packed.tis(slime)[2])


def test_a_microbatch_without_tokens_has_the_same_figures_in_the_same_order() -> None:
    packed = Packed(case(CORRECTIONS["jackpot"], topk=False))
    term, _, figures = packed.tis(slime, loss_masks=[torch.zeros_like(each) for each in packed.masks])
    assert torch.equal(term, packed.term)
    assert list(figures) == list(packed.tis(slime)[2])


def test_a_rejected_token_may_have_an_infinite_loss() -> None:
    packed = Packed(case({"kind": "icepop", "low": 0.9, "high": 1.1}, topk=False))
    rejected = (packed.tis(slime)[0] == 0) & (packed.term != 0)
    assert rejected.any()
    assert torch.isfinite(packed.tis(slime, pg_loss=packed.term.masked_fill(rejected, torch.inf))[0]).all()


@each("trainer", TRAINERS)
@each("name", ["jackpot", "sequence-mis"])
def test_processes_that_share_a_sequence_correct_it_as_a_whole(
    name: str, trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gather and the slice are stand-ins: each of two processes holds one half of each response."""
    packed = Packed(case(CORRECTIONS[name], topk=False))
    held: dict[int, Tensor] = {}

    def half(row: Tensor, rank: int) -> Tensor:
        middle = len(row) // 2
        part = row[middle:] if rank else row[:middle]
        held[id(part)] = row
        return part

    home = {"slime": "slime.backends.megatron_utils", "miles": "miles.backends.training_utils"}[trainer]
    module = types.ModuleType(f"{home}.cp_utils")
    behind: tuple[object, ...] = ("thd", None) if trainer == "miles" else ()

    def checked(row: Tensor, total: int, response: int, *more: object) -> Tensor:
        assert (total, response, more) == (PROMPT + len(row), len(row), behind)
        return row

    vars(module)["all_gather_with_cp"] = lambda part, *told: checked(held[id(part)], *told)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    terms = packed.term.split(packed.lengths)
    found = []
    for rank in (0, 1):
        vars(module)["slice_log_prob_with_cp"] = lambda row, *told, rank=rank: half(checked(row, *told), rank)
        laws = {
            "train_log_probs": [half(row, rank) for row in packed.at_tokens(packed.batch.before)],
            "rollout_log_probs": [half(row, rank) for row in packed.at_tokens(packed.batch.actor)],
        }
        mine = [half(row, rank) for row in terms]
        args = packed.arguments(context_parallel_size=2)
        term, _, figures = packed.tis(TRAINERS[trainer], args=args, pg_loss=torch.cat(mine), **laws)
        found.append(term.split([len(each) for each in mine]))
        assert all(bool((each == each[0]).all()) for each in figures.values())
    whole = torch.cat([torch.cat(pair) for pair in zip(*found, strict=True)])
    assert torch.equal(whole, packed.tis(TRAINERS[trainer])[0])


# ------------------------------------------------------------------- the custom loss


@pytest.mark.usefixtures("stand_ins")
@each("trainer", TRAINERS)
@each("reduction", REDUCTIONS)
@pytest.mark.parametrize("topk", [False, True], ids=["batch", "topk"])
@each("name", CORRECTIONS)
def test_a_custom_loss_is_the_projects_own(name: str, topk: bool, reduction: str, trainer: str) -> None:
    batch = case(CORRECTIONS[name], topk=topk, divisor="accepted")
    stored: dict[str, Any] = {}
    if topk and name in AT_REFERENCE:
        batch = on_policy(batch)
        stored = {"log_probs": None}
    packed = Packed(batch)
    if topk:
        stored |= packed.stored()
    loss, figures = packed.custom(TRAINERS[trainer], reduction, **stored)
    found = loss / packed.count(reduction)
    assert_equal((found, batch.gradient(found)), expected(packed, reduction))
    assert float(figures["loss"]) == float(loss.detach())
    assert all(each.shape == () and not each.requires_grad for each in figures.values())


@pytest.mark.usefixtures("stand_ins")
@each("trainer", TRAINERS)
@each("reduction", REDUCTIONS)
def test_a_centred_custom_loss_is_the_projects_own(reduction: str, trainer: str) -> None:
    packed = Packed(on_policy(case(CENTRED, topk=True)))
    loss, _ = packed.custom(TRAINERS[trainer], reduction, log_probs=None, **packed.stored())
    found = loss / packed.count(reduction)
    assert_equal((found, packed.batch.gradient(found)), expected(packed, reduction))


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("unused", [-1, 0])
@each("correction", [CORRECTIONS["jackpot"], CENTRED])
def test_unused_places_behind_a_whole_law_change_nothing(correction: Any, unused: int) -> None:
    packed = Packed(on_policy(case(dict(correction), topk=True)))
    whole, more = (dataclasses.replace(packed.batch.settings, topk=k) for k in (VOCAB, VOCAB + 2))
    packed, wider = (Packed(dataclasses.replace(packed.batch, settings=each)) for each in (whole, more))
    stored = packed.stored()
    beside = {
        name: [torch.cat([row, row.new_full((len(row), 2), filler)], -1) for row in stored[name]]
        for name, filler in (("rollout_topk_token_ids", unused), ("rollout_topk_log_probs", -torch.inf))
    }
    losses = [each.custom(slime, log_probs=None, **held)[0] for each, held in ((packed, stored), (wider, beside))]
    gradients = [packed.batch.gradient(loss) for loss in losses]
    assert torch.allclose(*losses)
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.usefixtures("stand_ins")
def test_as_many_of_the_stored_tokens_are_used_as_asked_for() -> None:
    packed = Packed(on_policy(case(CORRECTIONS["jackpot"], topk=True)))
    fewer = Packed(dataclasses.replace(packed.batch, settings=dataclasses.replace(packed.batch.settings, topk=3)))
    loss, figures = fewer.custom(slime, log_probs=None, **packed.stored())
    assert_equal(
        (loss / fewer.count("samples"), fewer.batch.gradient(loss) / fewer.count("samples")), expected(fewer, "samples")
    )
    assert (
        figures["jackpot_sim/overlap/p05"]
        != packed.custom(slime, log_probs=None, **packed.stored())[1]["jackpot_sim/overlap/p05"]
    )


@pytest.mark.usefixtures("stand_ins")
@each(
    "change, sentence",
    [
        (lambda ids: ids + VOCAB, f"rollout_topk_token_ids must be below {VOCAB}, the policy's vocabulary"),
        (lambda ids: ids.float(), "rollout_topk_token_ids must hold integers"),
        (lambda ids: ids[:, :-1], r"rollout_topk_log_probs has shape \(\d+, 8\)"),
        (lambda ids: ids[0], "rollout_topk_token_ids has shape"),
    ],
)
def test_a_topk_of_another_vocabulary_or_shape_is_refused(change: Any, sentence: str) -> None:
    packed = Packed(on_policy(case(CORRECTIONS["jackpot"], topk=True)))
    stored = packed.stored()
    stored["rollout_topk_token_ids"] = [change(each) for each in stored["rollout_topk_token_ids"]]
    with pytest.raises((TypeError, ValueError), match=sentence):
        packed.custom(slime, log_probs=None, **stored)


@pytest.mark.usefixtures("stand_ins")
def test_logits_of_low_precision_are_normalised_in_float32() -> None:
    """Against the same logits, rounded, in float32: miles hands over bfloat16 ones."""
    packed = Packed(case(CORRECTIONS["jackpot at p_new"], topk=True))
    args, fields = packed.arguments(), packed.fields(**packed.stored())
    args.use_tis, low = False, packed.logits.detach().bfloat16()
    topk = [
        miles.custom_loss(args, fields, each, packed.reducer("samples"))[1]["jackpot_sim/overlap/p05"]
        for each in (low, low.float())
    ]
    assert float(topk[0]) == pytest.approx(float(topk[1]), rel=1e-6)


@pytest.mark.usefixtures("stand_ins")
def test_a_custom_loss_without_tokens_is_zero_and_goes_backward() -> None:
    packed = Packed(case(CORRECTIONS["jackpot"], topk=False))
    loss, figures = packed.custom(slime, loss_masks=[torch.zeros_like(each) for each in packed.masks])
    assert not packed.batch.gradient(loss).any()
    assert list(figures) == list(packed.custom(slime)[1])


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("correction", "sentence"),
    [
        (None, "write jackpot_sim: jackpot into a YAML file for --custom-config-path"),
        ("jackpott", "did you mean 'jackpot'"),
        (CORRECTIONS["jackpot at p_new"], "does not see p_new, which jackpot needs here"),
        ("ppo-clip", "does not see the advantages"),
        (CENTRED, "use the trainer's custom loss"),
    ],
)
def test_what_the_tis_function_cannot_do_is_one_sentence(correction: Any, sentence: str) -> None:
    packed = Packed(case(CORRECTIONS["tis"], topk=False))
    args = packed.arguments()
    args.jackpot_sim = correction
    with pytest.raises(ValueError, match=sentence):
        packed.tis(slime, args=args)


@pytest.mark.parametrize("name", ["train_log_probs", "rollout_log_probs"])
def test_missing_log_probs_are_named(name: str) -> None:
    told = {"train_log_probs": "no log_probs", "rollout_log_probs": r"stores them in Sample\.rollout_log_probs"}[name]
    with pytest.raises(ValueError, match=told):
        Packed(case(CORRECTIONS["tis"], topk=False)).tis(miles, **{name: None})


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"entropy_coef": 0.01}, "--entropy-coef has no part"),
        ({"use_kl_loss": True}, "--use-kl-loss has no part"),
        ({"use_tis": True}, "--use-tis has no part"),
        ({"advantage_estimator": "gspo"}, "--advantage-estimator gspo or cispo has no part"),
        ({"context_parallel_size": 2}, "--context-parallel-size 1"),
        ({"tensor_model_parallel_size": 2}, "topk: 0"),
        ({}, "no log-probs of p_ref for the actor's top-k"),
    ],
)
def test_what_a_custom_loss_would_ignore_is_one_sentence(own: dict[str, Any], sentence: str) -> None:
    packed = Packed(case(CORRECTIONS["jackpot"], topk=True))
    args = packed.arguments()
    vars(args).update({"use_tis": False, "entropy_coef": 0.0, "advantage_estimator": "grpo"} | own)
    with pytest.raises(ValueError, match=sentence):
        slime.custom_loss(args, packed.fields(**packed.stored()), packed.logits, packed.reducer("samples"))


@pytest.mark.usefixtures("stand_ins")
@each("correction", [CENTRED, {"kind": "jackpot", "centred": True, "target": "p_new"}])
def test_a_centred_custom_loss_needs_p_ref_on_the_topk(correction: Any) -> None:
    packed = Packed(case(dict(correction), topk=True))
    with pytest.raises(ValueError, match="if the correction is centred, pass --use-rollout-logprobs"):
        packed.custom(slime, **packed.stored())


def test_masks_are_the_same_in_each_epoch() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    moved = dataclasses.replace(batch, logits=(batch.logits + torch.randn_like(batch.logits)).detach())
    rejected, later = (Packed(each).tis(slime)[0] == 0 for each in (batch, moved))
    assert torch.equal(rejected, later)
    assert bool(rejected[torch.cat(Packed(batch).masks) > 0].any())


@pytest.mark.usefixtures("stand_ins")
def test_nothing_is_made_apart_from_the_batchs_device() -> None:
    packed = Packed(on_policy(case(CENTRED, topk=True)))
    args, fields, logits = packed.arguments(), packed.fields(log_probs=None, **packed.stored()), packed.logits
    reduced, args.use_tis, term = packed.reducer("samples"), False, Packed(case(CORRECTIONS["jackpot"], topk=False))
    assert term.batch.given.mask.any()
    with OnTheBatchsDevice() as made:
        miles.custom_loss(args, fields, logits, reduced)
        term.tis(miles)
    assert made.on
    assert made.apart == []
