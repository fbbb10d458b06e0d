"""The contract tests see what is wrong with a correction: for each contract there is one that breaks it."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Correction, SequenceCorrection, TokenCorrection, Tokens, TokenWeights
from jackpot_sim.estimators.corrections.pieces import ONE, RATIO, Piece
from jackpot_sim.testing import contracts, figures, needs
from jackpot_sim.testing.checking import CONTRACTS, Contract, breach, check_correction
from jackpot_sim.testing.referee import Seen
from tests.cases import each
from tests.estimators.gap_mask import ProbabilityGapMask


def wrong(base: type[Correction] = TokenCorrection, looks_at: tuple[str, ...] = (), **members: Any) -> Correction:
    """A correction with these members, whose name is wrong."""
    namespace = {"name": "wrong", "_looks_at": frozenset(looks_at), "__qualname__": "Wrong", **members}
    return dataclass(frozen=True)(type("Wrong", (base,), namespace))()


def ratio(tokens: Tokens) -> Any:
    return tokens.xp.exp(tokens.log_ratio)


class Elsewhere:
    """Something that each call changes."""

    calls = 0

    @classmethod
    def next(cls) -> float:
        cls.calls += 1
        return 1.0 + cls.calls


def in_place(self: Any, tokens: Any) -> Any:
    tokens.log_ratio[...] = 0.0
    return tokens.ones()


def unchecked(self: Any, tokens: Any, *others: Any, **fields: Any) -> TokenWeights:
    """`weights` without the checks of its tokens."""
    ones = np.ones(np.shape(getattr(tokens, "log_ratio", tokens)))
    return TokenWeights(ones, ones)


@dataclass(frozen=True, eq=False)
class Singular(ProbabilityGapMask):
    """A correction that no other is equal to."""

    name = "wrong"
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(frozen=True)
class Right(ProbabilityGapMask):
    name = "right"


NORMALISED = wrong(weight=lambda self, tokens: ratio(tokens) / tokens.xp.max(ratio(tokens)))

WRONG: list[tuple[Contract, Correction]] = [
    (needs.needs_what_it_reads, wrong(accept=lambda self, tokens: 1.0 * (tokens.advantages > 0))),
    (needs.needs_what_it_reads, wrong(looks_at=("advantages",), weight=lambda self, tokens: ratio(tokens))),
    (contracts.takes_any_shape, wrong(weight=lambda self, tokens: tokens.ones() + tokens.log_ratio[..., :1])),
    (contracts.gives_probabilities_and_finite_weights, wrong(accept=lambda self, tokens: ratio(tokens))),
    (contracts.gives_probabilities_and_finite_weights, wrong(weight=lambda self, tokens: tokens.log_ratio)),
    (contracts.gives_probabilities_and_finite_weights, wrong(weight=lambda self, tokens: math.inf * tokens.ones())),
    (
        contracts.gives_probabilities_and_finite_weights,
        wrong(weight=lambda self, tokens: tokens.xp.astype(tokens.ones(), tokens.xp.float32)),
    ),
    (contracts.is_a_function_of_its_tokens, wrong(weight=lambda self, tokens: tokens.ones() * Elsewhere.next())),
    (contracts.is_a_function_of_its_tokens, wrong(weight=in_place)),
    (contracts.weighs_rows_apart, NORMALISED),
    (
        contracts.does_not_see_masked_tokens,
        wrong(
            SequenceCorrection, weight=lambda self, tokens: 1 + tokens.xp.mean(ratio(tokens), axis=-1, keepdims=True)
        ),
    ),
    (
        contracts.drops_a_sequence_without_tokens,
        wrong(SequenceCorrection, weights=lambda self, tokens, **fields: TokenWeights(tokens.ones(), tokens.ones())),
    ),
    (
        contracts.gives_the_same_in_every_library,
        wrong(weight=lambda self, tokens: np.where(np.asarray(tokens.log_ratio) > 0, 1.0, 2.0)),
    ),
    (
        contracts.keeps_single_precision,
        wrong(weight=lambda self, tokens: tokens.xp.astype(tokens.ones(), tokens.xp.float64)),
    ),
    (contracts.bears_the_limits_of_the_ratio, wrong(accept=lambda self, tokens: ratio(tokens) / (1 + ratio(tokens)))),
    (contracts.refuses_nan, wrong(weights=unchecked)),
    (
        contracts.refuses_a_missing_overlap,
        wrong(overlap_lam=property(lambda self: 1.0), weights=unchecked),
    ),
    (contracts.has_a_limit_in_large_batches, wrong(in_the_limit=lambda self, *others: estimators.get("is"))),
    (
        contracts.has_the_mean_of_its_rao_blackwell_form,
        wrong(weights=lambda self, tokens: TokenWeights(tokens.ones() / 2, tokens.ones())),
    ),
    (contracts.is_a_frozen_value, Singular()),
    (
        figures.has_pieces_that_are_its_weights,
        wrong(
            weight=lambda self, tokens: tokens.xp.minimum(ratio(tokens), 2 * tokens.ones()),
            pieces=lambda self, overlap=None, sign=0: (Piece(np.float64(math.inf), True, ONE, RATIO),),
        ),
    ),
    # It weighs a token by the others of its row: over a whole vocabulary that is another number than for a draw.
    (
        figures.has_the_moments_of_brute_force,
        wrong(weight=lambda self, tokens: ratio(tokens) / tokens.xp.max(ratio(tokens), axis=-1, keepdims=True)),
    ),
    # It weighs a sequence by the others of the batch, and does not say so.
    (
        figures.has_the_moments_of_brute_force_along_sequences,
        wrong(SequenceCorrection, weight=lambda self, tokens: ratio(tokens) / tokens.xp.max(ratio(tokens))),
    ),
    (
        figures.agrees_with_monte_carlo,
        wrong(weight=lambda self, tokens: ratio(tokens) / tokens.xp.sum(ratio(tokens), axis=-1, keepdims=True)),
    ),
]
"""A contract, and a correction that breaks it."""


@each("contract, correction", WRONG)
def test_what_breaks_a_contract_is_seen(contract: Contract, correction: Correction) -> None:
    try:
        contract(correction)
    except (AssertionError, ValueError, AttributeError, TypeError):
        pass
    else:
        pytest.fail("it is not seen")
    with pytest.raises(AssertionError, match=r"^wrong: \w+: "):
        check_correction(correction)


def test_each_contract_has_something_that_breaks_it() -> None:
    assert {contract for contract, _ in WRONG} == set(CONTRACTS)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_right_correction_of_another_file_passes(contract: Contract) -> None:
    assert breach(contract, Right(0.2)) is None


def test_a_definition_of_its_own_shows_a_slip_in_the_weights() -> None:
    tis = estimators.get("tis", clip=1.5)

    def rule(clip: float) -> Callable[[Seen], tuple[float, float]]:
        return lambda token: (1.0, min(token.ratio, clip))

    figures.has_the_moments_of_brute_force(tis, rule(1.5))
    with pytest.raises(AssertionError, match=r"kl_effective of 'one state', proposed: 0\.\d+, and not 0\.\d+"):
        figures.has_the_moments_of_brute_force(tis, rule(1.6))


def test_a_class_that_is_not_registered_is_told_to_be() -> None:
    @dataclass(frozen=True)
    class Unregistered(TokenCorrection):
        pass

    with pytest.raises(AssertionError, match=r'Unregistered is not registered: write @register\("its-name"\) above it'):
        check_correction(Unregistered())


def test_importing_it_pulls_in_nothing_heavy() -> None:
    code = "import sys, jackpot_sim.testing; print([m for m in ('torch', 'hypothesis', 'pytest') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
