"""Forward passes over rollouts: a model's law at every token of the completions.

Prompts and completions of different lengths are padded on the right, where a causal model does not look.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.backend import namespace, to_numpy
from jackpot_sim.core.checks import (
    check_ids,
    check_integers,
    check_mask,
    check_padding,
    check_rows,
    check_same_states,
    check_shape,
)
from jackpot_sim.core.support import SamplingMask
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.completions import right_padded
from jackpot_sim.environments.language_models.library import Model, logits
from jackpot_sim.training.loop.packing import packed_logits
from jackpot_sim.training.objective import ModelPass

if TYPE_CHECKING:
    from torch import Tensor, device


@dataclass(frozen=True, eq=False)
class PaddedSequences:
    """n prompts with their completions of at most `length` tokens, as torch tensors.

    Attributes:
        ids: prompt, completion and padding, int64 (n, longest).
        places: the index in a row at which the law of each token of the completion is read, which is one before the
            token; (n, length).
        mask: True on tokens of the completion; (n, length).
        samples: the number of rows side by side that follow the same prompt. A model that `packs` reads the prompt
            once for them where that pays; 1 reads every row by itself.
        kept: the tokens that the sampler kept before every token of the completions, (n, length), on which laws are
            renormalised; None: all.

    Raises:
        TypeError: ids or places are no integers, or the mask is not boolean.
        ValueError: a shape differs.
    """

    ids: Tensor
    places: Tensor
    mask: Tensor
    samples: int = 1
    kept: SamplingMask | None = None

    def __post_init__(self) -> None:
        check_integers(self.ids, "ids", "n", "longest")
        check_integers(self.places, "places", "n", "length")
        check_same_states(self.ids, self.places, "ids", "places")
        check_mask(self.mask, self.places, "places")
        if self.kept is not None:
            check_shape(self.kept.places, tuple(self.mask.shape), "kept.places", "one place per token of mask")

    @classmethod
    def of(
        cls,
        prompts: Sequence[Ints],
        prompt: Ints,
        tokens: Ints,
        mask: Flags,
        device: device | str,
        samples: int = 1,
        kept: SamplingMask | None = None,
    ) -> PaddedSequences:
        """The sequences in numpy arrays.

        Args:
            prompts: ids of each prompt, shape (its length,).
            prompt: the prompt that each completion follows, (n,).
            tokens: ids of the completions, (n, any length).
            mask: True on tokens, which come before all padding; the shape of `tokens`.
            device: the device of the tensors.
            samples: as in the class.
            kept: as in the class; its places have the shape of `tokens`.

        Raises:
            TypeError: ids or indices are no integers, or the mask is not boolean.
            ValueError: a shape differs, an index has no prompt, or padding comes before a token.
        """
        import torch

        check_mask(mask, check_integers(tokens, "tokens", "n", "length"), "tokens")
        check_padding(mask)
        namespace(tokens, prompt)
        check_shape(prompt, (len(tokens),), "prompt", "one index for each row of tokens")
        check_ids(prompt, len(prompts), "prompt")
        for each in prompts:
            check_integers(each, "prompts", "length of a prompt")
        length = int(mask.sum(axis=-1).max())
        read, _ = right_padded(prompts)
        places = np.array([len(each) for each in prompts])[prompt, None] - 1 + np.arange(length)
        ids = np.pad(read[prompt], ((0, 0), (0, length)))[:, : int(places.max(initial=0)) + 2]
        np.put_along_axis(ids, places + 1, tokens[:, :length], axis=1)
        given = [torch.as_tensor(array, device=device) for array in (ids, places, mask[:, :length])]
        own = None if kept is None else dataclasses.replace(kept, places=kept.places[:, :length])
        return cls(given[0], given[1], given[2], samples, own)

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def take(self, rows: Tensor | slice, *, whole_groups: bool = False) -> PaddedSequences:
        """Some of the sequences.

        Args:
            rows: indices (m,) or a slice.
            whole_groups: whether all rows of a prompt still lie side by side.
        """
        check_rows(rows)
        samples = self.samples if whole_groups else 1
        kept = None if self.kept is None else self.kept.take(rows if isinstance(rows, slice) else to_numpy(rows))
        return PaddedSequences(self.ids[rows], self.places[rows], self.mask[rows], samples, kept)

    def parts(self, size: int) -> Iterator[tuple[slice, PaddedSequences]]:
        """The rows and the sequences of each part, about `size` at a time, whole groups where that many fit."""
        step = self.part_size(size)
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self.take(rows, whole_groups=size >= self.samples)

    def part_size(self, size: int) -> int:
        """The largest number of sequences up to `size` that is whole groups; `size` where no group fits."""
        return size - size % self.samples if size >= self.samples else size

    @property
    def tokens(self) -> Tensor:
        """The ids of the completions, (n, length); any id at padding."""
        return self.ids.gather(1, self.places + 1)


def computing_in(precision: Precision, model: Model) -> AbstractContextManager[object]:
    """A context in which a model of float32 weights multiplies in bf16 or fp16; others are those of the weights."""
    import torch

    if precision not in (Precision.BF16, Precision.FP16):
        return nullcontext()
    return torch.autocast(model.device.type, dtype=precision.dtype)


@contextmanager
def rounded_weights(precision: Precision, *models: Model) -> Iterator[None]:
    """A block in which models compute with copies of their weights in `precision`, through which gradients flow.

    A weight that has two names has one copy. The weights themselves are back in place after the block; what was
    computed in it keeps the copies for its backward pass.
    """
    copies: dict[int, Tensor] = {}
    held = [
        (module._parameters, name, weight)
        for model in models
        for module in model.modules()
        for name, weight in module._parameters.items()
        if weight is not None
    ]
    for _, _, weight in held:
        if id(weight) not in copies:
            copies[id(weight)] = weight.to(precision.dtype)
    try:
        for weights, name, weight in held:
            weights[name] = copies[id(weight)]
        yield
    finally:
        for weights, name, weight in held:
            weights[name] = weight


def model_pass(model: Model, sequences: PaddedSequences, temperature: float = 1.0) -> ModelPass:
    """The laws of `model` at every token of the completions, in float32 at least, on the tokens kept alone.

    Args:
        model: a causal language model.
        sequences: n prompts with their completions.
        temperature: the divisor of the logits.

    Raises:
        ValueError: a place lies beyond the ids.
    """
    import torch

    if sequences.samples > 1 and int(sequences.places[:, 0].min()) + 1 >= sequences.mask.shape[1]:
        scores = packed_logits(model, sequences.ids, sequences.places, sequences.mask, sequences.samples)
    else:
        scores = _before_tokens(model, sequences)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if temperature != 1:
        scores = scores / temperature
    if sequences.kept is not None:
        kept = torch.as_tensor(sequences.kept.dense(scores.shape[-1]), device=scores.device)
        scores = scores.masked_fill(~kept, -torch.inf)
    log_normaliser = torch.logsumexp(scores, dim=-1)
    chosen = scores.gather(-1, sequences.tokens[..., None])[..., 0]
    return ModelPass(scores, log_normaliser, chosen - log_normaliser)


def _before_tokens(model: Model, sequences: PaddedSequences) -> Tensor:
    """The logits before every token of the completions, (n, length, vocab), each row read by itself."""
    import torch

    first, last = int(sequences.places.min()), int(sequences.places.max())
    if first < 0 or last + 1 >= sequences.ids.shape[1]:
        raise ValueError(
            f"places must lie from 0 to {sequences.ids.shape[1] - 2}, before a token of ids, got {first} to {last}"
        )
    places = sequences.places - first
    scores: Tensor = logits(model, sequences.ids[:, :-1], slice(first, last + 1))
    in_line = torch.arange(places.shape[1], device=places.device)
    if scores.shape[1] != places.shape[1] or not torch.equal(places, in_line.expand_as(places)):
        scores = scores.gather(1, places[..., None].expand(*places.shape, scores.shape[-1]))
    return scores
