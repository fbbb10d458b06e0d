"""Environments of real models: how they are spelt, what they build, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from jackpot_sim.core import divergences
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.rollouts.answers import AnswerReward
from jackpot_sim.environments.rollouts.hf import HuggingFace, mean_of_each
from jackpot_sim.environments.rollouts.shorthand import spelt_out
from tests.environments.tiny_checkpoints import END, WORDS, hf, save_checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.environments.rollouts.built import LawPair, RealisedRollouts  # noqa: E402

AS_CONFIGURED = TypeAdapter(HuggingFace)


def environment(root: Path, **changes: Any) -> HuggingFace:
    return AS_CONFIGURED.validate_python(spelt_out(hf(root, **changes)))


def built(root: Path, seed: int = 0, **changes: Any) -> RealisedRollouts:
    return environment(root, **changes).build(seed)


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("some/where", {"kind": "checkpoint", "path": "some/where"}),
        ("quantized-weights", {"kind": "quantized-weights", "share": 1.0}),
        ("stale", {"kind": "stale", "steps": 16}),
        ("precision", {"kind": "precision"}),
        (
            {"path": "some/where", "precision": "bf16"},
            {"kind": "checkpoint", "path": "some/where", "precision": "bf16"},
        ),
        ({"kind": "weight-noise", "sigma": 0.1}, {"kind": "weight-noise", "sigma": 0.1}),
    ],
)
def test_a_bare_word_is_a_kind_or_a_checkpoint(given: Any, means: dict[str, Any]) -> None:
    assert spelt_out({"kind": "hf", "actor": given})["actor"] == means


def test_a_kind_takes_its_usual_knob_unless_it_has_one() -> None:
    def actor(given: Any) -> Any:
        return spelt_out({"kind": "hf", "actor": given})["actor"]

    assert actor({"kind": "quantized-kv", "format": "int8"}) == {"kind": "quantized-kv", "format": "int8", "share": 1.0}
    assert actor({"kind": "quantized-weights", "share": 2}) == {"kind": "quantized-weights", "share": 2}
    assert actor({"kind": "stale", "target_kl": 0.1}) == {"kind": "stale", "target_kl": 0.1}
    assert spelt_out({"kind": "hf", "gradients": False, "reward": "random"}) == {
        "kind": "hf",
        "gradients": "off",
        "reward": {"kind": "random"},
    }


def test_a_misspelt_kind_is_no_folder() -> None:
    with pytest.raises(ValueError, match="did you mean 'quantized-weights'"):
        spelt_out({"kind": "hf", "actor": "quantised-weights"})
    assert spelt_out({"kind": "hf", "actor": "Qwen/Qwen3-8B"})["actor"]["path"] == "Qwen/Qwen3-8B"


def test_a_bare_path_is_a_file_of_prompts_and_other_environments_stay_as_they_are() -> None:
    assert spelt_out({"kind": "hf", "prompts": "p.txt"})["prompts"] == {"kind": "file", "path": "p.txt"}
    assert spelt_out({"kind": "hf", "prompts": {"path": "p.txt"}})["prompts"] == {"kind": "file", "path": "p.txt"}
    assert spelt_out({"kind": "top-k", "actor": "x"}) == {"kind": "top-k", "actor": "x"}


def kl_of(found: RealisedRollouts, seed: int = 0) -> float:
    """KL(policy‖actor) over rollouts of the policy, as `Setup.kl` has it, by another way."""
    written = found.write("policy", seed, 20, 1)
    total = sum(
        float(divergences.kl(pair.policy_log_probs, pair.actor_log_probs).sum()) for pair in found.pairs(written)
    )
    return total / int(written.mask.sum())


@pytest.mark.parametrize(
    "actor",
    [
        {"kind": "checkpoint"},
        {"kind": "precision", "precision": "bf16"},
        {"kind": "quantized-weights", "format": "int4", "share": 1},
        {"kind": "quantized-kv", "format": "fp8-e5m2", "share": 1},
        {"kind": "sliding-window", "window": 2},
        {"kind": "weight-noise", "sigma": 0.1},
        {"kind": "temperature", "temperature": 1.1},
        {"kind": "stale", "steps": 2, "learning_rate": 1e-2, "batch": 8},
    ],
    ids=lambda actor: actor["kind"],
)
def test_every_actor_differs_from_the_policy_and_repeats_itself(checkpoints: Path, actor: dict[str, Any]) -> None:
    actor = {"path": str(checkpoints / "actor"), **actor} if actor["kind"] == "checkpoint" else actor
    first, again = (built(checkpoints, actor=actor, length=4) for _ in range(2))
    assert first.achieved > 1e-9
    assert first.achieved == again.achieved
    assert abs(kl_of(first) - first.achieved) < 10 * first.achieved_se
    one, other = (each.write("actor", 3, 4, 2) for each in (first, again))
    assert (one.tokens == other.tokens).all()


def test_the_policy_itself_is_no_mismatch(checkpoints: Path) -> None:
    for actor in ({"kind": "stale", "steps": 0}, str(checkpoints / "policy"), {"kind": "weight-noise", "sigma": 0}):
        assert built(checkpoints, actor=actor).achieved == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "actor",
    [
        {"kind": "weight-noise", "target_kl": 0.03},
        {"kind": "quantized-weights", "format": "int8", "target_kl": 0.01},
        {"kind": "stale", "learning_rate": 5e-4, "batch": 8, "target_kl": 0.003},
    ],
    ids=lambda actor: actor["kind"],
)
def test_a_target_is_met(checkpoints: Path, actor: dict[str, Any]) -> None:
    found = built(checkpoints, actor=actor)
    near = 0.6 if actor["kind"] == "stale" else 0.01
    assert found.achieved == pytest.approx(actor["target_kl"], rel=near)


def test_a_stale_actor_is_behind_a_policy_that_earns_more(checkpoints: Path) -> None:
    stale = {"kind": "stale", "steps": 12, "learning_rate": 1e-2, "batch": 32}
    found = built(checkpoints, actor=stale, reward={"kind": "token-share", "token": 1}, length=4)
    earned = {}
    for role in ("policy", "actor"):
        written = found.write(role, 0, 60, 1)  # type: ignore[arg-type]
        earned[role] = float(found.reward(written.prompt, written.tokens, written.mask).mean())
    assert earned["policy"] > earned["actor"] + 0.2
    assert found.baseline.mean() == pytest.approx(earned["policy"], abs=0.15)
    fewer = built(checkpoints, actor=stale | {"batch": 2}, reward={"kind": "token-share", "token": 1}, length=4)
    assert fewer.achieved != found.achieved


def test_equal_rewards_leave_no_advantage() -> None:
    assert mean_of_each(np.full((2, 7), 0.1)).tolist() == [0.1, 0.1]
    assert mean_of_each(np.array([[1.0, 2.0, 6.0]])) == pytest.approx([3.0])


def test_more_replicates_begin_with_those_of_fewer(checkpoints: Path) -> None:
    found = built(checkpoints)
    few, more = found.write("actor", 0, 3, 2), found.write("actor", 0, 3, 4)
    assert (few.prompt == [0, 0, 0, 1, 1, 1] * 2).all()
    assert (more.tokens[:12] == few.tokens).all()
    assert (found.write("policy", 0, 3, 2).tokens != few.tokens).any()
    assert (found.write("actor", 1, 3, 2).tokens != few.tokens).any()


def test_the_temperature_is_of_both_and_cuts_are_the_actors(checkpoints: Path) -> None:
    same = str(checkpoints / "policy")
    assert built(checkpoints, actor=same, temperature=0.5).achieved == pytest.approx(0, abs=1e-12)
    assert built(checkpoints, actor=same, top_p=0.5).achieved == np.inf
    assert built(checkpoints, actor=same, top_k=len(WORDS)).achieved == pytest.approx(0, abs=1e-12)


def test_raw_log_probs_are_what_corrections_believe(checkpoints: Path) -> None:
    found = built(checkpoints, temperature=0.5, log_probs="raw")
    written = found.write("actor", 0, 4, 1)
    for pair in found.pairs(written):
        hot = pair.believed_log_probs * 2
        cold = hot - torch.logsumexp(hot, -1, keepdim=True)
        torch.testing.assert_close(cold, pair.actor_log_probs)
        at = pair.sequence, pair.step
        chosen = torch.as_tensor(written.tokens[at])[:, None]
        np.testing.assert_allclose(pair.believed_log_probs.gather(1, chosen)[:, 0], written.raw_log_probs[at])
        np.testing.assert_allclose(pair.actor_log_probs.gather(1, chosen)[:, 0], written.log_probs[at])


@pytest.mark.parametrize("told", LogProbs)
@pytest.mark.parametrize("cut", [{"top_p": 0.8}, {"top_k": 2}], ids=str)
def test_the_ratio_of_a_policy_to_its_own_cut(checkpoints: Path, told: LogProbs, cut: dict[str, Any]) -> None:
    """At every token it is the mass that the sampler keeps there; with raw log-probs, or on the support, it is 1."""
    found = built(checkpoints, actor=str(checkpoints / "policy"), temperature=0.7, log_probs=told, **cut)
    if told is LogProbs.RAW:  # before the temperature too
        found = built(checkpoints, actor=str(checkpoints / "policy"), log_probs=told, **cut)
    written = found.write("actor", 0, 6, 1)
    assert (written.kept is not None) == (told is LogProbs.SUPPORT)
    masses = []
    for pair in found.pairs(written):
        policy, actor = pair.told
        kept = pair.actor_log_probs > -np.inf
        mass = (pair.policy_log_probs.exp() * kept).sum(-1, keepdim=True)
        wanted = (mass if told is LogProbs.PROCESSED else torch.ones_like(mass)).expand(kept.shape)
        ratio = (policy - torch.where(kept, actor, 0.0)).exp()
        np.testing.assert_allclose(ratio[kept], wanted[kept], rtol=1e-12)
        if told is LogProbs.SUPPORT:
            assert ((policy > -np.inf) == kept).all()
        masses.append(mass.flatten())
    assert float(torch.cat(masses).std()) > 0.01, "S differs from token to token"


def test_a_sampler_that_cuts_nothing_records_nothing(checkpoints: Path) -> None:
    found = built(checkpoints, log_probs="support", temperature=0.5)
    written = found.write("actor", 0, 2, 1)
    assert written.kept is None
    assert all(pair.told == (pair.policy_log_probs, pair.actor_log_probs) for pair in found.pairs(written))
    with pytest.raises(ValueError, match="'processed', 'raw' or 'support'"):
        environment(checkpoints, log_probs="mask")


def test_rewards_look_at_answers_where_all_prompts_have_one(checkpoints: Path, tmp_path: Path) -> None:
    tokens = np.array([[3, END, 0], [1, 2, 3], [1, 2, END]])
    mask = np.array([[True, True, False], [True] * 3, [True] * 3])
    found = built(checkpoints)
    assert found.reward(np.array([0, 1, 1]), tokens, mask).tolist() == [1, 1, 1]
    assert found.reward(np.array([1, 0, 0]), tokens, mask).tolist() == [0, 1, 0]
    exact = built(checkpoints, reward={"kind": "answer", "match": "exact"})
    assert exact.reward(np.array([0, 1, 1]), tokens, mask).tolist() == [1, 0, 1]
    (tmp_path / "p.txt").write_text("a b\n")
    without = built(checkpoints, prompts=str(tmp_path / "p.txt"))
    assert without.reward(
        np.array([0, 0]), np.array([[1, 1, 2], [1, 1, 0]]), np.array([[True] * 3, [True, True, False]])
    ) == (pytest.approx([2 / 3, 1 / 2]))
    with pytest.raises(ValueError, match="0 of 1 have one"):
        built(checkpoints, prompts=str(tmp_path / "p.txt"), reward={"kind": "answer"})


def test_prompts_may_be_generated(checkpoints: Path) -> None:
    gym = pytest.importorskip("reasoning_gym")
    found = built(checkpoints, prompts={"kind": "reasoning-gym", "dataset": "chain_sum", "size": 3, "chat": False})
    assert len(found.setup.prompts) == 3
    configured = environment(checkpoints, prompts={"kind": "reasoning-gym", "dataset": "chain_sum", "size": 3})
    theirs = gym.create_dataset("chain_sum", size=3, seed=0)
    assert [each.answer for each in configured.prompts.read()] == [each["answer"] for each in theirs]


def test_answers_are_found_in_texts() -> None:
    assert AnswerReward().of_texts(["so 42.", "4 2"], [" 42 ", "42"]).tolist() == [1, 0]
    assert AnswerReward(match="exact").of_texts([" 42 ", "so 42"], ["42", "42"]).tolist() == [1, 0]  # type: ignore[arg-type]


def test_every_file_counts_for_the_study(checkpoints: Path) -> None:
    names = [path.name for path in environment(checkpoints).files()]
    assert names[0] == "prompts.jsonl"
    assert names.count("model.safetensors") == 2
    assert [p.name for p in environment(checkpoints, actor="precision").files()].count("model.safetensors") == 1


def with_other_words(root: Path, into: Path) -> Path:
    save_checkpoint(into / "other", 2, ("<end>", "b", "a", "c", "d"))
    return into / "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "nowhere/at/all"}, "nowhere/at/all: no such folder"),
        ({"prompts": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"length": 40}, "reads at most 32 tokens"),
        ({"device": "cuda:7"}, "cuda"),
        ({"actor": {"kind": "weight-noise", "target_kl": 0.1}, "top_k": 2}, "cannot be met with top_k"),
        ({"block": "no.such.weight"}, "no parameter matches 'no.such.weight'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_built(checkpoints: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(checkpoints, **changes)


def test_mixed_tokenizers_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the token 'a' has id 1 for the policy's tokenizer and 2 for the actor's"):
        built(checkpoints, actor=str(with_other_words(checkpoints, tmp_path)))
    save_checkpoint(tmp_path / "larger", 2, (*WORDS, "e"))
    with pytest.raises(ValueError, match="vocabulary of 5 and the actor one of 6"):
        built(checkpoints, actor=str(tmp_path / "larger"))


def test_a_policy_without_a_tokenizer_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(checkpoints / "policy", tmp_path / "bare"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="no tokenizer beside the model"):
        built(checkpoints, policy=str(bare))


def test_lines_that_are_no_prompts_are_named(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\nnonsense\n" + json.dumps({"question": "b"}) + "\n")
    with pytest.raises(ValueError, match=r"(?s)2.*3"):
        built(checkpoints, prompts=str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 0}, "length"),
        ({"batch_size": 0}, "batch_size"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"temperature": -1.0}, "temperature"),
        ({"threads": 0}, "threads"),
    ],
)
def test_numbers_out_of_range(checkpoints: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environment(checkpoints, **changes)


def test_laws_of_a_pair_and_baselines_have_their_shapes() -> None:
    rows, law = np.arange(2), np.log(np.full((2, 2), 0.5))
    LawPair(rows, rows, law, law, law)
    for wrong in ((rows, rows, law, law[:, :1], law), (rows, rows, law, law, law[:1]), (rows[:1], rows, law, law, law)):
        with pytest.raises(ValueError, match="has shape"):
            LawPair(*wrong)
    for rewards in (np.zeros(2), np.zeros((1, 2, 3)), np.zeros((2, 3), dtype=int)):
        with pytest.raises((TypeError, ValueError), match="rewards "):
            mean_of_each(rewards)


def test_a_server_is_asked_before_the_policy_is_loaded(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*_: object, **__: object) -> None:
        raise AssertionError("the policy is loaded for a server that cannot be reached")

    pytest.importorskip("requests")
    monkeypatch.setattr("jackpot_sim.environments.rollouts.hf.policy_of", loads)
    with pytest.raises(ValueError, match="cannot be reached"):
        built(checkpoints, actor="http://127.0.0.1:9/v1")
