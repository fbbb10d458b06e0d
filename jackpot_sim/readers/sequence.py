"""One sequence of a dump, as a format reads it, with whatever the dump says about it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.topk import TopK


@dataclass(frozen=True, eq=False)
class DumpedSequence:
    """The completion of one prompt; arrays of shape (length,) unless said, None where the dump does not say.

    Attributes:
        name: the sequence's id in the dump, or its number.
        place: where it stands, as errors name it: the file, and the line or record.
        actor_log_probs: log q of each token by the policy that wrote it, float64, nats; NaN where the dump has none.
        policy_log_probs: log p of each token by the policy that is trained, likewise.
        position: the place of each token in the completion, from 0; None: 0, 1, 2, ….
        token: the token ids.
        text: the tokens in letters, for dumps without ids.
        prompt: the token ids of the prompt, (any,).
        prompt_text: the prompt in letters, for dumps without its ids.
        mask: True on tokens that are trained on; None: all of them.
        advantages: A of each token.
        entropy: the entropy of the policy's law at each token, nats.
        weight_version: the number of the weights that wrote each token.
        reward: the reward of the sequence.
        step: the training step to which the sequence belongs.
        actor_topk: the actor's likeliest tokens at each token, (length, k); log_probs NaN where there are none.
        policy_topk: the policy's, likewise.
    """

    name: str
    place: str
    _: KW_ONLY
    actor_log_probs: Floats | None = None
    policy_log_probs: Floats | None = None
    position: Ints | None = None
    token: Ints | None = None
    text: tuple[str, ...] | None = None
    prompt: Ints | None = None
    prompt_text: str | None = None
    mask: Flags | None = None
    advantages: Floats | None = None
    entropy: Floats | None = None
    weight_version: Ints | None = None
    reward: float | None = None
    step: int | None = None
    actor_topk: TopK | None = None
    policy_topk: TopK | None = None
