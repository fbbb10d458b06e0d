"""The family between two recorded models: the geometric path from the policy to the actor."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.states.actor_file import ActorFile
from jackpot_sim.environments.states.base_laws import Dirichlet, LogitsFile, Zipf
from jackpot_sim.environments.targets import RELATIVE_TOLERANCE
from tests.cases import each

SMALL = Dirichlet(vocab=40, states=8)


def recorded(folder: Path, policy: Any, actor: Any, **given: Any) -> ActorFile:
    """The family between two models whose laws these are."""
    with np.errstate(divide="ignore"):
        np.save(folder / "p.npy", np.log(policy))
        np.save(folder / "a.npy", np.log(actor))
    return ActorFile(base=LogitsFile(path=folder / "p.npy"), path=folder / "a.npy", **given)


@each("share", [0.3, 0.999])
def test_actor_file_is_the_geometric_path(tmp_path: Path, share: float) -> None:
    p, a = np.random.default_rng(1).dirichlet(np.ones(6), size=(2, 5))
    pair = recorded(tmp_path, p, a.reshape(5, 1, 6), share=share).build(0).pair
    product = p ** (1 - share) * a**share
    np.testing.assert_allclose(np.exp(pair.actor_log_probs), product / product.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(np.exp(pair.policy_log_probs), p, rtol=1e-12)


def test_the_ends_of_actor_file_are_the_two_models_as_they_are(tmp_path: Path) -> None:
    p, a = [[0.5, 0.5, 0.0, 0.0]], [[0.3, 0.0, 0.7, 0.0]]
    one, half, zero = (recorded(tmp_path, p, a, share=share).build(0) for share in (1, 0.5, 0))
    file = LogitsFile(path=tmp_path / "a.npy").log_probs(np.random.default_rng(0))
    np.testing.assert_array_equal(one.pair.actor_log_probs, file)
    np.testing.assert_array_equal(half.pair.actor_log_probs, [[0.0, -math.inf, -math.inf, -math.inf]])
    np.testing.assert_array_equal(zero.pair.actor_log_probs, zero.pair.policy_log_probs)
    assert (one.achieved, half.achieved, zero.achieved) == (math.inf, math.inf, 0.0)


def test_kl_along_actor_file_is_its_cumulant_form_and_convex(tmp_path: Path) -> None:
    """KL(p‖q_s) = s·KL(p‖a) + log Σ p^(1−s) a^s."""
    p, a = np.random.default_rng(2).dirichlet(np.full(9, 0.3), size=(2, 4))
    shares = np.linspace(0.0, 1.0, 21)
    kls = np.array([recorded(tmp_path, p, a, share=float(s)).build(0).achieved for s in shares])
    line = np.mean(np.sum(p * np.log(p / a), axis=1))
    log_partition = [np.mean(np.log(np.sum(p ** (1 - s) * a**s, axis=1))) for s in shares]
    np.testing.assert_allclose(kls, shares * line + log_partition, rtol=1e-9, atol=1e-13)
    assert np.all(np.diff(kls, 2) > 0)


def test_the_whole_way_to_the_actor_is_attainable(tmp_path: Path) -> None:
    p, a = np.random.default_rng(3).dirichlet(np.ones(6), size=(2, 5))
    whole = recorded(tmp_path, p, a, share=1).build(0).achieved
    assert recorded(tmp_path, p, a, target_kl=whole).build(0).knob == pytest.approx(1.0, abs=1e-8)


def test_actor_file_with_zeros_and_a_target(tmp_path: Path) -> None:
    wider = recorded(tmp_path, [[0.5, 0.5, 0.0]], [[0.1, 0.3, 0.6]], target_kl=0.01).build(0)
    assert wider.achieved == pytest.approx(0.01, rel=RELATIVE_TOLERANCE)
    assert np.isneginf(wider.pair.actor_log_probs[0, 2])
    with pytest.raises(ValueError, match=r"cannot be met"):  # the KL jumps by −log 0.4 at the very end
        recorded(tmp_path, [[0.5, 0.5, 0.0]], [[0.1, 0.3, 0.6]], target_kl=0.5).build(0)
    with pytest.raises(ValueError, match=r"unattainable: .*a\.npy gives no support .* inf at every share above 0"):
        recorded(tmp_path, [[0.5, 0.5]], [[1.0, 0.0]], target_kl=0.01).build(0)


@pytest.mark.parametrize("knob", [{"share": 0.5}, {"target_kl": 0.1}], ids=["share", "target"])
def test_models_with_no_token_in_common_meet_nowhere(tmp_path: Path, knob: dict[str, float]) -> None:
    laws = ([[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"a\.npy: .* no token in common at state 1"):
        recorded(tmp_path, *laws, **knob).build(0)
    assert recorded(tmp_path, *laws, share=1).build(0).achieved == math.inf


def test_bad_actor_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("actor.npy", np.zeros((8, 40)))
    with pytest.raises(ValueError, match=r"a\.npy has shape \(1, 3\), .*p\.npy has shape \(1, 2\)"):
        recorded(tmp_path, [[0.5, 0.5]], [[0.2, 0.3, 0.5]], share=0.5).build(0)
    with pytest.raises(ValueError, match=r"^actor\.npy has shape \(8, 40\), the base law \(zipf\) has shape \(2, 3\)"):
        ActorFile(base=Zipf(vocab=3, states=2), path=Path("actor.npy"), share=0.5).build(0)
    np.save(tmp_path / "probabilities.npy", np.full((8, 40), 1 / 40))
    for name, message in (("missing.npy", "cannot read logits"), ("probabilities.npy", "holds probabilities")):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            ActorFile(base=SMALL, path=tmp_path / name, share=1).build(0)
