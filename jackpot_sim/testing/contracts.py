"""The contracts of a correction: what a correction gives for tokens, each a function that raises AssertionError.

The docstring of a contract is the sentence that an author reads when it is broken.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
from typing import cast

import numpy as np

from jackpot_sim.core.arrays import Array, Flags, Floats
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators import Correction, Tokens, TokenWeights, rao_blackwell
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.estimators.corrections.composed import RaoBlackwell
from jackpot_sim.testing.tokens import INF, OVERLAP, draws, libraries, tokens_of, weigh, weighs_tokens


def require(holds: bool | np.bool_, sentence: str) -> None:
    """Raises an AssertionError with this sentence unless it holds."""
    if not holds:
        raise AssertionError(sentence)


def require_close(found: object, expected: object, what: str, rtol: float, atol: float = 0.0) -> None:
    """Raises an AssertionError that names the first entry of `found` that is too far from `expected`; nan is nan."""
    one, other = np.broadcast_arrays(np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64))
    off = ~np.isclose(one, other, rtol=rtol, atol=atol, equal_nan=True)
    if off.any():
        raise AssertionError(f"{what}: {one[off][0]:.17g}, and not {other[off][0]:.17g}")


def require_same(found: TokenWeights[Floats], expected: TokenWeights[Floats], what: str, rtol: float = 0.0) -> None:
    """Raises an AssertionError that names the first entry of either field that is too far from `expected`."""
    for field in TokenWeights._fields:
        atol = 1e-300 if rtol else 0.0
        require_close(getattr(found, field), getattr(expected, field), f"{what}, {field}", rtol, atol)


def _in_range(pair: TokenWeights[Floats], what: str) -> None:
    require(np.all((pair.accept >= 0) & (pair.accept <= 1)), f"{what}: an accept probability is not in [0, 1]")
    require(np.all(pair.weight >= 0), f"{what}: a weight is negative or nan")  # inf is allowed


def gives_probabilities_and_finite_weights(correction: Correction) -> None:
    """a lies in [0, 1] and w is at least 0 and finite, both of the shape and the dtype of the log-ratio."""
    for scale in (1e-3, 1.0, 30.0, 150.0):
        log_ratio = np.clip(draws(scale=scale), -700, 700)
        if not weighs_tokens(correction):
            log_ratio = log_ratio / log_ratio.shape[-1]  # so that their sum is one that e^S can be taken of
        pair = weigh(correction, log_ratio)
        what = f"for log-ratios of size {scale:g}"
        for field, values in pair._asdict().items():
            require(values.shape == log_ratio.shape, f"{what}: {field} has shape {values.shape}")
            require(values.dtype == log_ratio.dtype, f"{what}: {field} has dtype {values.dtype}, not float64")
        _in_range(pair, what)
        require(np.all(np.isfinite(pair.weight)), f"{what}: a weight is infinite")


def takes_any_shape(correction: Correction) -> None:
    """Tokens may have any shape, sequences any but (); there may be none."""
    for shape in [(4,), (2, 3), (2, 3, 4), (0, 3), () if weighs_tokens(correction) else (3, 0)]:
        for field, values in weigh(correction, np.full(shape, 0.1))._asdict().items():
            require(values.shape == shape, f"for tokens of shape {shape}: {field} has shape {values.shape}")


def weighs_rows_apart(correction: Correction) -> None:
    """A state's or a sequence's weights do not depend on the others, and follow it where rows are permuted."""
    log_ratio, overlap = draws((3, 6)), np.array([[0.3], [0.6], [0.9]])
    together = weigh(correction, log_ratio, overlap)
    order = np.array([2, 0, 1])
    permuted = weigh(correction, log_ratio[order], overlap[order])
    require_same(permuted, TokenWeights(together.accept[order], together.weight[order]), "permuted rows", 1e-13)
    if correction.looks_at_batch:
        return
    for row in range(3):
        alone = weigh(correction, log_ratio[row], overlap[row])
        require_same(alone, TokenWeights(together.accept[row], together.weight[row]), f"row {row} alone", 1e-15)


def is_a_function_of_its_tokens(correction: Correction) -> None:
    """The same tokens have the same weights twice, and are left as they are."""
    log_ratio = draws()
    before = log_ratio.copy()
    first, second = weigh(correction, log_ratio), weigh(correction, log_ratio)
    require(np.array_equal(log_ratio, before), "it changes the log-ratios that it is given")
    require_same(first, second, "the same tokens again")


def gives_the_same_in_every_library(correction: Correction) -> None:
    """Array libraries, of those that are installed, give the same numbers: a and w are computed with tokens.xp."""
    log_ratio = draws(scale=2.0)
    expected = weigh(correction, log_ratio)
    for name, make in libraries().items():
        found = correction.weights(tokens_of(correction, log_ratio, np.full((5, 1), OVERLAP), make))
        for field in found:
            require(type(field) is type(make(log_ratio)), f"with {name} it gives a {type(field).__name__}")
        pair = TokenWeights(*(to_numpy(field) for field in found))
        require(np.array_equal(pair.accept > 0, expected.accept > 0), f"with {name} it keeps other tokens")
        tolerance = 1e-14 if weighs_tokens(correction) else 1e-12  # libraries add up in different orders
        require_close(pair.accept, expected.accept, f"with {name}, accept", 1e-14)
        # The absolute tolerance is for weights such as e^−x, which at large x have x times the rounding of x.
        require_close(pair.weight, expected.weight, f"with {name}, weight", tolerance, 1e-30)


def keeps_single_precision(correction: Correction) -> None:
    """float32 and bfloat16 tokens have float32 weights, near those of float64; skipped without torch."""
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    for dtype in (torch.float32, torch.bfloat16):
        rounded = torch.as_tensor(draws(scale=2.0)).to(dtype)
        log_ratio = rounded.double().numpy()
        expected = weigh(correction, log_ratio)
        tokens = tokens_of(correction, log_ratio, to_library=lambda values: cast("Array", torch.as_tensor(values)))
        found = correction.weights(dataclasses.replace(tokens, log_ratio=cast("Array", rounded)))
        for name, field in found._asdict().items():
            require(field.dtype == torch.float32, f"for {dtype}: {name} has dtype {field.dtype}, not float32")
            require_close(to_numpy(field), getattr(expected, name), f"for {dtype}, {name}", 2e-5, 1e-30)


def bears_the_limits_of_the_ratio(correction: Correction) -> None:
    """a is in [0, 1] and w at least 0, even where ℓ is ±inf or e^ℓ overflows; inf is allowed, nan is not."""
    extremes = np.array([-INF, -1e4, -750.0, 750.0, 1e4, INF])
    for overlap in (0.0, 1e-300, OVERLAP, 1.3):
        pair = weigh(correction, extremes, overlap)
        _in_range(pair, f"for log-ratios {extremes.tolist()} and Z = {overlap:g}")
        if isinstance(correction, RaoBlackwell):
            require(np.all(pair.accept == 1), "its accept is not 1")
    rows = np.array([[-INF, 0.1], [INF, 0.1], [-INF, INF], [-750.0, 750.0], [750.0, 750.0], [-1e4, 0.0]])
    _in_range(weigh(correction, rows), f"for sequences with log-ratios {rows.tolist()}")


def does_not_see_masked_tokens(correction: Correction) -> None:
    """Padding may hold anything: its a and w are 0, and the weights of the other tokens stay as they are without it."""
    short = draws((4, 3), scale=0.5)
    signs = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    every = np.ones(short.shape, dtype=bool)
    for name, make in libraries().items():
        plain = tokens_of(correction, short, np.full((4, 1), OVERLAP), make, every, {"advantages": signs})
        expected = correction.weights(plain)
        mask = _padded(every, False).astype(bool)
        padded = np.where(mask, signs, np.nan)
        # One advantage for a whole sequence is tried with one junk: that is of shapes, and the junk of values.
        for junk, advantages in ((np.nan, signs), *((each, padded) for each in (np.nan, INF, -INF, 0.0, 1.0))):
            fields = {each: _padded(values, junk) for each, values in _probabilities(correction, short).items()}
            tokens = tokens_of(
                correction,
                _padded(short, junk),
                np.full((4, 1), OVERLAP),
                make,
                mask,
                fields | {"advantages": advantages},
            )
            for field, values in correction.weights(tokens)._asdict().items():
                found = to_numpy(values)
                what = f"with {name} and {junk} in the padding, {field}"
                require_close(found[~mask], 0.0, f"{what} of the padding", 0.0)
                require_close(found[mask], to_numpy(getattr(expected, field)).ravel(), what, 1e-14, 1e-20)


def _padded(values: Floats | Flags, padding: float) -> Floats:
    return np.insert(values, [0, 2, 3, 3], padding, axis=1)


def _probabilities(correction: Correction, log_ratio: Floats) -> dict[str, Floats]:
    tokens = tokens_of(correction, log_ratio)
    names = correction.needs & {"policy_log_probs", "actor_log_probs"}
    return {name: np.asarray(getattr(tokens, name)) for name in names}


def drops_a_sequence_without_tokens(correction: Correction) -> None:
    """A sequence in which nothing counts has a = w = 0, and the next one is weighed as without it."""
    mask = np.array([[True, True], [False, False]])
    log_ratio = np.array([[0.1, -0.1], [np.nan, INF]])
    fields = {"advantages": np.ones((2, 1)), "policy_log_probs": np.zeros((2, 2)), "actor_log_probs": np.zeros((2, 2))}
    pair = correction.weights(tokens_of(correction, log_ratio, mask=mask, fields=fields))
    for field, values in pair._asdict().items():
        require_close(np.asarray(values)[1], 0.0, f"{field} of a sequence without tokens", 0.0)


def refuses_nan(correction: Correction) -> None:
    """A log-ratio that is nan where it counts, and integers, are refused."""
    for values, error in ((np.array([0.0, np.nan]), ValueError), (np.zeros(3, dtype=np.int64), TypeError)):
        try:
            correction.weights(values, **_fields_of(tokens_of(correction, np.zeros(len(values)))))
        except error:
            continue
        raise AssertionError(f"log-ratios {values.tolist()} of dtype {values.dtype} are not refused")


def _fields_of(tokens: Tokens) -> dict[str, Array | None]:
    names = ("overlap", "policy_log_probs", "actor_log_probs", "mask", "advantages")
    return {name: getattr(tokens, name) for name in names}


def refuses_a_missing_overlap(correction: Correction) -> None:
    """A correction with an `overlap_lam` refuses tokens without Z, and a Z that is nan or negative."""
    if correction.overlap_lam is None:
        return
    for overlap in (None, np.nan, -0.1):
        tokens = tokens_of(correction, np.zeros((2, 1)))
        value = None if overlap is None else np.array([[0.5], [overlap]])
        try:
            correction.weights(dataclasses.replace(tokens, overlap=value))
        except ValueError as error:
            if "overlap" in str(error):
                continue
        raise AssertionError(f"an overlap of {overlap} is not refused")


def has_a_limit_in_large_batches(correction: Correction) -> None:
    """`in_the_limit` gives a correction that does not look at the batch; one that never does is its own limit."""
    log_ratio = draws((3, 4))
    limit = correction.in_the_limit(
        tokens_of(correction, log_ratio, fields={"advantages": np.ones((3, 1))}), np.full(3, 1 / 3)
    )
    require(not limit.looks_at_batch, "its limit looks at the batch")
    require((limit == correction) is not correction.looks_at_batch, "it is not its own limit")
    require(limit.name == correction.name, f"its limit is called {limit.name}")
    require(pickle.loads(pickle.dumps(limit)) == limit, "its limit is another one after pickling")


def has_the_mean_of_its_rao_blackwell_form(correction: Correction) -> None:
    """`rao_blackwell` has a = 1 and w = a·w, and 0 where a is 0."""
    if isinstance(correction, RaoBlackwell):
        return
    log_ratio = draws(scale=3.0)
    smooth = weigh(rao_blackwell(correction), log_ratio)
    require_close(smooth.accept, 1.0, "accept of its Rao-Blackwell form", 0.0)
    require_close(smooth.weight, weigh(correction, log_ratio).expected(), "weight of its Rao-Blackwell form", 1e-15)


def is_a_frozen_value(correction: Correction) -> None:
    """It pickles, hashes and compares by its parameters, which cannot be set; records can rebuild it by name."""
    copy = pickle.loads(pickle.dumps(correction))
    require(copy == correction and hash(copy) == hash(correction), "after pickling it is another one")
    field = next(iter(dataclasses.fields(correction)), None)
    try:
        setattr(correction, field.name if field else "anything", 1.0)
    except dataclasses.FrozenInstanceError:
        pass
    else:
        raise AssertionError("its fields can be set: write @dataclass(frozen=True)")
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    if registry.has([inner.name]):
        require(registry.get(inner.name, **inner.parameters()) == inner, f"get({inner.name!r}) rebuilds another one")
