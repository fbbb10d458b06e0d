"""The tokens that a correction weighs at states whose whole laws are known."""

from __future__ import annotations

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_alike, check_axes, check_ids, check_shape
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.obrs import overlap_of_checked
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import Tokens
from jackpot_sim.estimators.corrections.parameters import Parameter


def tokens_of_states(
    policy_log_probs: Array, actor_log_probs: Array, correction: Correction, advantage: Array | None = None
) -> Tokens:
    """The tokens of whole states, shape (..., vocab), with the overlap that the correction needs, (..., 1).

    Args:
        policy_log_probs: log p, shape (..., vocab), nats, checked by the caller for being laws.
        actor_log_probs: log q, the same shape.
        correction: a correction of single tokens, whose λ is a number or has shape (..., 1).
        advantage: A(x), the same shape; None where it is unknown.

    Raises:
        TypeError: an array is not one of real floating numbers, or they are of several libraries.
        ValueError: the shapes differ.
    """
    more = {} if advantage is None else {"advantage": advantage}
    check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, **more)
    overlap, lam = None, correction.overlap_lam
    if lam is not None:
        overlap = overlap_of_checked(policy_log_probs, actor_log_probs, lam)[..., None]
    return Tokens(
        log_ratio(policy_log_probs, actor_log_probs),
        policy_log_probs=policy_log_probs,
        actor_log_probs=actor_log_probs,
        overlap=overlap,
        advantages=advantage,
    )


class StateTokens:
    """The tokens of whole states for many corrections, which share what they compute of them.

    Args:
        pair: the laws, shape (states, vocab).
        advantage: A(x), the same shape; None where it is unknown.

    Raises:
        TypeError: as `tokens_of_states`.
        ValueError: as `tokens_of_states`.
    """

    def __init__(self, pair: TwoLaws, advantage: Array | None = None) -> None:
        if advantage is not None:
            check_alike(policy_log_probs=pair.log_p, advantage=advantage)
        self._pair = pair
        self._overlaps: dict[float, Array] = {}
        self._tokens = Tokens(
            pair.log_ratio, policy_log_probs=pair.log_p, actor_log_probs=pair.log_q, advantages=advantage
        )
        self._tokens.once("ratio", lambda: pair.ratio)

    def of(self, correction: Correction) -> Tokens:
        """The tokens with the overlap that a correction of single tokens needs; its λ as in `tokens_of_states`."""
        lam = correction.overlap_lam
        return self._tokens if lam is None else self._tokens.with_overlap(self.overlap(lam)[..., None])

    def overlap(self, lam: Parameter) -> Array:
        """Z(λ), shape (states,); that of a number is kept."""
        if not isinstance(lam, int | float):
            return overlap_of_checked(self._pair.log_p, self._pair.log_q, lam)
        if lam not in self._overlaps:
            self._overlaps[lam] = overlap_of_checked(self._pair.log_p, self._pair.log_q, lam)
        return self._overlaps[lam]


def drawn_tokens(tokens: Tokens, drawn: Array, correction: Correction) -> Tokens:
    """Some tokens of one state, with the fields that the correction needs.

    Args:
        tokens: all tokens of the state, shape (1, vocab).
        drawn: the ids of the tokens; the result has the same shape, (m, n).
        correction: a correction of single tokens.

    Raises:
        TypeError: the ids are not integers, or of another library than the tokens.
        ValueError: a shape does not fit, or an id lies outside the vocabulary.
    """
    check_shape(tokens.log_ratio, (1, tokens.log_ratio.shape[-1]), "tokens", "the tokens of one state")
    namespace(tokens.log_ratio, drawn)
    check_axes(check_ids(drawn, tokens.log_ratio.shape[-1], "drawn"), "drawn", "m", "n")
    needed = {name: getattr(tokens, name) for name in correction.needs - {"overlap"}}
    fields = {name: value[0, drawn] for name, value in needed.items() if value is not None}
    return Tokens(tokens.log_ratio[0, drawn], overlap=tokens.overlap, **fields)


def check_parameters(correction: Correction, states: int) -> None:
    """Refuses corrections of whole sequences, and parameters that are neither numbers nor one number per state."""
    if not correction.is_per_token:
        raise ValueError(
            f"{correction.name} looks at whole sequences, which independent states do not have: "
            "measure it with sequences.enumerated.exact or sequences.sampled.estimate"
        )
    for parameter, value in correction.parameters().items():
        shape = tuple(getattr(value, "shape", ()))
        if shape not in ((), (1, 1), (states, 1)):
            raise ValueError(
                f"{correction.name}: {parameter} has shape {shape}: it must be a number or have shape ({states}, 1), "
                "one per state (a path of thresholds belongs to path.exact)"
            )
