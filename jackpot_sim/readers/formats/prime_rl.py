"""prime-rl's token exports, `token_exports/step_N/rank_R.jsonl`: one line a sequence, prompt and completion together.

The trainer's log-prob of a token stands at the token; the first of a row is a placeholder. Numbers that are not finite
are null. Keys differ from release to release under one schema_version.
"""

from __future__ import annotations

import numpy as np

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
        mask=mask[part],
        prompt=tokens[: part.start],
        reward=_reward(fields, part),
        step=step,
        **{name: None if column is None else column[part] for name, column in columns.items()},
    )


def _reward(fields: Fields, part: slice) -> float | None:
    """The reward, where some releases repeat it at each token."""
    rewards = fields.floats("rewards", "reward")
    if rewards is None:
        return None
    found = np.unique(rewards[part] if rewards.size > 1 else rewards)
    found = found[~np.isnan(found)]
    return float(found[0]) if len(found) == 1 else None


FORMAT = Producer("prime-rl", ("inference_logprobs", "trainer_logprobs", "loss_mask"), _read)
