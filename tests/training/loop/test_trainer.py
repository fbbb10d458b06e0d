"""One step of training: what all methods share, what a reward may do wrong, and how a run diverges."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.language_models import generation
from jackpot_sim.training.errors import DivergedError, RewardError
from jackpot_sim.training.loop.passes import model_pass
from tests.training.tiny import MODES, equal, rewards_of_length, run_of, study_of, trainer_of, weights

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_a_centred_step_differs_from_a_plain_one_and_little_from_another_k(models: Path) -> None:
    found = []
    for more in ({}, {"centred": True}, {"centred": True, "topk": 4}):
        correction = {"kind": "tis", "clip": 2, "centred": more.get("centred", False)}
        changes = {
            "actor": MODES["frozen"]["actor"],
            "correction": correction,
            "rollout": {"topk": more.get("topk", 100)},
        }
        trainer = trainer_of(run_of(changes), models)
        row = trainer.advance()
        found.append((row["grad_norm"], row["loss"]))
    plain, centred, few = found
    assert plain != centred
    assert few != centred
    assert few[0] == pytest.approx(centred[0], rel=0.5)


# --- what methods share -----------------------------------------------------------------------------------


class Drawn:
    """What the first two steps of a run draw."""

    def __init__(self, trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.initial = weights(trainer)
        self.problems: list[Any] = []
        self.uniforms: list[Any] = []
        self.masks: list[Any] = []
        self.orders: list[Any] = []
        generate, rolled_out, minibatches = generation.generate, trainer._rolled_out, trainer._minibatches

        def spied(actor: Any, prompts: Any, prompt: Any, uniforms: Any, **options: Any) -> Any:
            self.uniforms.append(uniforms)
            return generate(actor, prompts, prompt, uniforms, **options)

        def rollouts(first: Any) -> Any:
            found = rolled_out(first)
            self.masks.append(found[1].uniforms.numpy())
            return found

        def updates() -> Iterator[Any]:
            for rows in minibatches():
                self.orders.append(rows.tolist())
                yield rows

        def reward(completions: Any, problems: Any) -> Any:
            self.problems.append([(problem.prompt, problem.answer) for problem in problems])
            return rewards_of_length(completions, problems)

        trainer._rolled_out, trainer._minibatches, trainer._reward = rollouts, updates, reward
        with monkeypatch.context() as patched:
            patched.setattr(generation, "generate", spied)
            for _ in range(2):
                trainer.advance()


@pytest.fixture(scope="module")
def drawn(models: Path) -> dict[tuple[str, int], Drawn]:
    with pytest.MonkeyPatch.context() as patched:
        runs = study_of({"methods": MODES, "seeds": 2, "update": {"epochs": 2}}).runs
        return {(run.method, run.seed): Drawn(trainer_of(run, models), patched) for run in runs}


@pytest.mark.parametrize("mode", MODES)
def test_methods_see_the_same_prompts_weights_and_draws(drawn: dict[tuple[str, int], Drawn], mode: str) -> None:
    mine, other = drawn[mode, 0], drawn["on-policy", 0]
    assert equal(mine.initial, other.initial)
    assert mine.problems == other.problems
    assert mine.orders == other.orders
    for ours, theirs in zip(mine.uniforms, other.uniforms, strict=True):
        assert np.array_equal(ours, theirs)
    for ours, theirs in zip(mine.masks, other.masks, strict=True):
        shared = min(ours.shape[1], theirs.shape[1])  # completions of one may all be shorter
        assert np.array_equal(ours[:, :shared], theirs[:, :shared])


def test_steps_epochs_and_seeds_differ(drawn: dict[tuple[str, int], Drawn]) -> None:
    mine, other = drawn["on-policy", 0], drawn["on-policy", 1]
    assert len(mine.orders) == 2 * 2 * 2, "steps × epochs × minibatches"
    for update in range(0, 8, 2):
        assert sorted(mine.orders[update] + mine.orders[update + 1]) == list(range(16)), "an epoch sees each once"
    assert mine.orders[:2] != mine.orders[2:4], "the epochs of a step"
    assert mine.orders[:4] != mine.orders[4:], "the steps"
    assert mine.problems[0] != mine.problems[1]
    assert not np.array_equal(mine.uniforms[0], mine.uniforms[1])
    assert not equal(mine.initial, other.initial)
    assert mine.problems != other.problems
    assert mine.orders != other.orders
    assert not np.array_equal(mine.uniforms[0], other.uniforms[0])
    assert not np.array_equal(mine.masks[0][:, :1], other.masks[0][:, :1])


# --- passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "passes"), [(None, 1 + 2), (16, 1 + 2), (4, 1 + 4)])
def test_the_first_update_uses_the_pass_for_p_ref(models: Path, batch_size: int | None, passes: int) -> None:
    # Two updates from four prompts of four samples each: p_ref of the other eight rollouts, and one pass an update.
    changes = {"update": {"batch_size": batch_size}, "rollout": {"topk": 5}}
    trainer = trainer_of(run_of(MODES["served"], changes), models)
    made: list[tuple[int, Any]] = []
    inner, shared = trainer._pass, []

    def counted(model: Any, sequences: Any) -> Any:
        made.append((len(sequences), inner(model, sequences)))
        return made[-1][1]

    rolled_out = trainer._rolled_out

    def seen(first: Any) -> Any:
        shared.append((first, *rolled_out(first)))
        return shared[0][1:]

    before = copy.deepcopy(trainer.policy)
    trainer._pass, trainer._rolled_out = counted, seen
    trainer.advance()
    first, sequences, proposed, new, _ = shared[0]
    assert len(made) == passes
    assert (new is None) == (batch_size == 4)
    plain = model_pass(before, sequences)
    torch.testing.assert_close(proposed.reference_log_probs, plain.log_probs.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(proposed.reference_on_topk, plain.on(proposed.topk), rtol=0, atol=1e-5)
    if new is not None:
        assert torch.equal(new.log_probs.detach(), proposed.reference_log_probs[first]), "so that p_new/p_ref is 1"


# --- states -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_state_leads_back_to_where_it_was_taken(models: Path, mode: str) -> None:
    trainer = trainer_of(run_of(MODES[mode]), models)
    trainer.advance()
    state = copy.deepcopy(trainer.state())
    went = [trainer.advance() for _ in range(3)]
    after = weights(trainer)
    trainer.restore(copy.deepcopy(state))
    assert trainer.step == 1
    again = [trainer.advance() for _ in range(3)]
    np.testing.assert_equal(again, went)
    assert equal(weights(trainer), after)
    elsewhere = trainer_of(run_of(MODES[mode]), models)
    elsewhere.restore(state)
    np.testing.assert_equal([elsewhere.advance() for _ in range(3)], went)
    assert equal(weights(elsewhere), after)


def test_a_state_holds_optimisers_past_weights_and_strengths(models: Path) -> None:
    stale = trainer_of(run_of(MODES["stale"]), models)
    for _ in range(2):
        stale.advance()
    assert len(stale.state()["server"]["past"]) == 2
    joint = trainer_of(run_of(MODES["joint"]), models)
    joint.advance()
    state = joint.state()
    assert state["optimizer"]["state"]
    assert state["actor_optimizer"]["state"]
    assert state["strengths"][0] != 0.5, "feedback has moved it"
    budget = trainer_of(run_of(MODES["budget"]), models)
    budget.advance()
    assert budget.state()["strengths"][1] != 0.1


# --- rewards ----------------------------------------------------------------------------------------------


def failing(completions: Any, problems: Any) -> Any:
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (failing, r"step 0: the reward raises KeyError: 'no such thing'"),
        (lambda texts, _: [0.0] * 15 + [math.nan], r"step 0: the reward of '.*' for the answer '\d+' is nan, and must"),
        (lambda texts, _: [math.inf] + [0.0] * 15, r"step 0: the reward of '.*' for the answer '\d+' is inf, and must"),
        (lambda texts, _: [0.0], r"gives shape \(1,\), not one for each of 16 completions"),
        (lambda texts, _: np.zeros((16, 1)), r"gives shape \(16, 1\), not one"),
        (lambda texts, _: 1.0, r"gives shape \(\), not one"),
        (lambda texts, _: ["good"] * 16, r"step 0: the reward raises ValueError: could not convert"),
        (lambda texts, _: None, r"step 0: the reward "),
    ],
)
def test_a_reward_that_is_none_is_named_and_changes_nothing(models: Path, reward: Any, sentence: str) -> None:
    trainer = trainer_of(run_of(), models, reward)
    before = weights(trainer)
    with pytest.raises(RewardError, match=sentence):
        trainer.advance()
    assert trainer.step == 0
    assert equal(weights(trainer), before)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_a_reward_may_give_any_kind_of_numbers(models: Path, kind: Any) -> None:
    given = [float(at % 3) for at in range(16)]
    row = trainer_of(run_of(), models, lambda texts, problems: kind(given)).advance()
    assert row["reward"] == pytest.approx(np.mean(given))


@pytest.mark.parametrize("mode", ["on-policy", "frozen", "budget"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_equal_rewards_teach_nothing(models: Path, mode: str, value: float) -> None:
    trainer = trainer_of(run_of(MODES[mode]), models, lambda texts, _: [value] * len(texts))
    before = weights(trainer)
    row = trainer.advance()
    assert (row["loss"], row["grad_norm"], row["equal_groups"]) == (0, 0, 1)
    of_signs = {"rejected_positive", "rejected_negative"}  # no advantage has one
    assert of_signs <= {name for name, figure in row.items() if math.isnan(figure)}
    assert {name for name, figure in row.items() if math.isnan(figure)} - of_signs <= {
        "lam",
        "distillation_weight",
        "rejected_budget",
    }
    assert equal(weights(trainer), before)


def test_without_a_gradient_momentum_still_moves_the_policy(models: Path) -> None:
    """As in TRL and verl, where the optimiser steps whatever the gradient is."""
    given: list[Any] = [rewards_of_length, lambda texts, problems: [1.0] * len(texts)]
    trainer = trainer_of(run_of(), models, lambda texts, problems: given[trainer.step](texts, problems))
    assert trainer.advance()["grad_norm"] > 0
    before = weights(trainer)
    assert trainer.advance()["grad_norm"] == 0
    assert not equal(weights(trainer), before)


# --- divergence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_not_followed(models: Path, value: float) -> None:
    trainer = trainer_of(run_of(), models)
    trainer.advance()
    before = weights(trainer)
    next(iter(trainer.policy.parameters())).register_hook(lambda gradient: gradient * value)
    with pytest.raises(DivergedError, match=r"^step 1: training diverged: loss .*, gradient norm (nan|inf)$"):
        trainer.advance()
    assert trainer.step == 1
    assert equal(weights(trainer), before)


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_are_nan_end_a_run_whoever_writes(models: Path, mode: str) -> None:
    trainer = trainer_of(run_of(MODES[mode]), models)
    trainer.advance()
    with torch.no_grad():
        next(iter(trainer.policy.parameters())).fill_(math.nan)
    for way in (trainer.evaluate, trainer.check_weights, trainer.advance):
        with pytest.raises(DivergedError, match="step 1: training diverged"):
            way()


def test_a_jointly_trained_actor_that_diverges_ends_the_run(models: Path) -> None:
    trainer = trainer_of(run_of(MODES["joint"], {"actor": {"learning_rate": 1e30}}), models)
    with pytest.raises(DivergedError, match=r"step \d: training diverged"):
        [trainer.advance() for _ in range(3)]


def test_a_budget_that_no_lam_meets_is_no_divergence(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> float:
        raise ValueError("no lam rejects as few")

    monkeypatch.setattr("jackpot_sim.training.loop.trainer.lam_at", none)
    with pytest.raises(ValueError, match="no lam rejects as few"):
        trainer_of(run_of(MODES["budget"]), models).advance()


# --- completions of any length ----------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "length"), [(1e3, 1.0), (-1e3, 3.0)])
@pytest.mark.parametrize("mode", ["on-policy", "stale", "served"])
def test_a_policy_that_ends_at_once_or_never_can_be_trained(
    models: Path, mode: str, bias: float, length: float
) -> None:
    trainer = trainer_of(run_of(MODES[mode]), models, lambda texts, _: list(range(len(texts))))
    for model in {id(each): each for each in (trainer.policy, trainer._server._old) if each is not None}.values():
        head = model.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
        with torch.no_grad():
            head.bias[0] = bias
    row = trainer.advance()
    assert row["length"] == length
    assert math.isfinite(row["loss"])
    assert math.isfinite(trainer.evaluate().accuracy)


def test_parts_of_a_minibatch_change_nothing_but_rounding(models: Path) -> None:
    whole, parts = (
        trainer_of(run_of({"update": {"batch_size": size}, "rollout": {"batch_size": size or 256}}), models)
        for size in (None, 3)
    )
    ours, theirs = whole.advance(), parts.advance()
    assert ours.keys() == theirs.keys()
    for name, figure in ours.items():
        assert theirs[name] == pytest.approx(figure, rel=1e-4, abs=1e-6, nan_ok=True), name


def test_a_policy_stays_where_the_actor_diverges(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(run_of(MODES["joint"]), models)
    before = {name: weight.clone() for name, weight in trainer.policy.state_dict().items()}
    monkeypatch.setattr(
        "jackpot_sim.training.objective.loss.distillation", lambda policy, actor, direction: actor.sum(-1) * math.inf
    )
    with pytest.raises(DivergedError):
        trainer.advance()
    for name, weight in trainer.policy.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_ratio_that_overflows_at_a_rejected_token_does_no_harm(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(run_of(MODES["frozen"], {"update": {"clip": None}}), models)
    rolled_out = trainer._rolled_out

    def far(first: Any) -> Any:
        sequences, proposed, new, row = rolled_out(first)
        proposed.reference_log_probs[0, 0] = -200.0  # p_new/p_ref overflows float32
        proposed.uniforms[0, 0] = 2.0  # and the token is not kept
        return sequences, proposed, new, row

    monkeypatch.setattr(trainer, "_rolled_out", far)
    assert math.isfinite(trainer.advance()["loss"])


# --- the overlap ------------------------------------------------------------------------------------------


def test_the_exact_overlap_needs_no_topk_and_the_other_ways_differ_from_it(models: Path) -> None:
    found = {}
    for way, topk in (("exact", 0), ("calibrated", 100), ("topk", 1), ("kappa", 1), ("calibrated", 1)):
        trainer = trainer_of(run_of(MODES["frozen"], {"overlap": way, "rollout": {"topk": topk}}), models)
        found[way, topk] = trainer.advance()
    exact = found["exact", 0]
    assert exact["kl_exact"] == 1, "the actor's whole law was kept"
    assert exact["weight_mean"] == pytest.approx(found["calibrated", 100]["weight_mean"], rel=1e-5)
    others = [found[each]["weight_mean"] for each in (("topk", 1), ("kappa", 1), ("calibrated", 1))]
    assert len({round(each, 4) for each in (exact["weight_mean"], *others)}) == 4
    assert others[0] < exact["weight_mean"]
