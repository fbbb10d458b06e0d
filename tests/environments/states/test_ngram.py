from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.corpus import split_text
from jackpot_sim.environments.states.ngram import Ngram, pack

ALPHABET = b"ab \n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    letters = np.random.default_rng(0).choice(list(ALPHABET), p=[0.5, 0.3, 0.15, 0.05], size=400)
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(letters.tolist()) + bytes([0, 255, 255, 0, 255]) * 4)
    return path


def witten_bell(train: bytes, context: bytes, token: int) -> float:
    """The formula of the module, by counting substrings one by one."""

    def probability(h: bytes) -> float:
        lower = probability(h[1:]) if h else 1 / 256
        after = Counter(train[i + len(h)] for i in range(len(train) - len(h)) if train[i : i + len(h)] == h)
        if not after:
            return lower
        return (after[token] + len(after) * lower) / (after.total() + len(after))

    return probability(context)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 8])
def test_against_a_brute_force_count(text: Path, order: int) -> None:
    law = Ngram(order=order, text=text, states=6, held_out=0.15)
    train = split_text(text, law.max_bytes, law.held_out)[0].tobytes()
    contexts = law.contexts(np.random.default_rng(1))
    log_probs = law.log_probs(np.random.default_rng(1))
    tokens = [*ALPHABET, 0, 200, 255]
    for packed, found in zip(contexts.tolist(), log_probs, strict=True):
        context = packed.to_bytes(8, "big")[8 - (order - 1) :] if order > 1 else b""
        np.testing.assert_allclose(np.exp(found[tokens]), [witten_bell(train, context, w) for w in tokens], rtol=1e-12)


@pytest.mark.parametrize("order", [1, 3, 8])
def test_every_byte_is_possible_and_the_laws_are_normalised(order: int) -> None:
    log_probs = Ngram(order=order, max_bytes=200_000).log_probs(np.random.default_rng(0))
    assert log_probs.shape == (64, 256)
    assert np.all(np.isfinite(log_probs))
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1.0, rtol=1e-13)


def test_an_unseen_context_falls_back_on_the_lower_order(text: Path) -> None:
    law = Ngram(order=3, text=text)
    unseen = pack(np.frombuffer(b"~a", dtype=np.uint8), 2)
    np.testing.assert_array_equal(law.log_probs_at(unseen, 3), law.log_probs_at(unseen, 2))
    assert np.any(law.log_probs_at(unseen, 2) != law.log_probs_at(unseen, 1))


def test_a_lower_order_is_a_worse_model_of_held_out_text() -> None:
    law = Ngram(order=5, max_bytes=400_000)
    _, held_out = split_text(None, law.max_bytes, law.held_out)
    grams = pack(held_out[:5_000], 5)
    contexts, following = grams >> np.uint64(8), (grams & np.uint64(255)).astype(np.int64)
    bits = [
        -np.mean(law.log_probs_at(contexts, order)[np.arange(len(grams)), following]) / np.log(2)
        for order in range(1, 6)
    ]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] - bits[-1] > 1.5


def test_contexts_come_in_proportion_to_their_frequency(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"x" * 900 + b"aaab" * 25)
    contexts = Ngram(order=2, text=tmp_path / "t.txt", states=20_000).contexts(np.random.default_rng(0))
    assert set(contexts.tolist()) == {ord("a"), ord("b")}
    assert np.mean(contexts == ord("b")) == pytest.approx(24 / 99, abs=0.015)


def test_nothing_held_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"ab" * 45 + b"zzzzzzzzzz")
    law = Ngram(order=1, text=tmp_path / "t.txt", states=1).log_probs(np.random.default_rng(0))
    assert law[0, ord("z")] == law[0, ord("q")]


def broken(path: Path, content: bytes | None) -> Path:
    if content is not None:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [None, b"", b"a"], ids=["missing", "empty", "one byte"])
def test_missing_or_short_text_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    with pytest.raises(ValueError, match=r"some\.txt: "):
        Ngram(text=broken(tmp_path / "some.txt", content)).log_probs(np.random.default_rng(0))


def test_too_little_held_out_for_the_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"some\.txt: 2 held-out bytes are too few for order 3"):
        Ngram(order=3, text=broken(tmp_path / "some.txt", b"x" * 20)).log_probs(np.random.default_rng(0))


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path.name}: no "):
        Ngram(text=tmp_path).log_probs(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("field", "bad"),
    [("order", 0), ("order", 9), ("states", 0), ("max_bytes", 1), ("held_out", 0.0), ("held_out", 1.0)],
)
def test_bad_field_is_refused_by_name(field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must .*got {bad}"):
        Ngram(**{field: bad})


def test_texts_are_bytes_and_contexts_packed_ones() -> None:
    text = np.frombuffer(b"abcabc", dtype=np.uint8)
    assert len(pack(text, 2)) == 5
    for wrong in (text.astype(np.int64), text[None], "abc"):
        with pytest.raises(TypeError, match="symbols must be a numpy array of uint8"):
            pack(wrong, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="contexts must be a numpy array of uint64"):
        Ngram(states=2, order=2).log_probs_at(np.array([97, 98]), 2)  # type: ignore[arg-type]
