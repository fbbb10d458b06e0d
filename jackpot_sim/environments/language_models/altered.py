"""Models made of another by a change of its configuration: the weights that go by the same names are copies."""

from __future__ import annotations

import copy

from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.library import Config, Model, fresh, library, windows


def with_sliding_window(model: Model, window: int) -> Model:
    """A copy of the model, every layer of which attends to the last `window` tokens only.

    The window counts the token itself: a layer sees it and the window − 1 tokens before it. So the law at a prefix
    depends on its last layers · (window − 1) + 1 tokens. The weights are copies with the same bits. Llama has no
    window, and its weights go into Mistral's classes, which compute the same and have one.

    Raises:
        ValueError: the window is below 2 (transformers' cache of a window of 1 reads too far back), or the architecture
            has no sliding window.
    """
    check_count("window", window, 2)
    config = _as_mistral(model.config) if model.config.model_type == "llama" else copy.deepcopy(model.config)
    text = config.get_text_config()
    if not hasattr(text, "sliding_window"):
        raise ValueError(f"{config.model_type} models have no sliding window (Qwen, Llama, Mistral and Gemma have)")
    if hasattr(text, "use_sliding_window"):
        text.use_sliding_window = True
    text.sliding_window = window
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    if not all(windows(config)):
        raise ValueError(f"{config.model_type} models cannot have a sliding window in every layer")
    return _remade(model, config)


def without_last_layers(model: Model, count: int) -> Model:
    """A copy of the model without its last `count` layers: its final norm and its head read an earlier one.

    Raises:
        ValueError: the model has not so many layers that one is left.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    kept = text.num_hidden_layers - count
    check_count("layers", count, 0, text.num_hidden_layers - 1)
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = text.layer_types[:kept]
    text.num_hidden_layers = kept
    return _remade(model, config)


def _as_mistral(config: Config) -> Config:
    """The configuration of Mistral that computes what this one of Llama does.

    Raises:
        ValueError: the model has biases, for which Mistral has no place.
    """
    if config.attention_bias or config.mlp_bias:
        raise ValueError(
            "llama models with biases have no sliding window: Mistral's classes, which have one, lack them"
        )
    own = ("model_type", "architectures", "transformers_version", "attention_bias", "mlp_bias", "pretraining_tp")
    return library().MistralConfig(**{name: value for name, value in config.to_dict().items() if name not in own})


def _remade(model: Model, config: Config) -> Model:
    """A model of this configuration, with the weights of another that go by the same names."""
    import torch

    with torch.random.fork_rng(devices=[]):
        out = fresh(config, model.dtype, like=model)
    weights = model.state_dict()
    out.load_state_dict({name: weights[name] for name in out.state_dict()})
    return out.to(model.device).train(model.training)
