"""What single families promise beyond the contract that all of them keep."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core import divergences, obrs
from jackpot_sim.environments.states.base_laws import Dirichlet, LogitsFile, Zipf
from jackpot_sim.environments.states.compressed import LowerOrder, LowRank, QuantizedLogits
from jackpot_sim.environments.states.families import Mismatch
from jackpot_sim.environments.states.perturbed import DirichletMixture, LogitNoise, Temperature
from jackpot_sim.environments.states.stale import Ascent, StaleLogits
from jackpot_sim.environments.states.truncated import Ranked, TopKTruncation, TopPTruncation
from tests.cases import each

SMALL = Dirichlet(vocab=40, states=8)


@pytest.mark.parametrize(
    ("kl", "acceptance"), [(0.00145, 0.9840), (0.00412, 0.9716), (0.0100, 0.9530), (0.0231, 0.9237)]
)
def test_acceptance_of_figure_2(kl: float, acceptance: float) -> None:
    """[J] Fig. 2: p ~ Dirichlet(2), V = 1000, λ = 1, read off the plot to ±0.002."""
    pair = DirichletMixture(base=Dirichlet(vocab=1000, states=64, concentration=2.0), target_kl=kl).build(0).pair
    assert np.mean(obrs.overlap(pair.policy_log_probs, pair.actor_log_probs)) == pytest.approx(acceptance, abs=0.002)


@pytest.mark.parametrize(("kl", "after"), [(0.0100, 0.00084), (0.0231, 0.00235)])
def test_kl_after_rejection_of_figure_2(kl: float, after: float) -> None:
    pair = DirichletMixture(target_kl=kl).build(0).pair
    accepted = obrs.accepted_log_probs(pair.policy_log_probs, pair.actor_log_probs, 1.0)
    assert np.mean(divergences.kl(pair.policy_log_probs, accepted)) == pytest.approx(after, abs=2e-4)


def test_gaussian_limit_of_logit_noise() -> None:
    """At a large vocabulary KL = σ²/2."""
    realised = LogitNoise(base=Zipf(vocab=20_000, states=16, exponent=0.3), sigma=0.2).build(0)
    assert realised.achieved == pytest.approx(0.02, rel=0.02)


def test_one_noise_direction_is_scaled_by_sigma() -> None:
    def direction(sigma: float) -> np.ndarray:
        pair = LogitNoise(base=SMALL, sigma=sigma).build(0).pair
        log_ratio = pair.actor_log_probs - pair.policy_log_probs
        return (log_ratio - log_ratio.mean(axis=1, keepdims=True)) / sigma

    np.testing.assert_allclose(direction(0.1), direction(2.0), atol=1e-12)


def test_families_do_not_share_their_noise() -> None:
    mixture, noise = DirichletMixture(base=SMALL, epsilon=0.5), LogitNoise(base=SMALL, sigma=0.5)
    assert mixture.noise(0).random() != noise.noise(0).random()


def test_both_sides_of_a_temperature() -> None:
    hotter, colder = (Temperature(base=SMALL, target_kl=0.02, colder=side).build(0) for side in (False, True))
    assert colder.knob < 1 < hotter.knob
    with pytest.raises(ValueError, match=r"colder .* cannot be given with temperature"):
        Temperature(temperature=0.5, colder=True)


@pytest.mark.parametrize(
    "family", [TopKTruncation(base=SMALL, k=7), TopPTruncation(base=SMALL, p=0.6)], ids=["top-k", "top-p"]
)
def test_truncation_violates_the_support(family: Mismatch) -> None:
    pair = family.build(0).pair
    assert np.all(np.isinf(divergences.kl(pair.policy_log_probs, pair.actor_log_probs)))
    kept = np.isfinite(pair.actor_log_probs)
    mass = np.sum(np.exp(pair.policy_log_probs), axis=-1, where=kept)
    np.testing.assert_allclose(divergences.kl(pair.actor_log_probs, pair.policy_log_probs), -np.log(mass), rtol=1e-12)


@each("p", [0.05, 0.3, 0.6, 0.61, 0.99])
def test_nucleus_is_the_smallest_set_with_the_mass(p: float) -> None:
    pair = TopPTruncation(base=SMALL, p=p).build(0).pair
    for law, actor in zip(np.exp(pair.policy_log_probs), pair.actor_log_probs, strict=True):
        kept = law[np.isfinite(actor)]
        assert kept.sum() >= p > kept.sum() - kept.min()
        assert kept.min() > law[np.isinf(actor)].max()


def test_the_smallest_nucleus_is_one_token() -> None:
    actor = TopPTruncation(base=SMALL, p=1e-300).build(0).pair.actor_log_probs
    np.testing.assert_allclose(np.sort(actor, axis=1)[:, -2:], np.tile([-np.inf, 0.0], (8, 1)), atol=1e-13)


def test_ties_go_to_the_lower_id() -> None:
    law = np.log(np.array([[0.1, 0.2, 0.2, 0.2, 0.3]]))
    assert np.isfinite(Ranked(law).keep(np.array([3]))).tolist() == [[False, True, True, False, True]]


def test_top_p_of_one_keeps_masses_that_no_sum_can_see() -> None:
    steep = Zipf(vocab=40, states=2, exponent=300.0)  # 40^−300 is far below the least float64
    pair = TopPTruncation(base=steep, p=1.0).build(0).pair
    np.testing.assert_array_equal(pair.actor_log_probs, pair.policy_log_probs)


def test_quantized_logits_lie_on_the_grid() -> None:
    pair = QuantizedLogits(base=SMALL, bits=2).build(0).pair
    assert all(len(np.unique(np.round(state, 9))) <= 4 for state in pair.actor_log_probs)
    uniform = QuantizedLogits(base=Zipf(vocab=5, states=2, exponent=0.0), bits=3).build(0)
    assert uniform.achieved == pytest.approx(0.0, abs=1e-30)


def test_low_rank_is_the_projection_on_the_leading_directions() -> None:
    """Eckart–Young, by the eigenvectors of CᵀC instead of the SVD of C."""
    pair = LowRank(base=SMALL, rank=3).build(0).pair
    centred = pair.policy_log_probs - pair.policy_log_probs.mean(axis=1, keepdims=True)
    leading = np.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:]
    projected = np.exp(centred @ leading @ leading.T)
    np.testing.assert_allclose(
        np.exp(pair.actor_log_probs), projected / projected.sum(axis=1, keepdims=True), rtol=1e-9
    )


def test_low_rank_refuses_a_law_with_zeros(tmp_path: Any) -> None:
    np.save(tmp_path / "logits.npy", np.array([[0.0, -np.inf], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="vanishes nowhere"):
        LowRank(base=LogitsFile(path=tmp_path / "logits.npy"), rank=1).build(0)


def test_stale_policy_is_one_exact_gradient_step_ahead() -> None:
    pair = StaleLogits(base=SMALL, steps=1, learning_rate=0.5).build(0).pair
    p, advantage = np.exp(pair.actor_log_probs), pair.advantage
    logits = pair.actor_log_probs + 0.5 * p * (advantage - np.sum(p * advantage, axis=1, keepdims=True))
    ahead = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(pair.policy_log_probs), ahead, rtol=1e-12)


def test_training_improves_the_expected_advantage() -> None:
    pair = StaleLogits(base=SMALL, steps=50).build(0).pair
    before, after = (np.sum(np.exp(x) * pair.advantage) for x in (pair.actor_log_probs, pair.policy_log_probs))
    assert after > before


def test_lower_order_needs_an_ngram() -> None:
    with pytest.raises(ValueError, match="base of lower-order must be an Ngram, got Zipf"):
        LowerOrder(base=Zipf(), order=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tokens", "p", "kept"), [(5, 0.4, 2), (20, 0.2, 4), (20, 0.8, 16), (50, 0.5, 25)])
def test_top_p_stops_at_a_mass_that_is_met_exactly(tokens: int, p: float, kept: int, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((1, tokens)))
    built = TopPTruncation(base=LogitsFile(path=tmp_path / "flat.npy"), p=p).build(0)
    assert np.isfinite(built.pair.actor_log_probs).sum() == kept


def test_a_stale_actor_has_a_reward_for_each_token() -> None:
    base = np.log(np.full((3, 2), 0.5))
    for reward in (np.zeros((3, 1)), np.zeros((1, 2)), np.zeros(2), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="reward has shape"):
            Ascent(base, reward, 1.0)


def test_ranks_are_kept_by_a_count_for_each_state() -> None:
    ranked = Ranked(np.log(np.full((2, 2), 0.5)))
    for wrong in (np.array([1]), np.array([[1], [1]]), np.array([1.0, 1.0]), np.array([1, 3])):
        with pytest.raises((TypeError, ValueError), match="count "):
            ranked.keep(wrong)
