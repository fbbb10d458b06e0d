"""Gradients of weighted log-probs of given sequences, in a chosen block of a model's parameters.

    Σ_i Σ_t c[k, i, t] · ∂ log p(y_t | prompt, y_<t) / ∂θ_block

for many sets of coefficients k at once. A slice of sequences goes through the model once; each set costs one
backward pass through what lies above the block, as nothing below it is differentiated.

Sequences of different lengths are padded on the right: what is read there comes after every token that counts,
so that a causal model needs no mask to overlook it, and positions are those of the unpadded sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.numerics import check_same_shape
from jackpot_sim.environments.fields import check_positive
from jackpot_sim.environments.language_models.build import check_positions
from jackpot_sim.environments.language_models.library import Model, Tensor, logits
from jackpot_sim.environments.language_models.walking import check_tokens, on_device, scoring_mode

_NAMES_TOLD = 8
"""Parameters that an error lists."""


def block_of(model: Model, patterns: Sequence[str]) -> dict[str, Tensor]:
    """The parameters whose name matches any of the patterns, in the model's order; ("*",) is all of them.

    A weight that is tied has several names, any of which may match; it is there once, under the first.

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
            told = ", ".join(name for name, _ in names[:_NAMES_TOLD])
            raise ValueError(f"no parameter matches {pattern!r}: there are {len(names)}, among them {told}")
    wanted = {id(weight) for name, weight in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return {name: weight for name, weight in model.named_parameters() if id(weight) in wanted}


def token_log_probs(
    model: Model, prompts: Sequence[Ints], prompt: Ints, tokens: Ints, mask: Flags, temperature: float = 1.0
) -> Tensor:
    """log p of every token, nats, with its graph to the model's own parameters, for a loss of one's own.

    Arguments as in `gradients`.

    Returns:
        Shape (tokens,), sequence by sequence, as `tokens[mask]` has them.

    Raises:
        ValueError: as `gradients`.
    """
    check_positive("temperature", temperature)
    given = _Sequences.checked(model, prompts, prompt, tokens, mask, np.ones((1, *tokens.shape)))
    with scoring_mode(model, differentiable=True):
        return _log_probs(model, dict(model.named_parameters()), given, temperature)


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
    limit: int = 2 << 30,
) -> Iterator[tuple[slice, Floats]]:
    """The gradient of every slice of sequences, a row for each set of coefficients; slices of one are per sequence.

    log p is the law of logits / temperature, in float32 at least; a float64 model computes in float64 throughout.
    Sequences without any coefficient cost nothing: one that GRPO gives an advantage of 0 is not read.

    Args:
        model: the policy, in eval mode; of it nothing changes, neither weights nor `.grad` nor `requires_grad`.
        prompts: the token ids of each prompt, which may differ in length.
        prompt: which of them each sequence follows, (n,).
        tokens: the sequences, (n, length).
        mask: True on tokens, which come before all padding, (n, length).
        coefficients: c, (kinds, n, length); what they are at padding does not matter.
        patterns: the block, see `block_of`.
        batches: which sequences go through the model together, one slice after the other.
        temperature: what the logits are divided by, positive.
        limit: the most bytes that one result may hold.

    Yields:
        A slice, and its gradients, (kinds, parameters), float64: the parameters of the block flattened one after
        the other, in the order of `block_of`. What a trainer divides by belongs into the coefficients. A set with
        a coefficient of the slice that is not finite has no gradient there: nan.

    Raises:
        ValueError: a shape differs, a token is none of the vocabulary, the context is too short, no parameter
            matches, the model is in training mode, or a result would be larger than `limit`.
    """
    check_positive("temperature", temperature)
    block = block_of(model, patterns)
    _require_fits(len(coefficients), sum(weight.numel() for weight in block.values()), limit)
    given = _Sequences.checked(model, prompts, prompt, tokens, mask, coefficients)
    with scoring_mode(model, differentiable=True):  # refuses here what it would refuse at the first slice
        pass
    return ((rows, _of_slice(model, block, given.take(rows), temperature)) for rows in batches)


@dataclass(frozen=True, eq=False)
class _Sequences:
    """What is differentiated, checked."""

    prompts: Sequence[Ints]
    prompt: Ints
    tokens: Ints
    live: Flags
    """True on tokens with a coefficient other than 0 in any set."""
    coefficients: Floats

    @classmethod
    def checked(
        cls, model: Model, prompts: Sequence[Ints], prompt: Ints, tokens: Ints, mask: Flags, coefficients: Floats
    ) -> _Sequences:
        prompts = [check_tokens(model, ids, f"prompts[{index}]", 1) for index, ids in enumerate(prompts)]
        check_same_shape(mask, tokens, "mask", "tokens")
        tokens = check_tokens(model, np.where(mask, tokens, 0), "tokens", 2)
        if np.any(mask[:, 1:] & ~mask[:, :-1]):
            raise ValueError("mask has a token after padding: tokens come before all padding")
        if coefficients.ndim != 3 or coefficients.shape[1:] != tokens.shape or not len(coefficients):
            raise ValueError(f"coefficients has shape {coefficients.shape}: (kinds, *{tokens.shape}) is expected")
        coefficients = np.where(mask, coefficients, 0.0)
        if prompt.shape != (len(tokens),):
            raise ValueError(f"prompt has shape {prompt.shape}: there are {len(tokens)} sequences")
        if prompt.min() < 0 or prompt.max() >= len(prompts):
            raise ValueError(f"prompt goes from {prompt.min()} to {prompt.max()}: there are {len(prompts)} prompts")
        lengths = np.array([len(ids) for ids in prompts])
        check_positions(model, int(np.max(lengths[prompt] + mask.sum(axis=-1))), "the model")
        return cls(prompts, prompt, tokens, np.any(coefficients != 0, axis=0), coefficients)

    def take(self, rows: slice) -> _Sequences:
        """Those of a slice that have any coefficient."""
        there = np.arange(len(self.tokens))[rows]
        there = there[self.live[there].any(axis=-1)]
        return _Sequences(
            self.prompts, self.prompt[there], self.tokens[there], self.live[there], self.coefficients[:, there]
        )

    def read(self) -> Ints:
        """What the model reads: prompt and tokens up to the last but one that counts, padded on the right."""
        upto = self.live.shape[1] - np.argmax(self.live[:, ::-1], axis=-1) - 1
        parts = [
            np.concatenate([self.prompts[prompt], tokens[:end]])
            for prompt, tokens, end in zip(self.prompt, self.tokens, upto, strict=True)
        ]
        out = np.zeros((len(parts), max(map(len, parts))), dtype=np.int64)
        for row, part in zip(out, parts, strict=True):
            row[: len(part)] = part
        return out

    def places(self) -> tuple[Ints, Ints, Ints]:
        """Of every live token the row, where its law stands in what is read, and its id."""
        row, step = np.nonzero(self.live)
        lengths = np.array([len(ids) for ids in self.prompts])
        return row, lengths[self.prompt[row]] + step - 1, self.tokens[row, step]


def _require_fits(kinds: int, parameters: int, limit: int) -> None:
    if (needed := kinds * parameters * 8) > limit:
        raise ValueError(
            f"the gradients of {kinds} sets of coefficients in {parameters:,} parameters are {needed / 2**30:.3g} GiB "
            f"and the limit is {limit / 2**30:.3g} GiB: give patterns that match fewer parameters, or fewer sets"
        )


def _of_slice(model: Model, block: dict[str, Tensor], given: _Sequences, temperature: float) -> Floats:
    import torch

    out = np.zeros((len(given.coefficients), sum(weight.numel() for weight in block.values())))
    if not len(given.tokens):
        return out
    # Copies that share memory: whatever asks for gradients, the model's own parameters do not come to know of it.
    with scoring_mode(model, differentiable=True):
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        leaves = [weights[name].requires_grad_() for name in block]
        log_probs = _log_probs(model, weights, given, temperature)
        finite = np.array([bool(np.isfinite(each).all()) for each in given.coefficients])
        out[~finite] = np.nan
        for kind in np.flatnonzero(finite):
            each = given.coefficients[kind]
            wanted = on_device(model, each[given.live]).to(log_probs.dtype)
            found = torch.autograd.grad(
                log_probs,
                leaves,
                wanted,
                retain_graph=bool(finite[kind + 1 :].any()),
                allow_unused=True,
                materialize_grads=True,
            )
            out[kind] = np.concatenate([gradient.flatten().double().cpu().numpy() for gradient in found])
    return out


def _log_probs(model: Model, weights: dict[str, Tensor], given: _Sequences, temperature: float) -> Tensor:
    """log p of every live token, with its graph, (live tokens,); `weights` stand in for the model's own."""
    import torch

    row, place, token = given.places()
    first = int(place.min())
    scores = logits(model, on_device(model, given.read()), slice(first, int(place.max()) + 1), weights=weights)
    scores = scores[on_device(model, row), on_device(model, place - first)]
    # Half precision has too few digits for a law over a large vocabulary.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    return torch.log_softmax(scores, dim=-1).gather(-1, on_device(model, token)[:, None])[:, 0]
