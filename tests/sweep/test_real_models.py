"""Studies of real models: figures against an enumeration, against themselves, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.sequences import Floats, SequenceLaws, occupancy
from jackpot_sim.environments.enumeration import PrefixTree
from jackpot_sim.sweep import records, spec
from jackpot_sim.sweep.errors import StudyError
from jackpot_sim.sweep.rows import DIVERGENCES
from tests.environments.tiny_checkpoints import END, WORDS, hf
from tests.sweep.studies import assert_same_run, run_serially

pytest.importorskip("torch")
pytest.importorskip("transformers")

ESTIMATORS: list[Any] = ["none", "tis", "jackpot", {"kind": "jackpot", "rao_blackwell": True}, "sequence-is", "m2po"]


def study(root: Path, env: dict[str, Any] | None = None, **changes: Any) -> spec.Study:
    asked = {"env": hf(root, **(env or {})), "estimators": ESTIMATORS, "seeds": 1, "n_samples": 12, "replicates": 40}
    return spec.parse(asked | changes)


@pytest.fixture(scope="module")
def finished(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = study(checkpoints, normalizers={"k": [1, 2, 5]})
    return run_serially(asked, tmp_path_factory.mktemp("runs") / "real")


@pytest.fixture(scope="module")
def exact(checkpoints: Path) -> dict[str, Any]:
    """What the records estimate, from every sequence of both prompts."""
    env = study(checkpoints).env[0]
    assert env.kind == "hf"
    built = env.build(0)
    tree = PrefixTree(len(WORDS), 3, END)
    sequences = tree.sequences
    tables = [
        [scorer.log_probs(prompt[None], tree)[0] for scorer in (built.policy, built.actor)]
        for prompt in built.setup.prompts
    ]
    rewards = [
        built.reward(np.full(len(sequences), index), sequences.token, sequences.mask) for index in range(len(tables))
    ]
    return {"tree": tree, "laws": [SequenceLaws(p, q, p) for p, q in tables], "rewards": rewards, "built": built}


def mean_over_states(exact: dict[str, Any], role: str, table: Any) -> float:
    """The mean of table(laws) over the tokens that a role writes after either prompt."""
    total = tokens = 0.0
    for laws in exact["laws"]:
        law = laws.policy_log_probs if role == "policy" else laws.actor_log_probs
        sequences = exact["tree"].sequences
        visits = occupancy(sequences, np.exp(sequences.log_probs(law)), laws.shape).sum(axis=-1)
        total, tokens = total + visits @ np.asarray(table(laws)), tokens + visits.sum()
    return total / tokens


def row(root: Path, label: str, denominator: str = "proposed") -> pd.Series:
    found = records.load(root)
    return found[(found["estimator"] == label) & (found["denominator"] == denominator)].iloc[0]


def assert_near(found: pd.Series, name: str, wanted: float) -> None:
    assert found[f"{name}_se"] > 0
    assert abs(found[name] - wanted) < 4 * found[f"{name}_se"], (name, found[name], wanted, found[f"{name}_se"])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_are_those_of_every_sequence(finished: Path, exact: dict[str, Any], name: str) -> None:
    role = "policy" if name == "kl_policy_actor" else "actor"
    wanted = mean_over_states(
        exact, role, lambda laws: divergences.BY_NAME[name](laws.policy_log_probs, laws.actor_log_probs)
    )
    assert_near(row(finished, "none"), name, wanted)


def test_whole_sequences_too(finished: Path, exact: dict[str, Any]) -> None:
    sequences = exact["tree"].sequences
    pairs = [
        (sequences.log_probs(laws.policy_log_probs), sequences.log_probs(laws.actor_log_probs))
        for laws in exact["laws"]
    ]
    found = row(finished, "none")
    assert_near(found, "kl_sequence", float(np.mean([np.exp(p) @ (p - q) for p, q in pairs])))
    assert_near(found, "chi_square_sequence", float(np.mean([np.exp(2 * p - q).sum() - 1 for p, q in pairs])))
    assert_near(found, "mean_length", float(np.mean([np.exp(q) @ sequences.lengths for _, q in pairs])))


def test_what_corrections_do_at_the_states(finished: Path, exact: dict[str, Any]) -> None:
    def overlap(laws: SequenceLaws) -> Floats:
        return np.asarray(obrs.overlap(laws.policy_log_probs, laws.actor_log_probs))

    def kl_accepted(laws: SequenceLaws) -> Floats:
        accepted = obrs.accepted_log_probs(laws.policy_log_probs, laws.actor_log_probs, 1.0)
        return np.asarray(divergences.kl(laws.policy_log_probs, accepted))

    found = row(finished, "jackpot")
    assert_near(found, "acceptance_rate", mean_over_states(exact, "actor", overlap))
    assert_near(found, "kl_accepted", mean_over_states(exact, "actor", kl_accepted))
    assert row(finished, "rao-blackwell(jackpot)")["acceptance_rate"] == 1
    assert row(finished, "rao-blackwell(jackpot)")["kl_effective"] == pytest.approx(found["kl_effective"])
    assert np.isnan(row(finished, "sequence-is")["kl_effective"])


def true_gradient(exact: dict[str, Any], weights: list[Floats]) -> Floats:
    """Mean over prompts of Σ_y weight(y) A(y) Σ_t ∇ log p(y_t|s_t) in the final norm's gain, by autograd."""
    from jackpot_sim.environments.language_models.block_gradients import gradients

    sequences, built = exact["tree"].sequences, exact["built"]
    total = 0.0
    for index, (prompt, weight) in enumerate(zip(built.setup.prompts, weights, strict=True)):
        p = np.exp(sequences.log_probs(exact["laws"][index].policy_log_probs))
        advantage = exact["rewards"][index] - p @ exact["rewards"][index]
        coefficients = (weight * advantage)[None, :, None] * np.ones(sequences.mask.shape)
        ((_, found),) = gradients(
            built.policy.model,
            [prompt],
            np.zeros(len(sequences), dtype=np.int64),
            sequences.token,
            sequences.mask,
            coefficients,
            patterns=["model.norm.weight"],
            batches=[slice(0, len(sequences))],
        )
        total = total + found[0]
    return np.asarray(total / len(weights))


def test_gradients_are_those_of_every_sequence(finished: Path, exact: dict[str, Any]) -> None:
    sequences = exact["tree"].sequences
    p, q = (
        [np.exp(sequences.log_probs(law)) for law in laws]
        for laws in zip(*((each.policy_log_probs, each.actor_log_probs) for each in exact["laws"]), strict=True)
    )
    g, biased = true_gradient(exact, p), true_gradient(exact, q)
    none, unbiased = row(finished, "none"), row(finished, "sequence-is")
    assert none["grad_norm_sq"] > 5 * none["grad_norm_sq_se"]
    assert abs(none["grad_norm_sq"] - g @ g) < 4 * none["grad_norm_sq_se"]
    assert_near(none, "gain", biased @ g / (g @ g))
    assert_near(none, "bias_sq", float((biased - g) @ (biased - g) / (g @ g)))
    assert_near(unbiased, "gain", 1.0)
    assert_near(unbiased, "bias_sq", 0.0)


def test_effective_sample_size(finished: Path, exact: dict[str, Any]) -> None:
    def moment(power: int) -> float:
        def expected(laws: SequenceLaws) -> Floats:
            ratio = np.asarray(log_ratio(laws.policy_log_probs, laws.actor_log_probs))
            weight = np.minimum(np.exp(ratio), estimators.get("tis").parameters()["clip"])
            return np.sum(np.exp(laws.actor_log_probs) * weight**power, axis=-1)

        return mean_over_states(exact, "actor", expected)

    assert_near(row(finished, "tis"), "ess_fraction", moment(1) ** 2 / moment(2))


def test_denominators_rescale_and_no_more(checkpoints: Path, tmp_path: Path) -> None:
    denominators = ["proposed", "accepted", "self_normalized"]
    asked = study(checkpoints, estimators=["none", "jackpot"], n_samples=8, replicates=3, denominators=denominators)
    found = run_serially(asked, tmp_path / "denominators")
    proposed, accepted = (row(found, "jackpot", each) for each in ("proposed", "accepted"))
    assert accepted["gain"] == pytest.approx(proposed["gain"] / proposed["acceptance_rate"], rel=0.2)
    assert row(found, "none", "self_normalized")["gain"] == pytest.approx(row(found, "none")["gain"])


def test_normalisers_and_diagnostics_are_told(finished: Path) -> None:
    ways, told = records.load(finished, "normalizers"), records.load(finished, "diagnostics")
    assert set(ways["k"]) == {1, 2, 5}
    assert (ways["outside"] == 0).all()
    everything = ways[ways["k"] == len(WORDS)].set_index("way")
    assert everything.loc["top-k", "error"] == pytest.approx(0, abs=1e-9)
    figure = told.set_index("figure")
    assert figure.loc["overlap", "value"] == pytest.approx(everything.loc["top-k", "overlap"])
    assert figure.loc["kl_actor_policy", "value"] == pytest.approx(row(finished, "none")["kl_actor_policy"])
    assert (figure.loc["k1", ["low", "high"]] != figure.loc["k1", "value"]).all()


def test_nothing_depends_on_how_it_is_run(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 4, "replicates": 3}
    first = run_serially(study(checkpoints, **few), tmp_path / "first")
    again = run_serially(study(checkpoints, **few), tmp_path / "again")
    assert_same_run(first, again)
    other = run_serially(study(checkpoints, {"batch_size": 24, "rows": 64}, **few), tmp_path / "other")
    columns = [*DIVERGENCES, "acceptance_rate", "kl_effective", "gain", "variance", "mse"]
    ours, theirs = (records.load(each)[columns].to_numpy() for each in (first, other))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_batches_of_gradients_give_the_same_updates(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 4, "replicates": 3}
    alone = run_serially(study(checkpoints, **few), tmp_path / "alone")
    batches = run_serially(study(checkpoints, {"gradients": "batches"}, **few), tmp_path / "batches")
    off = run_serially(study(checkpoints, {"gradients": "off"}, **few), tmp_path / "off")
    same = ["gain", "bias_sq", "grad_norm_sq", "acceptance_rate"]
    np.testing.assert_allclose(records.load(alone)[same], records.load(batches)[same], rtol=1e-9)
    assert records.load(off)["gain"].isna().all()
    assert (records.load(off)["kl_effective"].fillna(0) == records.load(alone)["kl_effective"].fillna(0)).all()


def test_a_cut_actor_is_out_of_the_policys_reach(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 4, "replicates": 3, "estimators": ["none", "jackpot"]}
    found = records.load(run_serially(study(checkpoints, {"top_k": 2}, **few), tmp_path / "cut"))
    assert (found["kl_policy_actor"] == np.inf).all()
    assert np.isfinite(found["kl_actor_policy"]).all()
    assert np.isfinite(found["acceptance_rate"]).all()
    raw = records.load(run_serially(study(checkpoints, {"top_k": 2, "log_probs": "raw"}, **few), tmp_path / "raw"))
    # What the actor does is the same; what corrections are told of it is not.
    assert (raw["kl_actor_policy"] == found["kl_actor_policy"]).all()
    jackpot = [each.set_index("estimator").loc["jackpot", "acceptance_rate"] for each in (found, raw)]
    assert abs(jackpot[0] - jackpot[1]) > 0.02


@pytest.mark.cuda
def test_a_gpu_says_what_the_cpu_says(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 4, "replicates": 3, "normalizers": {"k": [2]}}
    cpu, gpu = (
        records.load(run_serially(study(checkpoints, {"device": device}, **few), tmp_path / device))
        for device in ("cpu", "cuda")
    )
    columns = [*DIVERGENCES, "acceptance_rate", "kl_effective", "gain", "grad_norm_sq"]
    np.testing.assert_allclose(cpu[columns], gpu[columns], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimators": [{"kind": "jackpot", "target": "p_new"}]}, "only small-lm has an update"),
        ({"estimators": [{"kind": "obrs", "acceptance_rate": 0.9}]}, "with hf give lam"),
        ({"normalizers": {"k": []}}, "normalizers.k"),
        ({"normalizers": {"k": [0]}}, "normalizers.k"),
        ({"env": {"actor": {"kind": "quantised"}}}, "quantized-weights"),
        ({"env": {"lenght": 3}}, "hf has policy, actor"),
        ({"env": {"precision": "fp8"}}, "precision"),
        ({"env": {"temperature": 0}}, "temperature"),
        ({"env": {"actor": {"kind": "weight-noise"}}}, "exactly one of sigma and target_kl"),
        ({"env": {"actor": {"kind": "checkpoint", "path": "x", "target_kl": 0.1}}}, "target_kl"),
    ],
)
def test_what_cannot_be_asked(checkpoints: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        study(checkpoints, **changes)


def test_policy_actor_and_prompts_have_no_default() -> None:
    with pytest.raises(StudyError, match="prompts"):
        spec.parse({"env": {"kind": "hf", "policy": "x", "actor": "y"}, "estimators": ["none"]})
