"""The law that is sampled, against the warpers of transformers and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from tests.conftest import ToLibrary

LOGITS = 3 * np.random.default_rng(0).normal(size=(20, 40))
LAWS = [
    SamplingLaw(),
    SamplingLaw(temperature=0.6),
    SamplingLaw(temperature=1.7, top_k=7),
    SamplingLaw(top_p=0.8),
    SamplingLaw(temperature=0.9, top_k=12, top_p=0.7),
    SamplingLaw(top_k=1),
    SamplingLaw(top_k=1000, top_p=1e-6),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_law_is_that_of_the_warpers_of_transformers(law: SamplingLaw) -> None:
    torch, process = pytest.importorskip("torch"), pytest.importorskip("transformers.generation.logits_process")
    scores = torch.from_numpy(LOGITS)
    warpers = [process.TemperatureLogitsWarper(law.temperature)]
    if law.top_k is not None:
        warpers.append(process.TopKLogitsWarper(law.top_k))
    if law.top_p < 1:
        warpers.append(process.TopPLogitsWarper(law.top_p))
    for warper in warpers:
        scores = warper(None, scores)
    expected = torch.log_softmax(scores, -1).numpy()
    found = law.log_probs(torch.from_numpy(LOGITS)).numpy()
    assert np.array_equal(np.isinf(found), np.isinf(expected))
    kept = np.isfinite(expected)
    np.testing.assert_allclose(found[kept], expected[kept], rtol=0, atol=1e-13)
    if not law.is_plain and law.temperature == 1:
        assert not kept.all()


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_every_array_library_gives_the_same(law: SamplingLaw, xp: ToLibrary) -> None:
    found = np.asarray(law.log_probs(xp(LOGITS)))
    expected = law.log_probs(LOGITS)
    assert np.array_equal(np.isinf(found), np.isinf(expected))
    np.testing.assert_allclose(np.exp(found), np.exp(expected), rtol=1e-13, atol=0)


def test_by_hand() -> None:
    logits = np.log([[0.1, 0.4, 0.2, 0.3]])
    half = np.sqrt([[0.1, 0.4, 0.2, 0.3]])
    hot = SamplingLaw(temperature=2.0).log_probs(logits)
    np.testing.assert_allclose(np.exp(hot), half / half.sum(), rtol=1e-14)
    np.testing.assert_allclose(np.exp(SamplingLaw(top_k=2).log_probs(logits)), [[0, 4 / 7, 0, 3 / 7]], rtol=1e-14)
    for top_p, kept in ((0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4)):
        found = SamplingLaw(top_p=top_p).log_probs(logits)
        assert np.isfinite(found).sum() == kept
        assert np.exp(found).sum() == pytest.approx(1, abs=1e-14)
    # top-p counts what top-k has left: 4/7 of it is one token.
    assert np.isfinite(SamplingLaw(top_k=2, top_p=0.57).log_probs(logits)).tolist() == [[False, True, False, False]]


def test_among_ties_the_lower_id_is_kept(xp: ToLibrary) -> None:
    logits = xp(np.zeros((2, 1000)))
    for law in (SamplingLaw(top_k=300), SamplingLaw(top_p=0.2999), SamplingLaw(top_k=300, top_p=0.9999)):
        kept = np.isfinite(np.asarray(law.log_probs(logits)))
        assert kept.tolist() == [[True] * 300 + [False] * 700] * 2


def test_one_token_is_always_kept(xp: ToLibrary) -> None:
    for law in (SamplingLaw(top_k=1), SamplingLaw(top_p=1e-18), SamplingLaw(top_k=1, top_p=1e-18)):
        found = np.asarray(law.log_probs(xp(np.log([[0.2, 0.5, 0.3]]))))
        assert found.tolist() == [[-np.inf, 0.0, -np.inf]]


def test_half_precision_becomes_float64_or_float32_if_asked() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.from_numpy(LOGITS).to(torch.bfloat16)
    exact = SamplingLaw(temperature=0.7, top_k=9).log_probs(logits)
    single = SamplingLaw(temperature=0.7, top_k=9).log_probs(logits, single=True)
    assert (exact.dtype, single.dtype) == (torch.float64, torch.float32)
    kept = torch.isfinite(exact)
    assert torch.equal(kept, torch.isfinite(single))
    assert float((exact - single)[kept].abs().max()) < 1e-5


@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=12),
    st.floats(0.05, 5),
    st.none() | st.integers(1, 15),
    st.floats(0.01, 1),
)
def test_a_law_is_normalised_and_keeps_the_likeliest(logits: list[float], t: float, k: int | None, p: float) -> None:
    found = SamplingLaw(temperature=t, top_k=k, top_p=p).log_probs(np.array([logits]))[0]
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-12)
    kept = np.isfinite(found)
    assert 1 <= kept.sum() <= (k or len(logits))
    # Logits closer than rounding tie in the law.
    assert kept.all() or np.array(logits)[kept].min() >= np.array(logits)[~kept].max() - 1e-12


def test_plain_is_the_models_own_law() -> None:
    assert SamplingLaw().is_plain
    assert not any(law.is_plain for law in LAWS[1:])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"temperature": 0}, "temperature is 0: greedy decoding has no law to reweigh"),
        ({"temperature": -1.0}, "temperature must be positive and finite"),
        ({"temperature": float("inf")}, "temperature must be positive and finite"),
        ({"top_k": 0}, "top_k must be an integer of at least 1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p must lie in \(0, 1\]"),
    ],
)
def test_what_is_out_of_range_is_refused(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        SamplingLaw(**changes)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        SamplingLaw(temperature=0.5).log_probs(np.array([[0.0, np.nan]]))


def test_logits_are_real_numbers() -> None:
    for wrong in (np.array([1, 2]), np.array([True, False]), np.array([1j, 0])):
        with pytest.raises(TypeError, match="logits must hold real floating numbers"):
            SamplingLaw().log_probs(wrong)
