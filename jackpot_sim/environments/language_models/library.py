"""Everything that the project asks of transformers, whose argument and attribute names change between releases.

Each function looks at what the installed release offers, its signatures and attributes, and never at its version
number; where there is a new name and an old one, the new one is used. No other module names an argument of a model's
forward pass, a cache class, or a private attribute, and a test of the architecture holds that.

transformers computes some steps in float32 whatever the model's dtype (norms, rotary angles, some softmaxes), which
leaves a float64 model about six digits. `in_double` makes them float64 too, so that a law does not depend on how it
was computed, and derivatives can be checked.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

from jackpot_sim.environments.fields import check_count
from jackpot_sim.requirements import RequirementError, imported, require

Model: TypeAlias = Any
"""A transformers `PreTrainedModel` with a language-model head."""

Tokenizer: TypeAlias = Any
"""A transformers tokenizer."""

Cache: TypeAlias = Any
"""A transformers `Cache`."""

Tensor: TypeAlias = Any
"""A torch tensor."""

_CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What the forward pass calls its cache, the newest name first."""

WHOLE = slice(None)
LAST = slice(-1, None)
"""The last of the tokens that are read."""


@functools.cache
def library() -> Any:
    """The module `transformers`, without its annotations, which cover it in part.

    Raises:
        RequirementError: torch or transformers is missing, broken, or older than this project needs.
    """
    require("torch", "transformers")
    imported("torch")
    return imported("transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """A context without progress bars and reports of transformers and the hub: the errors here say what they say."""
    logger, hub = library().utils.logging, logging.getLogger("huggingface_hub")
    level, bars, hub_level = logger.get_verbosity(), logger.is_progress_bar_enabled(), hub.level
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            logger.enable_progress_bar()


# --- Loading and making -----------------------------------------------------------------------------------------------


def pretrained(path: Path, dtype: Any) -> tuple[Model, list[str]]:
    """The model in a folder, and the names of the weights that are missing there, which hold random numbers.

    Nothing is fetched, no code that lies in the folder is run, and only safetensors are read.
    """
    import torch

    # torch's grouped product, with which transformers computes experts, has no float64.
    given = {"experts_implementation": "eager"} if dtype == torch.float64 else {}
    model, info = library().AutoModelForCausalLM.from_pretrained(
        path,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=dtype,
        output_loading_info=True,
        **given,
    )
    with torch.no_grad():
        # Memory of torch's own: tensors that lie in the file at another alignment give sums with other last digits.
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
    return model, sorted(info["missing_keys"])


def pretrained_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder, without any network access."""
    return library().AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def fresh(config: Any, dtype: Any, like: Model | None = None) -> Model:
    """A model with random weights; its attention is computed as that of `like`, or by torch's sdpa."""
    attention = "sdpa" if like is None else _attention(like)
    return library().AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def known_kinds() -> Mapping[str, Any]:
    """Every `model_type` that transformers knows."""
    return _mapping("configuration_auto", "CONFIG_MAPPING_NAMES")


def causal_kinds() -> Mapping[str, Any]:
    """The `model_type` of every causal language model, with the name of its class."""
    return _mapping("modeling_auto", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


def end_tokens(model: Model | None, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The tokens that end a completion: those of the model's generation config, or else the tokenizer's.

    The tokenizer's own is the first of them, if it is among them: a text is written with that one.
    """
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = None if tokenizer is None else tokenizer.eos_token_id
    if found is None:
        found = [] if own is None else [own]
    ids = [int(token) for token in (found if isinstance(found, list | tuple) else [found])]
    return tuple(sorted(dict.fromkeys(ids), key=lambda token: token != own))


# --- The forward pass -------------------------------------------------------------------------------------------------


def logits(
    model: Model,
    ids: Tensor,
    kept: slice = WHOLE,
    *,
    cache: Cache | None = None,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The logits at some of the tokens that are read, shape (rows, kept, vocab).

    A model that can be asked for these alone computes no others, which may be the largest thing in memory.

    Args:
        model: a causal language model.
        ids: new tokens, (rows, new).
        kept: which of the new tokens, without a step.
        cache: what has been read before; it grows by the new tokens. None keeps nothing.
        mask: 1 on tokens and 0 on padding, (rows, all), or who sees whom, (rows, 1, new, all); None sees all before.
        positions: of the new tokens, (rows, new); None counts from what the cache holds.
        weights: stand in for the model's own, by name.
    """
    import torch

    offered = _parameters(model)
    given: dict[str, Any] = _cache_options(model, cache)
    if mask is not None:
        given["attention_mask"] = mask
    if positions is not None and "position_ids" in offered:
        given["position_ids"] = positions
    start, stop, _ = kept.indices(ids.shape[1])
    if stop - start < ids.shape[1] and "logits_to_keep" in offered:
        to_the_end = stop == ids.shape[1]
        given["logits_to_keep"] = stop - start if to_the_end else torch.arange(start, stop, device=ids.device)
        kept = WHOLE
    out = model(ids, **given) if weights is None else torch.func.functional_call(model, dict(weights), (ids,), given)
    return out.logits[:, kept]


def hidden_states(model: Model, ids: Tensor, cache: Cache | None = None) -> Tensor:
    """The last hidden states at every token that is read, (rows, new, width): what the head makes logits of."""
    layers = model.base_model
    return layers(ids, **_cache_options(layers, cache)).last_hidden_state


def logits_of_states(model: Model, states: Tensor) -> Tensor:
    """The logits that the model itself makes of last hidden states (rows, width), shape (rows, vocab).

    The model is given one token to read, and `states` take the place of what its layers make of that.
    """
    import torch

    def replaced(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = states[None]
        return output

    hook = model.base_model.register_forward_hook(replaced)
    try:
        return logits(model, torch.zeros((1, 1), dtype=torch.int64, device=states.device))[0]
    finally:
        hook.remove()


def keeps_a_cache(model: Model) -> bool:
    """Whether the model can go on from what it has read.

    Raises:
        RequirementError: the installed transformers gives no model a cache under a name known here.
    """
    if _cache_argument(model) is not None:
        return True
    if not set(_CACHE_ARGUMENTS) & set(_parameters_of(library().Qwen3ForCausalLM.forward)):
        raise _not_offered(f"argument {' or '.join(_CACHE_ARGUMENTS)} of a model's forward")
    return False


def takes_any_mask(model: Model) -> bool:
    """Whether the model takes positions and a mask of who sees whom, and computes attention with torch's sdpa.

    Layers with a window make such a mask of their own, and so say no.
    """
    if _attention(model) != "sdpa" or any(windows(model.config)):
        return False
    return {"position_ids", "attention_mask"} <= set(_parameters(model))


def _cache_options(module: Any, cache: Cache | None) -> dict[str, Any]:
    if cache is None:
        return {"use_cache": False}
    name = _cache_argument(module)
    if name is None:
        raise _not_offered(f"argument {' or '.join(_CACHE_ARGUMENTS)} of {type(module).__name__}.forward")
    return {name: cache, "use_cache": True}


def _cache_argument(module: Any) -> str | None:
    return next((name for name in _CACHE_ARGUMENTS if name in _parameters(module)), None)


def _parameters(module: Any) -> frozenset[str]:
    return _parameters_of(type(module).forward)


@functools.cache
def _parameters_of(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


# --- Caches and windows -----------------------------------------------------------------------------------------------


def empty_cache(config: Any) -> Cache:
    """A cache that keeps what it is given; layers with a sliding window keep that."""
    return _cache_class()(config=config)


def rounding_cache(config: Any, round_: Callable[[Tensor], Tensor]) -> Cache:
    """A cache that keeps keys and values rounded, so that attention reads rounded ones, the newest included.

    Args:
        config: that of the model; layers with a sliding window keep their window.
        round_: from keys or values of shape (batch, heads, tokens, head size) to rounded ones of the same shape
            and dtype. Each token must be rounded by itself, or the law would depend on how it is scored. A cast
            to float32 is one, here.
    """
    import torch

    class RoundingCache(_cache_class()):  # type: ignore[misc]
        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():  # in_double would undo a cast
                key_states, value_states = round_(key_states), round_(value_states)
            return super().update(key_states, value_states, *args, **kwargs)

    return RoundingCache(config=config)


def gathered(cache: Cache, rows: Tensor) -> Cache:
    """A cache with these rows of another, which stays as it is; `rows` of shape (n,) may repeat and reorder."""
    out = copy.copy(cache)
    out.layers = []
    for layer in _layers(cache):
        twin = copy.copy(layer)
        # Layers with a recurrent state keep it in a dictionary that they write to.
        vars(twin).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
        out.layers.append(twin)
    out.reorder_cache(rows)
    return out


def cached_tensors(cache: Cache) -> list[tuple[dict[Any, Any], Any]]:
    """The places where a cache keeps its tensors, keys, values and recurrent states: (holder, name) of each."""
    import torch

    places = []
    for layer in _layers(cache):
        holders = [vars(layer), *(value for value in vars(layer).values() if isinstance(value, dict))]
        places += [
            (holder, name)
            for holder in holders
            for name, value in holder.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 0
        ]
    return places


def windows(config: Any) -> list[bool]:
    """Whether each layer of a model with this config attends to a window of tokens, and not to all before."""
    cache = empty_cache(config)
    if not hasattr(cache, "is_sliding"):
        raise _not_offered("DynamicCache.is_sliding")
    return list(cache.is_sliding)


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
    if not all(windows(config)):
        raise ValueError(f"{config.model_type} models cannot have a sliding window in every layer")
    with torch.random.fork_rng(devices=[]):
        out = fresh(config, model.dtype, like=model)
    out.load_state_dict(model.state_dict())
    return out.to(model.device).train(model.training)


# --- Float64 ----------------------------------------------------------------------------------------------------------


def in_double(model: Model) -> AbstractContextManager[Any]:
    """A context in which a float64 model computes in float64 throughout; of other dtypes nothing changes.

    Whatever asks torch for float32 inside it gets float64.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    if model.dtype != torch.float64:
        return nullcontext()

    class Double(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.float:
                func = torch.Tensor.double
            kwargs = {name: doubled(value) for name, value in (kwargs or {}).items()}
            return func(*(doubled(value) for value in args), **kwargs)

    def doubled(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    return Double()


# --- What may not be there --------------------------------------------------------------------------------------------


def _attention(model: Model) -> str | None:
    name: str | None = getattr(model.config, "_attn_implementation", None)
    return name


def _cache_class() -> Any:
    if not hasattr(library(), "DynamicCache"):
        raise _not_offered("DynamicCache")
    return library().DynamicCache


def _layers(cache: Cache) -> list[Any]:
    if not hasattr(cache, "layers"):
        raise _not_offered("DynamicCache.layers")
    layers: list[Any] = cache.layers
    return layers


def _mapping(module: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] | None = getattr(getattr(library().models.auto, module, None), name, None)
    if found is None:
        raise _not_offered(f"models.auto.{module}.{name}")
    return found


def _not_offered(name: str) -> RequirementError:
    return RequirementError(
        f"transformers {library().__version__} has no {name}, which this project relies on: install a release "
        "that it was tested with (pip install -c constraints-cpu.txt '.[hf]' in the project's folder)"
    )
