"""Gradients of weighted log-probs of completions, in a chosen block of a model's parameters.

    Σ_i Σ_t c[k, i, t] · ∂ log p(y_t | prompt, y_<t) / ∂θ_block

for many sets of coefficients k at once; a set may also weigh other tokens at the same states. A slice of sequences goes
through the model once; each set costs one backward pass through the layers above the block, as nothing below it is
differentiated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_same_shape, check_shape
from jackpot_sim.core.support import SamplingMask
from jackpot_sim.environments.fields import check_positive
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.library import Model, Tensor
from jackpot_sim.environments.language_models.walking import on_device, scoring_mode

_NAMES_LISTED = 8
"""Parameters that an error lists."""


def block_of(model: Model, patterns: Sequence[str]) -> dict[str, Tensor]:
    """The parameters whose name matches any of the patterns, in the model's order; ("*",) is all of them.

    A tied weight has several names, any of which may match; it is listed once, under the first.

    Args:
        model: any model.
        patterns: as for file names: `*` any characters, `?` one, `[ab]` either.

    Raises:
        ValueError: there is no pattern, or one matches no parameter.
    """
    if not patterns:
        raise ValueError('patterns is empty: give ("*",) for all parameters')
    names = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in names):
            some = ", ".join(name for name, _ in names[:_NAMES_LISTED])
            raise ValueError(f"no parameter matches {pattern!r}: there are {len(names)}, among them {some}")
    matching = {id(weight) for name, weight in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return {name: weight for name, weight in model.named_parameters() if id(weight) in matching}


@dataclass(frozen=True, eq=False)
class OtherTokens:
    """Tokens that might have stood in the place of those written, and join the weighted sums.

    Attributes:
        ids: the tokens, integers (n, length, j); at padding any of the vocabulary.
        coefficients: for each set None, or the factor of each sequence, (n,), and a coefficient for each token,
            (n, length, j), of any value at padding. Sets may share these arrays.

    Raises:
        TypeError: ids are no integers, or coefficients no real floating numbers.
        ValueError: a shape differs.
    """

    ids: Ints
    coefficients: Sequence[tuple[Floats, Floats] | None]

    def __post_init__(self) -> None:
        check_integers(self.ids, "ids", "n", "length", "j")
        for factor, each in filter(None, self.coefficients):
            check_same_shape(self.ids, check_reals(each, "coefficients"), "ids", "coefficients")
            check_shape(check_reals(factor, "factor"), self.ids.shape[:1], "factor", "one number per sequence")

    def beside(self, own: Floats, rows: slice, mask: Flags) -> Floats:
        """Coefficients of the tokens written, (kinds, m, length), and after them those of the others, 0 at padding."""
        out = np.zeros((*own.shape, 1 + self.ids.shape[-1]))
        out[..., 0] = own
        for kind, given in enumerate(self.coefficients):
            if given is not None:
                factor, each = (array[rows] for array in given)
                out[kind, ..., 1:] = np.where(mask[..., None], factor[:, None, None] * each, 0.0)
        return out


def token_log_probs(
    model: Model, prompts: Sequence[Ints], prompt: Ints, tokens: Ints, mask: Flags, temperature: float = 1.0
) -> Tensor:
    """log p of every token, nats, with its graph to the model's own parameters, from which a loss can be made.

    The arguments are those of `gradients`.

    Returns:
        Shape (tokens,), in the order of `tokens[mask]`.

    Raises:
        ValueError: as in `gradients`.
    """
    check_positive("temperature", temperature)
    completions = Completions.checked(model, prompts, prompt, tokens, mask)
    with scoring_mode(model, differentiable=True):
        return _log_probs(model, dict(model.named_parameters()), completions, temperature)[:, 0]


def gradients(
    model: Model,
    prompts: Sequence[Ints],
    prompt: Ints,
    tokens: Ints,
    mask: Flags,
    coefficients: Floats,
    *,
    patterns: Sequence[str],
    batches: Iterable[slice],
    temperature: float = 1.0,
    kept: SamplingMask | None = None,
    others: OtherTokens | None = None,
    limit: int = 2 << 30,
) -> Iterator[tuple[slice, Floats]]:
    """The gradient of every slice of sequences, a row for each set of coefficients; slices of one are per sequence.

    log p is the law of logits / temperature, in float32 at least; a float64 model computes in float64 throughout.
    Sequences without any coefficient cost nothing: one that GRPO gives an advantage of 0 is not read.

    Args:
        model: the policy, in eval mode; nothing of it changes, neither weights nor `.grad` nor `requires_grad`.
        prompts: the token ids of each prompt, which may differ in length.
        prompt: the index of the prompt of each sequence, (n,).
        tokens: the sequences, (n, length).
        mask: True on tokens, which come before all padding, (n, length).
        coefficients: c, (kinds, n, length), of any value at padding.
        patterns: the block, see `block_of`.
        batches: the sequences that go through the model together, one slice after the other.
        temperature: the divisor of the logits, positive.
        kept: the tokens on which log p is renormalised, at every token of the sequences; None: all.
        others: further tokens of the same states, with coefficients for each set; None: none.
        limit: the most bytes that one result may hold.

    Yields:
        A slice, and its gradients, (kinds, parameters), float64: the parameters of the block flattened one after the
        other, in the order of `block_of`. A trainer's divisors belong into the coefficients. A set of coefficients
        that is not finite on the slice has no gradient there: nan.

    Raises:
        ValueError: a shape differs, a token is none of the vocabulary, the context is too short, no parameter
            matches, the model is in training mode, or a result would be larger than `limit`.
    """
    check_positive("temperature", temperature)
    check_reals(coefficients, "coefficients", "kinds", "n", "length")
    block = block_of(model, patterns)
    _require_fits(len(coefficients), sum(weight.numel() for weight in block.values()), limit)
    completions = Completions.checked(model, prompts, prompt, tokens, mask)
    coefficients = _checked(coefficients, completions)
    with scoring_mode(model, differentiable=True):  # refuses here what it would refuse at the first slice
        pass
    shape = completions.tokens.shape
    if kept is not None:
        check_shape(kept.places, shape, "kept.places", "one place per token")
    if others is not None:
        check_shape(others.ids, (*shape, others.ids.shape[-1]), "others.ids", "some tokens beside each")
        if len(others.coefficients) != len(coefficients):
            raise ValueError(f"others has {len(others.coefficients)} sets, coefficients has {len(coefficients)}")

    def of(rows: slice) -> Floats:
        own = None if kept is None else kept.take(rows)
        part, columns = completions.take(rows), coefficients[:, rows, :, None]
        ids = part.tokens[..., None]
        if others is not None:
            columns = others.beside(coefficients[:, rows], rows, part.mask)
            ids = np.concatenate([ids, others.ids[rows]], axis=-1)
        return _of_slice(model, block, part, ids, columns, temperature, own)

    return ((rows, of(rows)) for rows in batches)


def _checked(coefficients: Floats, completions: Completions) -> Floats:
    """The coefficients, 0 at padding; (kinds, n, length)."""
    shape = completions.tokens.shape
    if coefficients.shape[1:] != shape:
        raise ValueError(f"coefficients has shape {coefficients.shape}: (kinds, *{shape}) is expected")
    return np.where(completions.mask, coefficients, 0.0)


def _require_fits(kinds: int, parameters: int, limit: int) -> None:
    if (needed := kinds * parameters * 8) > limit:
        raise ValueError(
            f"the gradients of {kinds} sets of coefficients in {parameters:,} parameters are {needed / 2**30:.3g} GiB "
            f"and the limit is {limit / 2**30:.3g} GiB: give patterns that match fewer parameters, or fewer sets"
        )


def _of_slice(
    model: Model,
    block: dict[str, Tensor],
    completions: Completions,
    ids: Ints,
    coefficients: Floats,
    temperature: float,
    kept: SamplingMask | None,
) -> Floats:
    """The gradients of some completions, (kinds, parameters), from coefficients (kinds, n, length, j) of ids there."""
    import torch

    out = np.zeros((len(coefficients), sum(weight.numel() for weight in block.values())))
    wanted = np.any(coefficients != 0, axis=(0, -1))
    rows = np.flatnonzero(wanted.any(axis=-1))
    if not rows.size:
        return out
    wanted, coefficients = wanted[rows], coefficients[:, rows]
    completions = dataclasses.replace(completions.take(rows), mask=wanted)
    # Copies that share memory: no request for gradients reaches the model's own parameters.
    with scoring_mode(model, differentiable=True):
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        leaves = [weights[name].requires_grad_() for name in block]
        own = None if kept is None else dataclasses.replace(kept, places=kept.places[rows][wanted])
        log_probs = _log_probs(model, weights, completions, temperature, own, ids[rows][wanted])
        finite = np.array([bool(np.isfinite(each).all()) for each in coefficients])
        out[~finite] = np.nan
        for kind in np.flatnonzero(finite):
            parts = torch.autograd.grad(
                log_probs,
                leaves,
                on_device(model, coefficients[kind][wanted]).to(log_probs.dtype),
                retain_graph=bool(finite[kind + 1 :].any()),
                allow_unused=True,
                materialize_grads=True,
            )
            out[kind] = np.concatenate([gradient.flatten().double().cpu().numpy() for gradient in parts])
    return out


def _log_probs(
    model: Model,
    weights: dict[str, Tensor],
    completions: Completions,
    temperature: float,
    kept: SamplingMask | None = None,
    ids: Ints | None = None,
) -> Tensor:
    """log p of `ids`, (tokens, j), at every token wanted, or of these, j = 1; `weights` are in place of the model's."""
    import torch

    scores = completions.logits(model, weights=weights)
    # Half precision has too few digits for a law over a large vocabulary.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    if kept is not None:
        scores = scores.masked_fill(~on_device(model, kept.dense(scores.shape[-1])), -torch.inf)
    chosen = completions.tokens[completions.mask][:, None] if ids is None else ids
    return torch.log_softmax(scores, dim=-1).gather(-1, on_device(model, chosen))
