"""The walk of a tree's prefixes through a model, in blocks, level by level; and the checks before it.

Rows are those of `PrefixTree`. A block is a run of rows of one level, for some of the prompts at once; its tensors hold
all rows of the first prompt, then those of the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.checks import check_mask
from jackpot_sim.environments.language_models.build import check_positions, check_vocabulary
from jackpot_sim.environments.language_models.library import Model, Tensor, in_double
from jackpot_sim.environments.prefix_tree import PrefixTree

BLOCK_NUMBERS = 1 << 21
"""Numbers in the largest arrays that a block of rows makes."""


@contextmanager
def scoring_mode(model: Model, differentiable: bool = False) -> Iterator[None]:
    """The context in which a model is read: a float64 model in float64 throughout, and without gradients by default.

    Raises:
        ValueError: the model is in training mode.
    """
    import torch

    if model.training:
        raise ValueError("the model is in training mode, in which dropout makes a law random: call model.eval()")
    with torch.inference_mode(not differentiable), in_double(model):
        yield


def on_device(model: Model, array: ArrayLike) -> Tensor:
    """The array as a tensor of its shape and dtype on the model's device."""
    import torch

    return torch.as_tensor(np.ascontiguousarray(array), device=model.device)


def seen(model: Model, mask: Flags, new: int) -> tuple[Tensor | None, Tensor | None]:
    """The mask and the positions with which a model reads the last `new` tokens of rows that begin with padding.

    Args:
        model: the model.
        mask: True on tokens, (rows, all).
        new: the number of tokens that are read now.

    Returns:
        1 on tokens, (rows, all), and the positions, (rows, new); None and None where there is no padding.
    """
    check_mask(mask, mask, "mask")
    if mask.all():
        return None, None
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -new:]
    return on_device(model, mask.astype(np.int64)), on_device(model, positions)


def rows_at_once(model: Model, tokens: int) -> int:
    """The number of sequences of so many tokens in a block: few if the model, its vocabulary or the prompt is large."""
    config = model.config.get_text_config()
    return within_block(tokens * max(int(config.vocab_size), int(config.num_hidden_layers * config.hidden_size)))


def within_block(numbers: int) -> int:
    """The number of rows of so many numbers in a block."""
    return max(1, BLOCK_NUMBERS // numbers)


def new_tokens(prompts: Ints, tree: PrefixTree, rows: slice) -> Ints:
    """The tokens that lead to these rows: all of a prompt at the root, else the last one; (prompts · rows, new)."""
    return prompts if rows.start == 0 else np.tile(tree.last_token[rows], len(prompts))[:, None]


def parents_in(tree: PrefixTree, rows: slice, below: slice, prompts: int) -> Ints:
    """The places of the parents of `below` in a block of `rows`, prompt by prompt; (prompts · below,)."""
    first = np.arange(prompts, dtype=np.int64)[:, None] * (rows.stop - rows.start)
    return np.asarray(first + tree.parent[below] - rows.start).ravel()


def blocks_below(tree: PrefixTree, rows: slice, size: int) -> Iterator[slice]:
    """The children of rows of one level, which lie side by side, `size` at a time; nothing below the last level."""
    first, last = int(tree.child[rows.start, tree.going_on[0]]), int(tree.child[rows.stop - 1, tree.going_on[-1]])
    if first >= 0:
        yield from _slices(first, last + 1, size)


def prompt_blocks(count: int, tree: PrefixTree, at_once: int) -> Iterator[slice]:
    """The prompts in blocks of as many as fit with their deepest level."""
    return _slices(0, count, at_once // (tree.levels[-1].stop - tree.levels[-1].start))


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for each in range(start, stop, max(1, size)):
        yield slice(each, min(each + max(1, size), stop))


def check_tree(model: Model, prompts: Ints, tree: PrefixTree) -> Ints:
    """The prompts as int64, refused unless the model can read them and every sequence of the tree."""
    prompts = check_tokens(model, prompts, "prompts", 2)
    check_positions(model, prompts.shape[1] + tree.length, "the model")
    check_vocabulary(model, tree.vocab, "the model")
    return prompts


def check_tokens(model: Model, tokens: ArrayLike, name: str, ndim: int) -> Ints:
    """`tokens` as int64, refused unless they are ids of the model on that many axes, at least one on each."""
    return check_ids(int(model.config.get_text_config().vocab_size), tokens, name, ndim)


def check_ids(vocab: int, tokens: ArrayLike, name: str, ndim: int) -> Ints:
    """`tokens` as int64, refused unless they are ids below `vocab` on that many axes, at least one on each."""
    tokens = np.asarray(tokens)
    if tokens.ndim != ndim or tokens.size == 0 or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold token ids on {ndim} axes, at least one each, got {tokens.dtype} of shape {tokens.shape}"
        )
    if tokens.min() < 0 or tokens.max() >= vocab:
        raise ValueError(
            f"{name} holds tokens from {tokens.min()} to {tokens.max()}: the vocabulary is 0 to {vocab - 1}"
        )
    return np.asarray(tokens, dtype=np.int64)
