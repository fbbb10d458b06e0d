"""verl's hooks with our corrections: on stand-ins where verl is not installed, and else on verl itself."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jackpot_sim import estimators, requirements
from jackpot_sim.estimators.corrections.correction import is_ours
from jackpot_sim.estimators.corrections.registry import registered
from jackpot_sim.integrations.corrected import Loss, Settings
from jackpot_sim.integrations.verl import batches, losses, names, plugin
from jackpot_sim.integrations.verl.options import prepare
from jackpot_sim.training.objective import Aggregation
from tests.cases import each
from tests.integrations import verl_stand_ins
from tests.integrations.parity import CENTRED, CORRECTIONS, LENGTH, ROWS, Case, assert_equal, case

ASKED: list[tuple[str, ...]] = []
"""The packages whose versions were asked about, where verl is stood in for."""
REQUIRE_TESTED = requirements.require_tested
REAL = importlib.util.find_spec("verl") is not None
HELPER, STEP = "verl.trainer.ppo.rollout_corr_helper", "compute_rollout_correction_and_add_to_batch"

MODES = {
    "token-mean": (Aggregation.TOKEN_MEAN, Aggregation.TOKEN_MEAN, "accepted"),
    "seq-mean-token-sum": (Aggregation.SEQUENCE_SUM, Aggregation.SEQUENCE_SUM, "proposed"),
    "seq-mean-token-sum-norm": (Aggregation.SEQUENCE_SUM, Aggregation.SEQUENCE_SUM, "proposed"),
    "seq-mean-token-mean": (Aggregation.SEQUENCE_MEAN, Aggregation.KEPT_MEAN, "proposed"),
}
"""verl's modes: our aggregation; and with the rejected tokens out of the mask, our aggregation and divisor."""
OF_A_BATCH = [name for name in CORRECTIONS if name != "jackpot at p_new"]


@pytest.fixture(autouse=True)
def verl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """verl's modules, or what stands for them, with our plugin in them."""
    if not REAL:
        for path, module in verl_stand_ins.modules().items():
            monkeypatch.setitem(sys.modules, path, module)
        monkeypatch.setattr(requirements, "require_tested", lambda *names, purpose: ASKED.append(names))
    plugin.install()
    yield
    plugin.uninstall()


def core() -> Any:
    return importlib.import_module("verl.trainer.ppo.core_algos")


def actor_config(rollout_correction: dict[str, Any] | None = None, **changes: Any) -> Any:
    given = {} if rollout_correction is None else {"rollout_correction": rollout_correction}
    if not REAL:
        return verl_stand_ins.actor_config(given, **changes)
    from verl.workers.config.actor import ActorConfig, PolicyLossConfig

    return ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=PolicyLossConfig(**given),
        **changes,
    )


def verl_batch(batch: Case) -> Any:
    """The batch in verl's form."""
    given = batch.given
    fields = {
        "response_mask": batch.mask.long(),
        "old_log_probs": given.reference_log_probs,
        "rollout_log_probs": given.actor_log_probs,
    }
    if given.topk is not None:
        assert given.reference_on_topk is not None
        fields["rollout_topk_ids"] = torch.as_tensor(given.topk.ids)
        fields["rollout_topk_log_probs"] = torch.as_tensor(given.topk.log_probs)
        fields["old_topk_log_probs"] = given.reference_on_topk
    if not REAL:
        return SimpleNamespace(batch=fields)
    from verl import DataProto

    return DataProto.from_dict(tensors=fields)


def step(batch: Any, config: dict[str, Any]) -> tuple[Any, dict[str, float]]:
    """verl's step, as its trainers find it when they call it."""
    return getattr(importlib.import_module(HELPER), STEP)(batch, config)  # type: ignore[no-any-return]


def correction(name: str, **own: object) -> dict[str, object]:
    return dict(CORRECTIONS[name]) | {"topk": 8} | own


def with_divisor(batch: Case, divisor: str) -> Case:
    return dataclasses.replace(batch, settings=Settings.of(batch.settings, divisor=divisor))


def gradient(batch: Case, loss: Tensor) -> tuple[Tensor, Tensor]:
    return loss, batch.gradient(loss)


# --- Parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rejected", ["weight", "mask"])
@pytest.mark.parametrize("topk", [False, True], ids=["batch", "topk"])
@each("name, mode", [(n, m) for n in OF_A_BATCH for m in MODES])
def test_verls_own_loss_of_a_corrected_batch_is_the_projects(name: str, mode: str, topk: bool, rejected: str) -> None:
    batch = case(CORRECTIONS[name], topk=topk)
    data, _ = step(verl_batch(batch), {"correction": correction(name), "rejected": rejected})
    fields, config = data.batch, actor_config()
    config.global_batch_info.update(
        dp_size=1, batch_num_tokens=int(fields["response_mask"].sum()), global_batch_size=ROWS
    )
    loss, _ = core().compute_policy_loss_vanilla(
        old_log_prob=fields["old_log_probs"],
        log_prob=batch.new_log_probs(),
        advantages=batch.advantage[:, None].expand(ROWS, LENGTH),
        response_mask=fields["response_mask"].bool(),
        loss_agg_mode=mode,
        config=config,
        rollout_is_weights=fields["rollout_is_weights"],
    )
    whole, kept, divisor = MODES[mode]
    if rejected == "mask":
        batch = with_divisor(batch, divisor)
    scale = LENGTH if mode.endswith("norm") else 1
    assert_equal(gradient(batch, loss * scale), batch.own(Loss(whole if rejected == "weight" else kept)))


def test_rejected_tokens_leave_the_mask_or_weigh_nothing() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    weighed, figures = step(verl_batch(batch), {"correction": correction("jackpot")})
    masked, _ = step(verl_batch(batch), {"correction": correction("jackpot"), "rejected": "mask"})
    gone = batch.mask & (masked.batch["response_mask"] == 0)
    assert 0 < int(gone.sum()) < int(batch.mask.sum())
    assert torch.equal(weighed.batch["response_mask"], batch.mask.long())
    assert not bool(weighed.batch["rollout_is_weights"][gone].any())
    assert figures["rollout_corr/jackpot_sim/masked_share"] == pytest.approx(float(gone.sum() / batch.mask.sum()))


@each("name, mode", [(n, m) for n in CORRECTIONS for m in MODES])
def test_the_loss_in_bypass_mode_is_the_projects(name: str, mode: str) -> None:
    batch = case(CORRECTIONS[name], topk=False)
    loss, _ = bypass_loss(batch, {"correction": correction(name)}, mode=mode)
    scale = LENGTH if mode.endswith("norm") else 1
    assert_equal(gradient(batch, loss * scale), batch.own(Loss(MODES[mode][0], clip=None, bypass=True)))


@each("loss_type, clip", [("ppo_clip", 0.2), ("ppo_clip", 0.0), ("reinforce", None)])
def test_a_mask_in_bypass_mode_has_ppos_clip_around_it_unless_the_loss_is_reinforce(
    loss_type: str, clip: float | None
) -> None:
    fields = {"kind": "mask-k2", "bound": 0.05}
    batch = case(fields, topk=False)
    asked = {"correction": fields, "loss_type": loss_type}
    loss, _ = bypass_loss(batch, asked, clip_ratio_low=clip or 0.0, clip_ratio_high=0.3)
    assert_equal(gradient(batch, loss), batch.own(Loss(clip=clip, clip_high=0.3, bypass=True)))


def test_the_loss_is_divided_by_the_counts_of_the_whole_minibatch() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    asked, counts = {"correction": correction("tis")}, {"dp_size": 2, "batch_num_tokens": 100, "global_batch_size": 24}
    loss, _ = bypass_loss(batch, asked, counts=counts)
    whole, _ = bypass_loss(batch, asked)
    assert loss.item() == pytest.approx(whole.item() * int(batch.mask.sum()) / 100 * 2, rel=1e-6)


def bypass_loss(
    batch: Case,
    rollout_correction: dict[str, Any],
    *,
    mode: str = "token-mean",
    loss_mode: str = "jackpot_sim",
    counts: dict[str, int] | None = None,
    weights: Tensor | None = None,
    **changes: Any,
) -> tuple[Tensor, dict[str, float]]:
    config = actor_config({"bypass_mode": True} | rollout_correction, **changes)
    config.global_batch_info.update(counts or {})
    given = batch.given
    return core().get_policy_loss_fn(loss_mode)(  # type: ignore[no-any-return]
        old_log_prob=given.actor_log_probs,
        log_prob=batch.new_log_probs(),
        advantages=batch.advantage[:, None].expand(ROWS, LENGTH),
        response_mask=batch.mask,
        loss_agg_mode=mode,
        config=config,
        rollout_is_weights=weights,
    )


def test_every_correction_of_ours_has_a_loss_of_its_name() -> None:
    ours = {name for name in estimators.names() if is_ours(registered(name))}
    assert ours <= set(names.NAMED)
    assert all(is_ours(registered(name)) for name in names.NAMED)
    assert {f"jackpot_sim:{name}" for name in ours} < set(core().POLICY_LOSS_REGISTRY)


@each("name", names.NAMED)
def test_a_loss_by_name_needs_no_further_field(name: str) -> None:
    batch = case({"kind": name}, topk=False)
    by_name, figures = bypass_loss(batch, {}, loss_mode=f"jackpot_sim:{name}")
    by_field, _ = bypass_loss(batch, {"correction": name})
    assert torch.equal(by_name, by_field)
    assert all(key.startswith("rollout_corr/jackpot_sim/") for key in figures)


def test_the_log_says_where_the_overlap_is_from() -> None:
    for topk in (False, True):
        batch = case(CORRECTIONS["jackpot"], topk=topk)
        _, figures = step(verl_batch(batch), {"correction": correction("jackpot")})
        assert figures["rollout_corr/jackpot_sim/overlap/of_batch"] == float(not topk)
        assert figures["rollout_corr/kl"] == pytest.approx(
            float((batch.given.actor_log_probs - batch.given.reference_log_probs)[batch.mask].mean()), abs=1e-6
        )
    _, figures = step(verl_batch(case(CORRECTIONS["tis"], topk=False)), {"correction": "tis"})
    assert "rollout_corr/jackpot_sim/overlap/of_batch" not in figures


def test_the_likeliest_of_the_stored_tokens_are_used_in_any_order() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=True)
    asked = {"correction": correction("jackpot", topk=5)}
    data = verl_batch(batch)
    expected = step(verl_batch(batch), asked)[0].batch["rollout_is_weights"]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    for name in (batches.IDS, batches.LOG_PROBS_ON, batches.REFERENCE_ON):
        data.batch[name] = data.batch[name][..., order]
    torch.testing.assert_close(step(data, asked)[0].batch["rollout_is_weights"], expected)
    fewer = {"correction": correction("jackpot", topk=0)}
    assert not torch.equal(step(verl_batch(batch), fewer)[0].batch["rollout_is_weights"], expected)


def test_a_micro_batch_without_tokens_has_a_loss_of_zero_and_the_same_figures() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    counts = {"dp_size": 1, "batch_num_tokens": 30, "global_batch_size": ROWS}
    _, figures = bypass_loss(batch, {"correction": "jackpot"}, counts=counts)
    empty = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))
    loss, found = bypass_loss(empty, {"correction": "jackpot"}, counts=counts)
    assert float(loss.detach()) == 0
    assert not bool(empty.gradient(loss).any())
    assert found.keys() == figures.keys()
    assert all(value != value for value in found.values())


# --- What is refused --------------------------------------------------------------------------------------------------


@each(
    "asked, sentence",
    [
        ({"correction": "jackpott"}, "did you mean 'jackpot'"),
        ({"correction": {"kind": "jackpot", "c3": 1}}, "c3"),
        ({"correction": "jackpot", "rollout_is": "token"}, "rollout_is is verl's own"),
        ({"correction": "jackpot", "rollout_rs": "token_k1"}, "rollout_rs is verl's own"),
        ({"correction": "jackpot", "rejected": "drop"}, "weight or mask, got 'drop'"),
        ({"correction": {"kind": "jackpot", "target": "p_new"}}, "before p_new moves"),
        ({"correction": "ppo-clip"}, "looks at advantages"),
        ({"correction": CENTRED}, "verl has no place for it"),
        ({"correction": {"kind": "jackpot", "divisor": "accepted"}, "rejected": "mask"}, "divisor: proposed"),
    ],
)
def test_a_correction_that_the_batch_cannot_have_is_refused(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        step(verl_batch(case(CORRECTIONS["tis"], topk=False)), asked)
    assert "\n" not in str(error.value)


@each("name", ["rollout_log_probs", "old_log_probs", "response_mask"])
def test_an_absent_field_is_named(name: str) -> None:
    data = verl_batch(case(CORRECTIONS["tis"], topk=False))
    del data.batch[name]
    with pytest.raises(ValueError, match=f"the batch has no {name}"):
        step(data, {"correction": "tis"})


def test_likeliest_tokens_without_the_policys_log_probs_are_refused_unless_nothing_needs_them() -> None:
    data = verl_batch(case(CORRECTIONS["jackpot"], topk=True))
    del data.batch["old_topk_log_probs"]
    with pytest.raises(ValueError, match=r"no old_topk_log_probs, .* topk: 0"):
        step(data, {"correction": "jackpot"})
    step(data, {"correction": {"kind": "jackpot", "topk": 0}})
    step(data, {"correction": "tis"})


def test_a_mask_with_other_numbers_is_refused() -> None:
    data = verl_batch(case(CORRECTIONS["tis"], topk=False))
    data.batch["response_mask"] = data.batch["response_mask"] * 2
    with pytest.raises(ValueError, match="numbers besides 0 and 1"):
        step(data, {"correction": "tis"})


def test_weights_of_a_batch_beside_those_of_a_loss_are_refused() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    with pytest.raises(ValueError, match="which this loss would weigh again: use loss_mode=vanilla"):
        bypass_loss(batch, {"correction": "tis"}, weights=batch.mask.float())


def test_masks_are_drawn_with_the_seed_that_the_correction_has() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)

    def kept(seed: int) -> Tensor:
        data, _ = step(verl_batch(batch), {"correction": correction("jackpot", seed=seed)})
        found: Tensor = data.batch["rollout_is_weights"] > 0
        return found

    losses = [bypass_loss(batch, {"correction": {"kind": "obrs", "seed": seed}})[0] for seed in (1, 1, 2)]
    assert torch.equal(kept(1), kept(1))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(kept(1), kept(2))
    assert not torch.equal(losses[0], losses[2])


def test_a_loss_outside_bypass_mode_is_refused() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    for config in (actor_config(), actor_config({"bypass_mode": False, "correction": "jackpot"})):
        with pytest.raises(ValueError, match=r"algorithm.rollout_correction.bypass_mode=True and"):
            core().get_policy_loss_fn("jackpot_sim:jackpot")(
                old_log_prob=batch.given.actor_log_probs,
                log_prob=batch.new_log_probs(),
                advantages=batch.given.actor_log_probs,
                response_mask=batch.mask,
                config=config,
            )


@each(
    "asked, loss_mode, sentence",
    [
        ({}, "jackpot_sim", "no correction is named"),
        ({"correction": "tis"}, "jackpot_sim:tis", "named twice"),
        ({"correction": "tis", "rejected": "mask"}, "jackpot_sim", "divisor: accepted"),
        ({"correction": CENTRED}, "jackpot_sim", "verl has no place for it"),
    ],
)
def test_a_loss_that_names_no_correction_or_two_is_refused(asked: Any, loss_mode: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        bypass_loss(case(CORRECTIONS["tis"], topk=False), asked, loss_mode=loss_mode)


def configured(mode: str, *, log_probs: bool = True, **asked: object) -> Any:
    """A configuration with jackpot, and what else is asked for."""
    actor = SimpleNamespace(policy_loss={"loss_mode": mode})
    rollout = SimpleNamespace(actor=actor, rollout={"calculate_log_probs": log_probs})
    algorithm = {"rollout_correction": {"correction": "jackpot", **asked}}
    return SimpleNamespace(algorithm=algorithm, actor_rollout_ref=rollout)


@each(
    "loss_mode, asked, sentence",
    [
        ("geo_mean", {"rejected": "weight"}, "+algorithm.rollout_correction.rejected=mask"),
        ("bypass_mode", {"rejected": "mask"}, "which uses no weights of a batch"),
        ("vanilla", {"log_probs": False}, "needs the rollout's log-probs: set actor_rollout_ref.rollout.calculate"),
        ("vanilla", {"bypass_mode": True}, "in bypass mode the policy loss corrects: set"),
        ("jackpot_sim", {}, "sees no log-probs of the rollout outside bypass mode"),
    ],
)
def test_a_loss_of_verl_that_would_not_use_the_weights_as_they_are_is_refused(
    loss_mode: str, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        prepare(configured(loss_mode, **asked))
    prepare(configured("gspo"))
    prepare(configured("geo_mean", rejected="mask"))


# --- The plugin -------------------------------------------------------------------------------------------------------


def test_batches_are_verls_where_no_correction_is_named() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    data, figures = step(verl_batch(batch), {"rollout_is": None})
    assert "rollout_is_weights" not in data.batch
    assert not any("jackpot_sim" in name for name in figures)


def test_modules_that_imported_the_step_have_ours_and_get_theirs_back(monkeypatch: pytest.MonkeyPatch) -> None:
    helper = importlib.import_module(HELPER)
    before = SimpleNamespace(**{STEP: getattr(helper, STEP)})
    monkeypatch.setitem(sys.modules, "verl.trainer.of_a_test", before)  # type: ignore[arg-type]
    ours = getattr(helper, STEP)
    plugin.install()  # a second time
    assert getattr(before, STEP) is ours
    plugin.uninstall()
    assert getattr(before, STEP) is getattr(helper, STEP) is ours.__wrapped__
    assert not any(name.startswith("jackpot_sim") for name in core().POLICY_LOSS_REGISTRY)
    plugin.install()
    assert getattr(before, STEP) is getattr(helper, STEP) is not ours.__wrapped__


@pytest.mark.skipif(REAL, reason="verl is installed")
def test_without_verl_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ASKED[-1] == ("verl",)  # by `require_tested`, which warns of a version that was not tested
    plugin.uninstall()
    monkeypatch.setattr(requirements, "require_tested", REQUIRE_TESTED)
    with pytest.raises(requirements.RequirementError, match=r"the plugin for verl needs verl.*\[verl\]"):
        plugin.install()


@pytest.mark.skipif(REAL, reason="verl is installed")
def test_a_plugin_that_cannot_be_installed_says_so_where_verl_would_not() -> None:
    code = (
        "import sys, types; sys.modules['verl'] = types.ModuleType('verl'); import jackpot_sim.integrations.verl.plugin"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "UserWarning: jackpot_sim could not be installed in verl: the plugin for verl needs verl" in done.stderr


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, jackpot_sim.integrations.verl.plugin as plugin\n"
        "assert not {'torch', 'numpy', 'verl', 'pydantic'} & set(sys.modules), sorted(sys.modules)\n"
        "assert not plugin._replaced"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_signatures_are_those_that_verl_calls() -> None:
    import inspect

    theirs = inspect.signature(core().compute_policy_loss_vanilla).parameters
    assert list(inspect.signature(losses.policy_loss).parameters) == [*theirs, "named"]
    step_of_verl = inspect.signature(getattr(importlib.import_module(HELPER), STEP)).parameters
    assert list(inspect.signature(batches.correct_batch).parameters) == list(step_of_verl)
    assert names.is_ours("jackpot_sim:tis")
    assert not names.is_ours("vanilla")
