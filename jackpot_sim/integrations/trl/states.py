"""log p of the policy on the actor's likeliest tokens, from the hidden states of a forward pass that TRL makes anyway.

TRL's fused head gives the log-prob of each token and no logits. The hidden states that enter it are seen as they leave
the backbone, and the head's rows of the k tokens and of the sampled one give their logits. The logit of the sampled
token less its log-prob is the log-normaliser: no vocabulary is summed over, and no second pass is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from jackpot_sim.core.checks import check_integers, check_mask, check_reals, check_same_shape, check_same_states
from jackpot_sim.core.topk import TopK
from jackpot_sim.record.foreign import CausalModel, Passed

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}
"""The elements of the head's rows that are gathered at once: as many as a cache holds, or as keep a GPU busy."""


class FusedHead(NamedTuple):
    """The way from logits of TRL's fused head to log-probs, as TRL was told when it made the head."""

    temperature: float
    """The divisor of logits."""
    scale: float
    """The factor on them."""
    cap: float | None
    """The bound of tanh on them; None for none."""
    single: bool
    """True where the head is computed in float32, outside autocast."""

    @classmethod
    def of(cls, model: CausalModel) -> FusedHead:
        """That of a model of which TRL has made the head.

        Raises:
            ValueError: this TRL's head is another one.
        """
        known = {"temperature", "cast_lm_head_to_fp32", "final_logit_softcapping", "logit_scale"}
        forward = getattr(bare(model).forward, "__func__", None)
        if not inspect.isfunction(forward):
            raise ValueError(_OTHER)
        told = inspect.getclosurevars(forward).nonlocals
        if not known <= told.keys():
            raise ValueError(_OTHER)
        return cls(
            temperature=float(told["temperature"]),
            scale=float(told["logit_scale"]),
            cap=None if told["final_logit_softcapping"] is None else float(told["final_logit_softcapping"]),
            single=bool(told["cast_lm_head_to_fp32"]),
        )

    def logits(self, states: Tensor, ids: Tensor, model: CausalModel) -> Tensor:
        """The logits of some tokens, (n, k), in float32; rounded first as TRL's are, where those are in half.

        Args:
            states: last hidden states, (n, hidden).
            ids: the tokens, (n, k).
            model: the model.

        Raises:
            TypeError: the states are no real floating numbers, or the ids no integers.
            ValueError: a shape differs, or the head is not whole on this device.
        """
        import torch

        check_same_states(check_reals(states, "states"), check_integers(ids, "ids"), "states", "ids")
        head = bare(model).get_output_embeddings()
        weight, bias = _whole(head.weight), _whole(head.bias)
        if weight.ndim != 2 or weight.shape[-1] != states.shape[-1]:
            raise ValueError(
                f"the head's weights are not whole on this device, of shape {tuple(weight.shape)} for states of shape "
                f"{tuple(states.shape)}: pass topk=0, which does without them"
            )
        at_once = AT_ONCE.get(weight.device.type, AT_ONCE["cuda"])
        step = max(1, at_once // (ids.shape[-1] * weight.shape[-1]))
        parts = [
            self._of_rows(weight, bias, *(each[start : start + step].to(weight.device) for each in (states, ids)))
            for start in range(0, len(ids), step)
        ]
        return torch.cat(parts) if parts else torch.zeros(ids.shape, device=weight.device)

    def _of_rows(self, weight: Tensor, bias: Tensor | None, states: Tensor, ids: Tensor) -> Tensor:
        import torch

        rows, device = weight.index_select(0, ids.flatten()).view(*ids.shape, -1), weight.device.type
        if self.single or (rows.dtype == torch.float32 and not torch.is_autocast_enabled(device)):
            logits = (rows.float() * states.float()[:, None]).sum(-1)
        else:  # a product of matrices, which autocast rounds as it does TRL's
            logits = torch.bmm(rows, states.to(rows.dtype)[..., None])[..., 0]
        logits = (logits if bias is None else logits + bias[ids]).float() * self.scale
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits / self.temperature


class OnTopK:
    """log p of the policy on the actor's top-k, from the passes over a batch that are made inside `seen`."""

    def __init__(self, head: FusedHead, tokens: Tensor, topk: TopK, mask: Tensor) -> None:
        """Takes the batch.

        Args:
            head: the head.
            tokens: the sampled tokens, (B, T).
            topk: the actor's likeliest tokens, (B, T, k).
            mask: True on tokens, (B, T).

        Raises:
            TypeError: the tokens are no integers, or the mask is not boolean.
            ValueError: a shape differs.
        """
        import torch

        check_mask(mask, check_integers(tokens, "tokens"), "tokens")
        check_same_states(mask[..., None], topk.ids, "mask[..., None]", "topk")
        self._head, self._mask = head, mask
        self._ids = torch.cat([torch.as_tensor(topk.ids).long(), tokens[..., None]], dim=-1)
        self._logits: list[Tensor] = []
        self._rows = 0

    @contextmanager
    def seen(self, model: CausalModel) -> Iterator[None]:
        """Sees the passes of a model inside, which take the batch's rows in their order, some at a time."""

        def see(_module: object, _inputs: object, outputs: Passed) -> None:
            self._see(model, outputs[0])

        handle = bare(model).base_model.register_forward_hook(see)
        try:
            yield
        finally:
            handle.remove()

    def _see(self, model: CausalModel, hidden: Tensor) -> None:
        import torch

        length, rows = self._mask.shape[1], slice(self._rows, self._rows + len(hidden))
        self._rows += len(hidden)
        with torch.no_grad():
            mask = self._mask[rows]
            states = hidden.detach()[:, -length - 1 : -1][mask.to(hidden.device)]
            self._logits.append(self._head.logits(states, self._ids[rows][mask], model))

    def log_probs(self, of_sampled: Tensor) -> Tensor:
        """log p of the stored tokens, (B, T, k), nats, without a graph; 0 outside the mask.

        Args:
            of_sampled: log p of the sampled tokens, (B, T), nats, as the passes gave them.

        Raises:
            TypeError: they are no real floating numbers.
            ValueError: a shape differs, or the passes were not seen.
        """
        import torch

        check_same_shape(self._mask, check_reals(of_sampled, "of_sampled"), "mask", "of_sampled")
        if self._rows != len(self._mask):
            raise ValueError("the policy's pass hides its last hidden states, as compiled ones do: pass topk=0")
        with torch.no_grad():
            found = _log_probs(torch.cat(self._logits).to(of_sampled.device), of_sampled[self._mask].float())
            shape = (*self._mask.shape, found.shape[-1])
            return torch.zeros(shape, device=found.device).masked_scatter(self._mask[..., None], found)


def _log_probs(logits: Tensor, of_sampled: Tensor) -> Tensor:
    """log p of the k tokens, (n, k), from the logits of these and, last, of the sampled one, whose log p is known.

    The normaliser is at least the sum over the k, which its rounding may miss: a law does not exceed one.
    """
    import torch

    logits, sampled = logits[:, :-1], logits[:, -1:]
    normaliser = torch.maximum(sampled - of_sampled[:, None], logits.logsumexp(-1, keepdim=True))
    return logits - normaliser


def bare(model: CausalModel) -> CausalModel:
    """The causal model inside PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def _whole(parameter: Passed) -> Passed:
    """A parameter that FSDP has split, gathered; any other as it is."""
    gathered: Callable[[], Any] | None = getattr(parameter, "full_tensor", None)
    return parameter if gathered is None else gathered()


_OTHER = "this version of TRL makes log-probs in a way that is not known here: pass topk=0, or install the tested one"
