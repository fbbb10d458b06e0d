"""The check of a correction by all contracts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jackpot_sim.estimators import Correction
from jackpot_sim.testing import contracts, figures, needs
from jackpot_sim.testing.referee import Rule

Contract: TypeAlias = Callable[[Correction], None]
"""A contract: it raises AssertionError, with a sentence, where a correction breaks it."""

CONTRACTS: tuple[Contract, ...] = (
    needs.needs_what_it_reads,
    contracts.takes_any_shape,
    contracts.gives_probabilities_and_finite_weights,
    contracts.is_a_function_of_its_tokens,
    contracts.weighs_rows_apart,
    contracts.does_not_see_masked_tokens,
    contracts.drops_a_sequence_without_tokens,
    contracts.gives_the_same_in_every_library,
    contracts.keeps_single_precision,
    contracts.bears_the_limits_of_the_ratio,
    contracts.refuses_nan,
    contracts.refuses_a_missing_overlap,
    contracts.has_a_limit_in_large_batches,
    contracts.has_the_mean_of_its_rao_blackwell_form,
    contracts.is_a_frozen_value,
    figures.has_pieces_that_are_its_weights,
    figures.has_the_moments_of_brute_force,
    figures.has_the_moments_of_brute_force_along_sequences,
    figures.agrees_with_monte_carlo,
)
"""The contracts of a correction, the most telling ones first; each can be called alone."""


def breach(contract: Contract, correction: Correction) -> str | None:
    """The sentence that says how a correction breaks a contract; None where it keeps it."""
    try:
        contract(correction)
    except (AssertionError, ValueError) as error:  # their sentence says it, and a call of the contract shows where
        return str(error).removeprefix(f"{correction.name}: ")
    return None


def check_correction(correction: Correction, rule: Rule | None = None) -> None:
    """Tries a correction by every contract that ours pass, which takes a second or two.

    Args:
        correction: the correction, of a registered class.
        rule: its definition, written once more: the pair (a, w) of a `referee.Seen`, one token. Without it the exact
            figures are compared with an enumeration of its own weights, which shows no slip in the weights themselves.

    Raises:
        AssertionError: a contract is broken; the message says which one, and by what.
    """
    if not hasattr(correction, "name"):
        raise AssertionError(f'{type(correction).__name__} is not registered: write @register("its-name") above it')
    for contract in CONTRACTS:
        try:
            told = breach(contract, correction)
        except Exception as error:
            raise AssertionError(f"{correction.name}: {contract.__name__}: {type(error).__name__}: {error}") from error
        if told is not None:
            raise AssertionError(f"{correction.name}: {contract.__name__}: {told}")
    if rule is not None:
        figures.has_the_moments_of_brute_force(correction, rule)
