"""What a model's attention reads: its cache, copied for other rows, rounded, or cut to a window."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.build import Model, library

Cache: TypeAlias = Any
"""A transformers `Cache`."""

Tensor: TypeAlias = Any
"""A torch tensor."""


def gathered(cache: Cache, rows: Tensor) -> Cache:
    """A cache with these rows of another, which stays as it is; `rows` of shape (n,) may repeat and reorder."""
    out = copy.copy(cache)
    out.layers = []
    for layer in cache.layers:
        twin = copy.copy(layer)
        # Layers with a recurrent state keep it in a dictionary that they write to.
        vars(twin).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
        out.layers.append(twin)
    out.reorder_cache(rows)
    return out


def states(cache: Cache) -> list[tuple[dict[Any, Any], Any]]:
    """Where a cache keeps its tensors: keys and values, and recurrent states; (holder, name) of each."""
    found = []
    for layer in cache.layers:
        holders = [vars(layer), *(value for value in vars(layer).values() if isinstance(value, dict))]
        found += [(holder, name) for holder in holders for name, value in holder.items() if _is_floating(value)]
    return found


def rounding_cache(config: Any, round_: Callable[[Tensor], Tensor]) -> Cache:
    """A cache that keeps keys and values rounded, so that attention reads rounded ones, the newest included.

    Args:
        config: that of the model; layers with a sliding window keep their window.
        round_: from keys or values of shape (batch, heads, tokens, head size) to rounded ones of the same shape
            and dtype. Each token must be rounded by itself, or the law would depend on how it is scored. A cast
            to float32 is one, here.
    """
    import torch
    from transformers import DynamicCache

    class RoundingCache(DynamicCache):
        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():  # in_double would undo a cast
                key_states, value_states = round_(key_states), round_(value_states)
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    return RoundingCache(config=config)


def with_sliding_window(model: Model, window: int) -> Model:
    """A copy of the model, every layer of which attends to the last `window` tokens only.

    The window counts the token itself: a layer sees it and the window − 1 before it. So the law at a prefix
    depends on its last layers · (window − 1) + 1 tokens. The weights are copies, the bits the same.

    Raises:
        ValueError: the window is below 2 (transformers' cache of a window of 1 reads too far back), or the
            architecture has no sliding window.
    """
    import torch

    check_count("window", window, 2)
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    if not hasattr(text, "sliding_window"):
        raise ValueError(f"{config.model_type} models have no sliding window (Qwen2, Qwen3, Mistral and Gemma have)")
    if hasattr(text, "use_sliding_window"):
        text.use_sliding_window = True
    text.sliding_window = window
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    if not all(library().DynamicCache(config=config).is_sliding):
        raise ValueError(f"{config.model_type} models cannot have a sliding window in every layer")
    with torch.random.fork_rng(devices=[]):
        out = library().AutoModelForCausalLM.from_config(
            config, dtype=model.dtype, attn_implementation=model.config._attn_implementation
        )
    out.load_state_dict(model.state_dict())
    return out.to(model.device).train(model.training)


def _is_floating(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 0
