"""The one adapter to transformers, whose argument and attribute names change between releases.

Each function looks at the signatures and attributes of the installed release, never at its version number; where there
is a new name and an old one, the new one is used. No other module names an argument of a model's forward pass, a cache
class, or a private attribute, and a test of the architecture holds that.

transformers computes some steps in float32 whatever the model's dtype (norms, rotary angles, some softmaxes), which
leaves a float64 model about six digits. `in_double` makes them float64 too, so that a law does not depend on the way in
which it is computed, and derivatives can be checked.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import override

from jackpot_sim.core.checks import check_integers, check_reals, check_same_shape, check_shape
from jackpot_sim.requirements import RequirementError, imported, require

if TYPE_CHECKING:
    import torch

    Tensor: TypeAlias = torch.Tensor
    Dtype: TypeAlias = torch.dtype
else:
    Tensor = Dtype = object

Model: TypeAlias = Any
"""A transformers `PreTrainedModel` with a language-model head."""

Config: TypeAlias = Any
"""A transformers `PreTrainedConfig`."""

Tokenizer: TypeAlias = Any
"""A transformers tokenizer."""

Cache: TypeAlias = Any
"""A transformers `Cache`."""

_CACHE_ARGUMENTS = ("cache", "past_key_values")
"""The names of the cache among the arguments of a forward pass, the newest first."""

WHOLE = slice(None)
"""The slice that keeps the logits of all tokens."""
LAST = slice(-1, None)
"""The last token that is read."""


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
    """A context without progress bars and log lines of transformers and the hub; failures raise errors all the same."""
    logger, hub = library().utils.logging, logging.getLogger("huggingface_hub")
    level, bars, hub_level = logger.get_verbosity(), logger.is_progress_bar_enabled(), hub.level
    loud = level != logging.ERROR or hub_level != logging.ERROR  # a level that is set clears what all loggers remember
    if loud:
        logger.set_verbosity_error()
        hub.setLevel(logging.ERROR)
    logger.disable_progress_bar()
    try:
        yield
    finally:
        if loud:
            logger.set_verbosity(level)
            hub.setLevel(hub_level)
        if bars:
            logger.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of an error, which in transformers may have many."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


# --- Loading and making -----------------------------------------------------------------------------------------------


def pretrained(path: Path, dtype: Dtype) -> tuple[Model, list[str]]:
    """The model in a folder, and the names of the weights that the folder lacks, which hold random numbers.

    Nothing is fetched, no code that lies in the folder is run, and only safetensors are read.
    """
    import torch

    # torch's grouped product, with which transformers computes experts, has no float64.
    options = {"experts_implementation": "eager"} if dtype == torch.float64 else {}
    model, info = library().AutoModelForCausalLM.from_pretrained(
        path,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=dtype,
        output_loading_info=True,
        **options,
    )
    with torch.no_grad():
        # In torch's own memory: tensors at the alignment of the file would give sums with other last digits.
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone()
    return model, sorted(info["missing_keys"])


def pretrained_gguf(file: Path) -> tuple[Model, Tokenizer, list[str]]:
    """The model of a GGUF file in float32, its tokenizer, and the names of the weights that the file lacks.

    Nothing in the file's folder is read but the file, and the model keeps no sign of how the file stored it: it saves
    like any other.

    Raises:
        RequirementError: a package is missing that reading such files needs.
    """
    import torch

    require("torch", "transformers", "gguf", "accelerate", purpose="reading a GGUF file")
    offered = library()
    # Newer releases leave some architectures as they are stored, unless told not to.
    whole = {"quantization_config": offered.GgufConfig(dequantize=True)} if hasattr(offered, "GgufConfig") else {}
    with tempfile.TemporaryDirectory() as folder, _parsed_once():
        (Path(folder) / file.name).symlink_to(file.resolve())
        options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
        model, info = offered.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **options, **whole
        )
        tokenizer = offered.AutoTokenizer.from_pretrained(folder, **options)
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer, sorted(info["missing_keys"])


@contextmanager
def _parsed_once() -> Iterator[None]:
    """A context in which a GGUF file is parsed once, and not anew for config, weights and tokenizer.

    transformers asks the package gguf for each of them, and for the names of an architecture's tensors once for every
    module of the model, which is most of the time that reading a small model takes. Its bar of progress is not shown.
    """
    gguf = imported("gguf")
    kept = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map") if hasattr(gguf, name)}
    try:
        for name, function in kept.items():
            setattr(gguf, name, functools.cache(function))
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, function in kept.items():
            setattr(gguf, name, function)


def pretrained_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder, without any network access."""
    return library().AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def fresh(config: Config, dtype: Dtype, like: Model | None = None) -> Model:
    """A model with random weights, whose attention is computed as that of `like`, or by torch's sdpa."""
    attention = "sdpa" if like is None else _attention(like)
    return library().AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def known_kinds() -> Mapping[str, str]:
    """The `model_type`s that transformers knows."""
    return _mapping("configuration_auto", "CONFIG_MAPPING_NAMES")


def causal_kinds() -> Mapping[str, str]:
    """The `model_type` of every causal language model, with the name of its class."""
    return _mapping("modeling_auto", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


def end_tokens(model: Model | None, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The tokens that end a completion: those of the model's generation config, or else the tokenizer's.

    The tokenizer's own comes first, if it is among them: a text is written with that one.
    """
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = None if tokenizer is None else tokenizer.eos_token_id
    if ends is None:
        ends = [] if own is None else [own]
    ids = [int(token) for token in (ends if isinstance(ends, list | tuple) else [ends])]
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

    A model that offers it computes no other logits, which may be the largest thing in memory.

    Args:
        model: a causal language model.
        ids: new tokens, (rows, new).
        kept: the new tokens whose logits are wanted, a slice without a step.
        cache: the keys and values of the tokens before; it grows by the new tokens. None keeps nothing.
        mask: 1 on tokens and 0 on padding, (rows, all), or True where a token sees another, (rows, 1, new, all); None
            lets each token see all before it.
        positions: those of the new tokens, (rows, new); None counts from the end of the cache.
        weights: stand in for the model's own, by name.

    Raises:
        TypeError: ids or positions are no integers.
        ValueError: a shape differs.
    """
    import torch

    check_integers(ids, "ids", "rows", "new")
    options = _cache_options(model, cache) | _padding_options(model, ids, mask, positions)
    start, stop, _ = kept.indices(ids.shape[1])
    if stop - start < ids.shape[1] and "logits_to_keep" in _parameters(model):
        to_the_end = stop == ids.shape[1]
        options["logits_to_keep"] = stop - start if to_the_end else torch.arange(start, stop, device=ids.device)
        kept = WHOLE
    out = (
        model(ids, **options) if weights is None else torch.func.functional_call(model, dict(weights), (ids,), options)
    )
    scores: Tensor = out.logits[:, kept]
    return scores


def hidden_states(
    model: Model,
    ids: Tensor,
    cache: Cache | None = None,
    *,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """The last hidden states at every token of `ids` (rows, new), (rows, new, width): the input of the head.

    Cache, mask and positions are those of `logits`.
    """
    check_integers(ids, "ids", "rows", "new")
    layers = model.base_model
    options = _cache_options(layers, cache) | _padding_options(layers, ids, mask, positions)
    states: Tensor = layers(ids, **options).last_hidden_state
    return states


@contextmanager
def inputs_of(module: Model) -> Iterator[list[Tensor]]:
    """A context that lists the first argument of every call of a module."""
    inputs: list[Tensor] = []

    def listed(_: object, given: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
        inputs.append(next(iter((*given, *named.values()))))

    hook = module.register_forward_pre_hook(listed, with_kwargs=True)
    try:
        yield inputs
    finally:
        hook.remove()


def last_gain(model: Model) -> str | None:
    """The name of the last vector of parameters of a model, which is its final norm's gain; None if it has none."""
    gains = [name for name, weight in model.named_parameters() if weight.ndim == 1 and name.endswith("weight")]
    return gains[-1] if gains else None


def logits_of_states(model: Model, states: Tensor) -> Tensor:
    """The logits that the model itself makes of last hidden states (rows, width), shape (rows, vocab).

    The model reads one token, and `states` take the place of the hidden state of that token.
    """
    import torch

    check_reals(states, "states", "rows", "width")

    def replaced(_: object, __: object, output: Any) -> object:
        width = tuple(output.last_hidden_state.shape[2:])
        check_shape(states, (*states.shape[:1], *width), "states", "rows of the model's width")
        output.last_hidden_state = states[None]
        return output

    hook = model.base_model.register_forward_hook(replaced)
    try:
        return logits(model, torch.zeros((1, 1), dtype=torch.int64, device=states.device))[0]
    finally:
        hook.remove()


def keeps_a_cache(model: Model) -> bool:
    """True if the model can go on from the tokens that it has read.

    Raises:
        RequirementError: the installed transformers gives no model a cache under a name known here.
    """
    if _cache_argument(model) is not None:
        return True
    if not set(_CACHE_ARGUMENTS) & set(_parameters_of(library().Qwen3ForCausalLM.forward)):
        raise _not_offered(f"argument {' or '.join(_CACHE_ARGUMENTS)} of a model's forward")
    return False


def takes_any_mask(model: Model) -> bool:
    """True if the model takes positions and any attention mask, and computes attention with torch's sdpa.

    False if a layer has a window, which makes a mask of its own.
    """
    if _attention(model) != "sdpa" or any(windows(model.config)):
        return False
    return {"position_ids", "attention_mask"} <= set(_parameters(model))


def _cache_options(module: Model, cache: Cache | None) -> dict[str, object]:
    if cache is None:
        return {"use_cache": False}
    name = _cache_argument(module)
    if name is None:
        raise _not_offered(f"argument {' or '.join(_CACHE_ARGUMENTS)} of {type(module).__name__}.forward")
    return {name: cache, "use_cache": True}


def _padding_options(module: Model, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> dict[str, object]:
    options: dict[str, object] = {} if mask is None else {"attention_mask": mask}
    if positions is not None:
        check_same_shape(ids, check_integers(positions, "positions"), "ids", "positions")
        if "position_ids" in _parameters(module):
            options["position_ids"] = positions
    return options


def _cache_argument(module: Model) -> str | None:
    return next((name for name in _CACHE_ARGUMENTS if name in _parameters(module)), None)


def _parameters(module: Model) -> frozenset[str]:
    return _parameters_of(type(module).forward)


@functools.cache
def _parameters_of(forward: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


# --- Caches ------------------------------------------------------------------------------------------------


def empty_cache(config: Config) -> Cache:
    """A cache that keeps keys and values unchanged; layers with a sliding window keep their window."""
    return _cache_class()(config=config)


def rounding_cache(config: Config, round_: Callable[[Tensor], Tensor]) -> Cache:
    """A cache that keeps keys and values rounded, so that attention reads rounded ones, the newest included.

    Args:
        config: that of the model; layers with a sliding window keep their window.
        round_: from keys or values of shape (batch, heads, tokens, head size) to rounded ones of the same shape and
            dtype. Each token must be rounded by itself, or the law would depend on the way of scoring. Within it, a
            cast to float32 is one, also for float64 models.
    """
    import torch

    class RoundingCache(_cache_class()):  # type: ignore[misc]
        def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> object:
            with torch._C.DisableTorchFunction():  # in_double would undo a cast
                key_states, value_states = round_(key_states), round_(value_states)
            return super().update(key_states, value_states, *args, **kwargs)

    return RoundingCache(config=config)


def gathered(cache: Cache, rows: Tensor) -> Cache:
    """A cache with these rows of another, which does not change; `rows` of shape (n,) may repeat and reorder."""
    check_integers(rows, "rows", "n")
    out = copy.copy(cache)
    out.layers = []
    for layer in _layers(cache):
        twin = copy.copy(layer)
        # Layers with a recurrent state keep it in a dictionary that they write to.
        vars(twin).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
        out.layers.append(twin)
    out.reorder_cache(rows)
    return out


def cached_tensors(cache: Cache) -> list[tuple[dict[str, Tensor], str]]:
    """The places where a cache keeps its tensors, keys, values and recurrent states: (holder, name) of each."""
    import torch

    places: list[tuple[dict[str, Tensor], str]] = []
    for layer in _layers(cache):
        holders = [vars(layer), *(value for value in vars(layer).values() if isinstance(value, dict))]
        places += [
            (holder, name)
            for holder in holders
            for name, value in holder.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 0
        ]
    return places


def windows(config: Config) -> list[bool]:
    """True for each layer of a model with this config that attends to a window of tokens, not to all before."""
    cache = empty_cache(config)
    if not hasattr(cache, "is_sliding"):
        raise _not_offered("DynamicCache.is_sliding")
    return list(cache.is_sliding)


# --- Float64 ----------------------------------------------------------------------------------------------------------


def in_double(model: Model) -> AbstractContextManager[object]:
    """A context in which a float64 model computes in float64 throughout; models of other dtypes are not affected.

    Every request to torch for float32 gets float64 inside it.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    if model.dtype != torch.float64:
        return nullcontext()

    class Double(TorchFunctionMode):
        @override
        def __torch_function__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[object, ...] = (),
            kwargs: Mapping[str, object] | None = None,
        ) -> object:
            if func is torch.Tensor.float:
                func = torch.Tensor.double
            options = {name: doubled(value) for name, value in (kwargs or {}).items()}
            return func(*(doubled(value) for value in args), **options)

    def doubled(value: object) -> object:
        return torch.float64 if value is torch.float32 else value

    return Double()


# --- Names that a release may lack ------------------------------------------------------------------------------------


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


def _mapping(module: str, name: str) -> Mapping[str, str]:
    mapping: Mapping[str, str] | None = getattr(getattr(library().models.auto, module, None), name, None)
    if mapping is None:
        raise _not_offered(f"models.auto.{module}.{name}")
    return mapping


def _not_offered(name: str) -> RequirementError:
    return RequirementError(
        f"transformers {library().__version__} has no {name}, which this project relies on: install a release "
        "that it was tested with (pip install -c constraints-cpu.txt '.[hf]' in the project's folder)"
    )
