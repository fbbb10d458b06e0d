"""A prompt read once for all of its rollouts.

A row holds a prompt and, behind it, the completions of its whole group. A mask lets each token see the prompt and
the tokens before it in its own completion; its position is that in the sequence alone. Where prompts are no shorter
than completions, packing halves the work of a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackpot_sim.core.checks import check_integers, check_same_states
from jackpot_sim.environments.language_models.library import Model, logits, takes_any_mask

if TYPE_CHECKING:
    from torch import Tensor

_CLOSE = 3e-5
"""The largest difference of logits between the two ways that counts as rounding, relative to their range."""


def packs(model: Model) -> bool:
    """True where the model takes such a mask and gives the same logits with it.

    A trial decides, since architectures treat a mask differently. Models are refused without a trial if their attention
    is not torch's sdpa, if they take no positions, or if they have a window, which may be longer than the trial.
    """
    import torch

    if not takes_any_mask(model):
        return False
    last = min(3, int(model.config.get_text_config().vocab_size) - 1)
    prompt = torch.tensor([[last, 0, last, 1, 0, last, 0, 1]], device=model.device)
    completions = torch.tensor([[0, last, 1], [last, 1, 0]], device=model.device)
    with torch.no_grad():
        alone = logits(model, torch.cat([prompt.expand(2, -1), completions], 1), slice(-3, None))
        try:
            together = _together(model, prompt, torch.full((1,), 8, device=model.device), completions, 2)[:, 1:]
        except (RuntimeError, ValueError, TypeError, IndexError):  # of an architecture that cannot use such a mask
            return False
    return bool((alone - together).abs().max() <= _CLOSE * (alone.max() - alone.min()))


def packed_logits(model: Model, ids: Tensor, places: Tensor, samples: int) -> Tensor:
    """The logits before every token of the completions, (n, length, vocab).

    Args:
        model: one that `packs`.
        ids: prompts with their completions, padded on the right, (n, longest); the `samples` rows of a prompt lie side
            by side.
        places: the index at which the law of each token of the completions is read, (n, length).
        samples: the number of completions of each prompt.

    Raises:
        TypeError: ids or places are no integers.
        ValueError: a shape differs, or the rows are no whole groups.
    """
    check_integers(ids, "ids", "n", "longest")
    check_integers(places, "places", "n", "length")
    check_same_states(ids, places, "ids", "places")
    if len(ids) % samples:
        raise ValueError(f"samples must divide the rows of ids, got {samples} and {len(ids)}")
    start = places[::samples, 0] + 1
    longest = int(start.max())
    if longest + places.shape[1] > ids.shape[1]:
        raise ValueError(f"places lead beyond ids, which has shape {tuple(ids.shape)}: it must hold every token")
    completions = ids.gather(1, places[:, 1:])  # the last token is predicted, not read
    return _together(model, ids[::samples, :longest], start, completions, samples)


def _together(model: Model, prompts: Tensor, start: Tensor, completions: Tensor, samples: int) -> Tensor:
    """Logits after each prompt and after every token of its completions, (n, 1 + new, vocab).

    Args:
        model: the model.
        prompts: ids padded on the right, (groups, longest).
        start: their lengths, (groups,).
        completions: ids, (groups · samples, new).
        samples: completions of each prompt.
    """
    import torch

    groups, longest = prompts.shape
    new, device = completions.shape[1], prompts.device
    # Segment −1 is the prompt, and 0, 1, … are its completions.
    segment = torch.arange(samples, device=device).repeat_interleave(new)
    segment = torch.cat([torch.full((longest,), -1, device=device), segment])
    step = torch.arange(len(segment), device=device)
    own = (segment[:, None] == segment) & (step[:, None] >= step)
    of_prompt = (step < start[:, None])[:, None]
    seen = ((segment[:, None] >= 0) | own) & of_prompt | (own & (segment >= 0))
    seen[:, :longest, 0] = True  # padding behind a short prompt must see a token; no token sees it
    position = torch.cat(
        [
            torch.arange(longest, device=device).expand(groups, -1),
            start[:, None] + torch.arange(new, device=device).repeat(samples),
        ],
        dim=1,
    )
    first = int(start.min()) - 1
    row = torch.cat([prompts, completions.reshape(groups, samples * new)], dim=1)
    out = logits(model, row, slice(first, None), mask=seen[:, None], positions=position)
    after_prompt = out[torch.arange(groups, device=device), start - 1 - first]
    after_tokens = out[:, longest - first :].reshape(groups * samples, new, out.shape[-1])
    return torch.cat([after_prompt.repeat_interleave(samples, dim=0)[:, None], after_tokens], dim=1)
