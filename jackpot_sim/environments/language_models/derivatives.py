"""The derivatives of a model's scores at every prefix with respect to its parameters.

Parameters are flattened one after the other, in the order of `model.named_parameters()`.
"""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.checks import check_reals
from jackpot_sim.environments.language_models.library import (
    LAST,
    Cache,
    Model,
    Tensor,
    cached_tensors,
    empty_cache,
    gathered,
    logits,
)
from jackpot_sim.environments.language_models.walking import (
    blocks_below,
    check_tree,
    new_tokens,
    on_device,
    parents_in,
    prompt_blocks,
    rows_at_once,
    scoring_mode,
    within_block,
)
from jackpot_sim.environments.prefix_tree import PrefixTree


def parameter_gradient(model: Model, prompts: Ints, tree: PrefixTree, table: Floats) -> Floats:
    """Σ_s Σ_x table(s, x) · ∂z(x|s)/∂θ, z the logits: from a gradient in logits to one in parameters.

    With the policy gradient at every (prompt, prefix, token) as the table, it is ∇_θ J. The prefixes are read as in
    `CausalLM.log_probs`. A block is differentiated after all blocks below it, whose gradients in its keys and values
    are then known; so no more is held than a graph per level.

    Args:
        model: the policy; neither its weights nor their `.grad` change.
        prompts: shape (prompts, prompt_length).
        tree: the prefixes.
        table: shape (prompts, prefixes, vocab).

    Returns:
        Shape (parameters,).

    Raises:
        ValueError: as in `CausalLM.log_probs`, or the table has another shape.
    """
    import torch

    prompts = check_tree(model, prompts, tree)
    shape = len(prompts), tree.prefixes, tree.vocab
    check_reals(table, "table")
    if table.shape != shape:
        raise ValueError(f"table has shape {table.shape}: prompts, prefixes and tokens make {shape}")
    at_once = rows_at_once(model, prompts.shape[1] + tree.length)

    def visit(some: slice, rows: slice, cache: Cache, above: list[Tensor]) -> list[Tensor]:
        """Adds the gradients of this block and all below it to `total`; returns those in the tensors `above`."""
        count = some.stop - some.start
        read = on_device(model, new_tokens(prompts[some], tree, rows))
        scores = logits(model, read, LAST, cache=cache, weights=weights)[:, 0]
        out = [scores]
        outer = [on_device(model, table[some, rows].reshape(-1, tree.vocab)).to(scores.dtype)]
        blocks = list(blocks_below(tree, rows, at_once // count))
        if blocks:
            places = cached_tensors(cache)
            out += [holder[name] for holder, name in places]
            leaves = [tensor.detach().requires_grad_() for tensor in out[1:]]
            for (holder, name), leaf in zip(places, leaves, strict=True):
                holder[name] = leaf
            outer += [torch.zeros_like(leaf) for leaf in leaves]
            for below in blocks:
                parents = on_device(model, parents_in(tree, rows, below, count))
                for sum_, part in zip(outer[1:], visit(some, below, gathered(cache, parents), leaves), strict=True):
                    sum_ += part
        inputs = [*weights.values(), *above]
        gradients = torch.autograd.grad(out, inputs, outer, allow_unused=True, materialize_grads=True)
        for sum_, each in zip(total, gradients, strict=False):
            sum_ += each
        return list(gradients[len(total) :])

    with scoring_mode(model, differentiable=True):
        weights = {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}
        total = [torch.zeros_like(weight) for weight in weights.values()]
        for some in prompt_blocks(len(prompts), tree, at_once):
            visit(some, tree.levels[0], empty_cache(model.config), [])
    return np.asarray(_flat(total, 0).double().cpu().numpy())


def log_prob_features(model: Model, prompts: Ints, tree: PrefixTree, limit: int = 2 << 30) -> Floats:
    """∂ log p(x|prompt, prefix)/∂θ at every (prefix, token), nats; each prefix is read whole.

    Args:
        model: the policy; neither its weights nor their `.grad` change.
        prompts: shape (prompts, prompt_length).
        tree: the prefixes.
        limit: the most bytes that the result may hold.

    Returns:
        Shape (prompts, prefixes, vocab, parameters).

    Raises:
        ValueError: as in `CausalLM.log_probs`, or the result would be larger than `limit`.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    prompts = check_tree(model, prompts, tree)
    cells, parameters = tree.prefixes * tree.vocab, sum(weight.numel() for weight in model.parameters())
    if (needed := len(prompts) * cells * parameters * 8) > limit:
        raise ValueError(
            f"the features of {len(prompts)} prompts, {tree.prefixes:,} prefixes, {tree.vocab} tokens and "
            f"{parameters:,} parameters are {needed / 2**30:.3g} GiB and the limit is {limit / 2**30:.3g} GiB: make "
            "length, vocab or the model smaller"
        )

    def law(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return torch.log_softmax(logits(model, tokens[None], LAST, weights=weights)[0, 0], dim=-1)

    derivative = torch.func.vmap(torch.func.jacrev(law), in_dims=(None, 0))
    at_once = within_block(tree.vocab * parameters // 4)
    out = np.empty((len(prompts), tree.prefixes, tree.vocab, parameters))
    with scoring_mode(model, differentiable=True), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no vmap
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        for prompt, features in zip(prompts, out, strict=True):
            read = prompt[None]
            for level, rows in enumerate(tree.levels):
                if level:
                    read = np.column_stack(
                        [read[tree.parent[rows] - tree.levels[level - 1].start], tree.last_token[rows]]
                    )
                for start in range(0, len(read), at_once):
                    each = derivative(weights, on_device(model, read[start : start + at_once]))
                    block = slice(rows.start + start, rows.start + min(start + at_once, len(read)))
                    features[block] = _flat(list(each.values()), 2).double().cpu().numpy()
    return out


def _flat(tensors: list[Tensor], first: int) -> Tensor:
    """One tensor, the axes from `first` on flattened and joined."""
    import torch

    return torch.cat(
        [tensor.flatten(first) if tensor.ndim > first else tensor[..., None] for tensor in tensors], dim=-1
    )
