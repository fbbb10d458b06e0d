"""Studies of real models: figures against an enumeration, against themselves, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.sequences import SequenceLaws, Sequences, occupancy
from jackpot_sim.core.support import SamplingMask, on_support
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.rollouts.built import RealisedRollouts, Setup
from jackpot_sim.estimators.corrections.centring import on_stored
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import records, spec
from jackpot_sim.sweep.rows import DIVERGENCES
from jackpot_sim.sweep.subjects import rollout_states
from tests.cases import each
from tests.environments.tiny_checkpoints import END, WORDS, hf
from tests.sweep.studies import assert_same_run, run_serially

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ESTIMATORS: list[Any] = ["none", "tis", "jackpot", {"kind": "jackpot", "rao_blackwell": True}, "sequence-is", "m2po"]
CENTRED: list[Any] = [{"kind": "none", "centred": True}]


def study(root: Path, env: dict[str, Any] | None = None, **changes: Any) -> spec.Study:
    asked = {"env": hf(root, **(env or {})), "estimators": ESTIMATORS, "seeds": 1, "n_samples": 12, "replicates": 40}
    return spec.parse(asked | changes)


@pytest.fixture(scope="module")
def finished(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    env, more = {"batch_size": 120, "rows": 512}, {"normalizers": {"k": [1, 2, 5]}}
    asked = study(checkpoints, env, estimators=ESTIMATORS + CENTRED, **more)
    return run_serially(asked, tmp_path_factory.mktemp("runs") / "real")


def enumerated(root: Path, **changes: Any) -> dict[str, Any]:
    """What the records estimate, from every sequence of both prompts; `believed` is what corrections are told of q."""
    env = study(root, changes).env[0]
    assert env.kind == "hf"
    built = env.build(0)
    tree = PrefixTree(len(WORDS), 3, END)
    sequences = tree.sequences

    def law(scorer: Any, sampling: SamplingLaw, prompt: Ints) -> Floats:
        return np.asarray(sampling.log_probs(torch.from_numpy(scorer.log_probs(prompt[None], tree)[0])))

    prompts = built.setup.prompts
    p = [law(built.policy, env.policy_law, prompt) for prompt in prompts]
    q = [law(built.actor.scorer, env.actor_law, prompt) for prompt in prompts]
    raw = [law(built.actor.scorer, SamplingLaw(), prompt) for prompt in prompts]
    rewards = [
        built.reward(np.full(len(sequences), index), sequences.token, sequences.mask) for index in range(len(prompts))
    ]
    return {
        "tree": tree,
        "laws": [SequenceLaws(*each, each[0]) for each in zip(p, q, strict=True)],
        "believed": raw if env.log_probs == "raw" else q,
        "rewards": rewards,
        "built": built,
    }


@pytest.fixture(scope="module")
def exact(checkpoints: Path) -> dict[str, Any]:
    return enumerated(checkpoints)


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


@each("name", DIVERGENCES)
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


def support_of(laws: SequenceLaws, sequences: Sequences) -> SamplingMask:
    """The tokens that the actor may draw at every prefix, as if recorded along sequences."""
    kept = laws.actor_log_probs > -np.inf
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=-1))])
    return SamplingMask(np.nonzero(kept)[1].astype(np.int32), offsets, sequences.prefix)


def true_gradient(exact: dict[str, Any], weights: list[Floats], on_support: bool = False) -> Floats:
    """Mean over prompts of Σ_y weight(y) A(y) Σ_t ∇ log p(y_t|s_t) in the final norm's gain, by autograd.

    With `on_support` p is renormalised on the tokens that the actor may draw.
    """
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
            temperature=built.setup.policy_law.temperature,
            kept=support_of(exact["laws"][index], sequences) if on_support else None,
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


def test_a_centred_update_is_that_of_every_sequence(finished: Path, exact: dict[str, Any]) -> None:
    """Its mean has A(y) less E_q[A(y) | y_<t] at each token, which is what is left of a term without a weight."""
    from jackpot_sim.environments.language_models.block_gradients import gradients

    sequences, built, total = exact["tree"].sequences, exact["built"], 0.0
    for index, (prompt, laws) in enumerate(zip(built.setup.prompts, exact["laws"], strict=True)):
        p, q = (np.exp(sequences.log_probs(law)) for law in (laws.policy_log_probs, laws.actor_log_probs))
        advantage, coefficients = exact["rewards"][index] - p @ exact["rewards"][index], np.zeros(sequences.mask.shape)
        for step in range(coefficients.shape[1]):
            at = sequences.prefix[:, step]
            for prefix in np.unique(at[sequences.mask[:, step]]):
                rows = (at == prefix) & sequences.mask[:, step]
                coefficients[rows, step] = q[rows] * (advantage[rows] - q[rows] @ advantage[rows] / q[rows].sum())
        ((_, found),) = gradients(
            built.policy.model,
            [prompt],
            np.zeros(len(sequences), dtype=np.int64),
            sequences.token,
            sequences.mask,
            coefficients[None],
            patterns=["model.norm.weight"],
            batches=[slice(0, len(sequences))],
        )
        total = total + found[0] / len(built.setup.prompts)
    g = true_gradient(
        exact, [np.exp(exact["tree"].sequences.log_probs(laws.policy_log_probs)) for laws in exact["laws"]]
    )
    plain, centred = row(finished, "none"), row(finished, "centred(none)")
    assert_near(centred, "gain", total @ g / (g @ g))
    assert_near(centred, "bias_sq", float((total - g) @ (total - g) / (g @ g)))
    assert centred["centred"]
    for name in ("acceptance_rate", "ess_fraction", "grad_norm_sq"):
        assert centred[name] == plain[name]
    assert centred["gain"] != plain["gain"]


@pytest.mark.parametrize(
    "env", [{}, {"top_k": 3, "log_probs": "support"}, {"temperature": 0.5, "log_probs": "raw"}], ids=str
)
@pytest.mark.parametrize("k", [2, 128])
def test_the_mean_terms_are_those_of_the_laws_that_corrections_get(
    checkpoints: Path, env: dict[str, Any], k: int
) -> None:
    specs = [{"kind": kind, "centred": True} for kind in ("tis", "jackpot", "topr")]
    asked = study(checkpoints, env | {"stored_topk": k}, estimators=specs, n_samples=2, replicates=3)
    built = asked.env[0].build(0)
    corrections = {each.label: each.correction() for each in asked.estimators}
    observed = rollout_states.observe(built, asked, 0, corrections)
    weighed = rollout_states.weigh(observed, corrections, np.repeat(np.arange(3), len(observed.actor) // 3), 0)
    assert observed.stored is not None
    for pair in built.pairs(observed.written["actor"]):
        for row_, (i, t) in enumerate(zip(pair.sequence, pair.step, strict=True)):
            policy, actor = (each[row_].numpy() for each in pair.told)
            ids = np.argsort(-actor, kind="stable")[:k]
            np.testing.assert_array_equal(observed.stored.ids[i, t], ids)
            z = np.asarray(obrs.overlap(policy, actor))
            for label, correction in corrections.items():
                beside = {"overlap": z, "advantages": observed.actor.advantage[i]}
                expected = on_stored(correction, policy[ids], actor[ids], **beside)
                mean = weighed[label].mean
                assert mean is not None
                np.testing.assert_allclose(mean[i, t], expected, rtol=1e-4, atol=1e-6)
    assert not observed.stored.ids[~observed.actor.mask].any()


def test_effective_sample_size(finished: Path, exact: dict[str, Any]) -> None:
    def moment(power: int) -> float:
        def expected(laws: SequenceLaws) -> Floats:
            ratio = np.asarray(log_ratio(laws.policy_log_probs, laws.actor_log_probs))
            weight = np.minimum(np.exp(ratio), estimators.get("tis").parameters()["clip"])
            return np.sum(np.exp(laws.actor_log_probs) * weight**power, axis=-1)

        return mean_over_states(exact, "actor", expected)

    assert_near(row(finished, "tis"), "ess_fraction", moment(1) ** 2 / moment(2))


def test_a_heated_and_cut_actor_that_records_raw_log_probs(checkpoints: Path, tmp_path: Path) -> None:
    """Sampled from one law, believed to be another: both must be where they belong."""
    env = {"temperature": 0.5, "top_k": 3, "log_probs": "raw", "batch_size": 120, "rows": 512}
    asked = study(checkpoints, env, estimators=["none", "jackpot", "tis"], normalizers={"k": [2, 5]}, n_samples=30)
    found, exact = run_serially(asked, tmp_path / "raw"), enumerated(checkpoints, **env)
    ratio = [
        np.asarray(log_ratio(laws.policy_log_probs, believed))
        for laws, believed in zip(exact["laws"], exact["believed"], strict=True)
    ]
    overlap = [
        np.asarray(obrs.overlap(laws.policy_log_probs, believed))
        for laws, believed in zip(exact["laws"], exact["believed"], strict=True)
    ]
    place = {id(laws): index for index, laws in enumerate(exact["laws"])}

    def accepted(laws: SequenceLaws) -> Floats:
        accept = np.minimum(1, np.exp(ratio[place[id(laws)]]))
        return np.asarray(np.sum(np.exp(laws.actor_log_probs) * accept, axis=-1))

    def weighed(power: int) -> float:
        def of(laws: SequenceLaws) -> Floats:
            weight = np.minimum(np.exp(ratio[place[id(laws)]]), 2.0)
            return np.asarray(np.sum(np.exp(laws.actor_log_probs) * weight**power, axis=-1))

        return mean_over_states(exact, "actor", of)

    assert_near(row(found, "jackpot"), "acceptance_rate", mean_over_states(exact, "actor", accepted))
    assert_near(row(found, "tis"), "ess_fraction", weighed(1) ** 2 / weighed(2))
    sequences = exact["tree"].sequences
    p, q = (
        [np.exp(sequences.log_probs(law)) for law in laws]
        for laws in zip(*((each.policy_log_probs, each.actor_log_probs) for each in exact["laws"]), strict=True)
    )
    g, biased = true_gradient(exact, p), true_gradient(exact, q)
    assert abs(row(found, "none")["grad_norm_sq"] - g @ g) < 4 * row(found, "none")["grad_norm_sq_se"]
    assert_near(row(found, "none"), "gain", biased @ g / (g @ g))
    assert row(found, "none")["chi_square_sequence"] == np.inf
    wanted = mean_over_states(exact, "actor", lambda laws: overlap[place[id(laws)]])
    ways = records.load(found, "normalizers")
    told = records.load(found, "diagnostics").set_index("figure").loc["overlap"]
    assert abs(told["value"] - wanted) < 4 * told["se"]
    assert ways["overlap"].iloc[0] == pytest.approx(told["value"])


def test_an_actor_whose_support_is_replayed(checkpoints: Path, tmp_path: Path) -> None:
    """Ratios, and the updates' gradients, on the support; what is wanted stays the whole policy's."""
    env = {"top_k": 3, "log_probs": "support", "batch_size": 120, "rows": 512}
    asked = study(
        checkpoints, env, estimators=["none", "tis", "jackpot"], normalizers={"k": [5]}, n_samples=16, replicates=24
    )
    found, exact = run_serially(asked, tmp_path / "support"), enumerated(checkpoints, **env)

    def told(laws: SequenceLaws) -> Floats:
        return np.asarray(on_support(laws.policy_log_probs, laws.actor_log_probs))

    def overlap(laws: SequenceLaws) -> Floats:
        return np.asarray(obrs.overlap(told(laws), laws.actor_log_probs))

    def weighed(power: int) -> float:
        def of(laws: SequenceLaws) -> Floats:
            weight = np.minimum(np.exp(np.asarray(log_ratio(told(laws), laws.actor_log_probs))), 2.0)
            return np.asarray(np.sum(np.exp(laws.actor_log_probs) * weight**power, axis=-1))

        return mean_over_states(exact, "actor", of)

    wanted = mean_over_states(exact, "actor", overlap)
    assert_near(row(found, "jackpot"), "acceptance_rate", wanted)
    assert_near(row(found, "tis"), "ess_fraction", weighed(1) ** 2 / weighed(2))
    assert records.load(found, "normalizers")["overlap"].iloc[0] == pytest.approx(wanted, rel=0.02)
    assert row(found, "none")["kl_policy_actor"] == np.inf
    p, q = (
        [np.exp(exact["tree"].sequences.log_probs(law)) for law in laws]
        for laws in zip(*((each.policy_log_probs, each.actor_log_probs) for each in exact["laws"]), strict=True)
    )
    g, replayed, plain = true_gradient(exact, p), true_gradient(exact, q, on_support=True), true_gradient(exact, q)
    none = row(found, "none")
    assert abs(none["grad_norm_sq"] - g @ g) < 4 * none["grad_norm_sq_se"]
    assert_near(none, "gain", replayed @ g / (g @ g))
    assert abs(replayed - plain).max() > 0.05 * abs(g).max(), "another gradient"


def test_the_kl_of_the_policy_is_over_what_the_policy_writes(checkpoints: Path, tmp_path: Path) -> None:
    asked = study(checkpoints, estimators=["none"], n_samples=4, replicates=3)
    found = row(run_serially(asked, tmp_path / "kl"), "none")
    built = asked.env[0].build(0)
    assert isinstance(built, RealisedRollouts)
    written = built.write("policy", 0, 4, 3)
    kls = np.concatenate(
        [np.asarray(divergences.kl(x.policy_log_probs, x.actor_log_probs)) for x in built.pairs(written)]
    )
    assert found["kl_policy_actor"] == pytest.approx(float(kls.mean()), rel=1e-12)
    assert found["kl_sequence"] == pytest.approx(float(kls.sum() / len(written.tokens)), rel=1e-12)


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


def test_kappa_and_the_calibration_see_batches(checkpoints: Path, tmp_path: Path) -> None:
    found = [
        records.load(
            run_serially(
                study(
                    checkpoints,
                    estimators=["none"],
                    n_samples=8,
                    replicates=3,
                    normalizers={"k": [2], "batch": batch},
                ),
                tmp_path / str(batch),
            ),
            "normalizers",
        ).set_index("way")
        for batch in (None, 8)
    ]
    assert found[0].loc["top-k", "error"] == pytest.approx(found[1].loc["top-k", "error"])
    assert found[0].loc["calibrated", "error"] < found[1].loc["calibrated", "error"]


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
    shared = {"estimators": ["jackpot", "m2po"], "denominators": ["proposed", "accepted", "self_normalized"], **few}
    one, other = (
        records.load(run_serially(study(checkpoints, {"gradients": how}, **shared), tmp_path / f"shared {how}"))
        for how in ("sequences", "batches")
    )
    # Where sequences owe something to each other, the variance is that of whole updates, however they are taken.
    alone_counts = (one["estimator"] == "jackpot") & (one["denominator"] == "proposed")
    np.testing.assert_allclose(one["variance"][~alone_counts], other["variance"][~alone_counts], rtol=0.5)
    unit = [each["on_policy_variance"] for each in (one, other)]
    ours, theirs = (each["variance"] * scale for each, scale in zip((one, other), unit, strict=True))
    np.testing.assert_allclose(ours[~alone_counts], theirs[~alone_counts], rtol=1e-9)
    assert abs(float(ours[alone_counts].iloc[0] / theirs[alone_counts].iloc[0]) - 1) > 1e-6
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


def test_raw_log_probs_do_not_change_how_far_apart_sequences_are(checkpoints: Path, tmp_path: Path) -> None:
    few = {"estimators": ["none"], "n_samples": 4, "replicates": 3}
    found = {
        told: row(
            run_serially(study(checkpoints, {"temperature": 0.5, "log_probs": told}, **few), tmp_path / told), "none"
        )
        for told in ("raw", "processed")
    }
    same = ["chi_square_sequence", "kl_policy_actor", "kl_actor_policy", "kl_sequence", "mean_length"]
    assert (found["raw"][same] == found["processed"][same]).all()


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


def test_real_models_have_sizes_of_their_own() -> None:
    env = {"kind": "hf", "policy": "x", "actor": "y", "prompts": "z"}
    alone = spec.parse({"env": env, "estimators": ["none"]})
    assert (alone.n_samples, alone.replicates, alone.seeds) == (8, 4, (0,))
    states = {"kind": "logit-noise", "sigma": 0.1}
    assert spec.parse({"env": [env, states], "estimators": ["none"]}).n_samples == 256
    assert spec.parse({"env": env, "estimators": ["none"], "n_samples": 5}).n_samples == 5
    with pytest.raises(StudyError, match="replicates"):
        spec.parse({"env": env, "estimators": ["none"], "replicates": 2})


def test_estimators_that_are_called_alike_are_refused(checkpoints: Path) -> None:
    alike = [{"kind": "tis", "clip": 2.0000000000001}, {"kind": "tis", "clip": 2.0000000000002}]
    with pytest.raises(StudyError, match="twice"):
        study(checkpoints, estimators=alike)


def test_policy_actor_and_prompts_have_no_default() -> None:
    with pytest.raises(StudyError, match="prompts"):
        spec.parse({"env": {"kind": "hf", "policy": "x", "actor": "y"}, "estimators": ["none"]})


@pytest.mark.parametrize(
    ("changes", "estimators", "pilots"),
    [
        ({"gradients": "off"}, ["none", "tis"], []),
        ({"gradients": "off"}, ["none", "ppo-clip"], ["policy"]),
        ({}, ["none"], ["policy"]),
    ],
    ids=["laws alone", "signs of advantages", "gradients"],
)
def test_nothing_is_written_or_scored_that_no_figure_needs(
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    estimators: list[Any],
    pilots: list[str],
) -> None:
    roles, scored, write, pairs = list[str](), list[int](), Setup.write, Setup.pairs

    def counted_write(self: Setup, engine: Any, role: Any, *given: Any) -> Any:
        roles.append(role)
        return write(self, engine, role, *given)

    def counted_pairs(self: Setup, policy: Any, actor: Any, written: Any) -> Any:
        scored.append(len(written.tokens))
        return pairs(self, policy, actor, written)

    monkeypatch.setattr(Setup, "write", counted_write)
    monkeypatch.setattr(Setup, "pairs", counted_pairs)
    asked = study(checkpoints, changes, estimators=estimators, n_samples=2, replicates=3)
    found = row(run_serially(asked, tmp_path / "run"), "none")
    assert sorted(roles) == ["actor", "policy", *pilots]
    assert scored == [12, 12]
    assert found["achieved_kl"] == found["kl_policy_actor"]
    assert found["achieved_kl_se"] == found["kl_policy_actor_se"] > 0
