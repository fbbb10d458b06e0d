"""prime-rl's token exports, `token_exports/step_N/rank_R.jsonl`: one line a sequence, prompt and completion together.

The trainer's log-prob of a token stands at the token; the first of a row is a placeholder. Numbers that are not finite
are null. Keys differ from release to release under one schema_version. Tokens that are distilled from another model
are trained on without having been sampled: weights of the loss's parts tell them.
"""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Flags
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.formats.producer import Producer, completion, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence


def _read(fields: Fields) -> DumpedSequence | None:
    tokens = fields.ints("token_ids")
    if tokens is None:
        raise fields.error("token_ids is missing")
    row = tokens.shape
    mask = fields.flags("loss_mask", shape=row)
    if mask is None:
        raise fields.error("loss_mask is missing")
    part = completion(mask, len(tokens))
    columns = {
        "actor_log_probs": fields.floats("inference_logprobs", shape=row),
        "policy_log_probs": fields.floats("trainer_logprobs", shape=row),
        "advantages": fields.floats("advantages", shape=row),
        "entropy": fields.floats("entropy", shape=row),
    }
    step = fields.whole("step")
    return sequence(
        fields,
        named(step, fields.whole("rank"), fields.whole("export_sequence_idx")),
        token=tokens[part],
        mask=(mask & _sampled(fields, row))[part],
        prompt=tokens[: part.start],
        reward=_reward(fields, part),
        step=step,
        **{name: None if column is None else column[part] for name, column in columns.items()},
    )


def _sampled(fields: Fields, row: tuple[int, ...]) -> Flags:
    """True on tokens that the actor sampled: all, but for those without a part in the losses that compare policies."""
    own, reference = (fields.floats(name, shape=row) for name in ("rl_weights", "ref_kl_weights"))
    if own is None or np.all(np.isnan(own)):
        return np.ones(row, dtype=np.bool_)
    return np.asarray((own != 0) | (False if reference is None else np.nan_to_num(reference) != 0))


def _reward(fields: Fields, part: slice) -> float | None:
    """The reward, where some releases repeat it at each token."""
    rewards = fields.floats("rewards", "reward")
    if rewards is None:
        return None
    found = np.unique(rewards[part] if rewards.size > 1 else rewards)
    found = found[~np.isnan(found)]
    return float(found[0]) if len(found) == 1 else None


FORMAT = Producer("prime-rl", ("inference_logprobs", "trainer_logprobs", "loss_mask"), _read)
