"""NeMo-RL's `train_data_stepN.jsonl`: one line a sequence, padded on the right, prompt and completion together.

A line is a batch of one: each field is a list with one element. Log-probs stand at their token, and the first token has
none. The mask of tokens and that of samples both apply. Under `force_on_policy_ratio`, prev_logprobs are zeros.
"""

from __future__ import annotations

import re

from jackpot_sim.core.arrays import Floats
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.formats.producer import Producer, completion, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence


def _read(line: Fields) -> DumpedSequence | None:
    fields = _without_batch(line)
    trained = fields.flags("token_loss_mask")
    if trained is None or trained.ndim != 1:
        raise fields.error("token_loss_mask must hold a number for each token")
    row, length = trained.shape, fields.whole("input_lengths")
    if length is None or not 0 <= length <= len(trained):
        raise fields.error(f"input_lengths must be a number up to {len(trained)}, the length of token_loss_mask")
    part, tokens = completion(trained, length), fields.ints("token_ids", shape=row)
    weight = fields.number("sample_loss_mask")

    def column(name: str) -> Floats | None:
        found = fields.floats(name, shape=row)
        return None if found is None else found[part]

    advantages = fields.per_token(len(trained), "advantages")
    step = re.search(r"step_?(\d+)", fields.file)
    return sequence(
        fields,
        named(step and step[1], fields.whole("idx")),
        mask=trained[part] & (weight != 0),
        actor_log_probs=column("generation_logprobs"),
        policy_log_probs=column("prev_logprobs"),
        token=None if tokens is None else tokens[part],
        prompt=None if tokens is None else tokens[: part.start],
        advantages=None if advantages is None else advantages[part],
        reward=fields.number("rewards", "total_reward"),
        step=int(step[1]) if step else None,
    )


def _without_batch(line: Fields) -> Fields:
    """The fields without the axis of the batch, which some writers leave out."""
    mask = line.needed("token_loss_mask")
    if not (isinstance(mask, list) and mask and isinstance(mask[0], list)):
        return line
    content = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in line.content.items()}
    return Fields(content, line.place, line.file)


FORMAT = Producer("nemo-rl", ("generation_logprobs", "prev_logprobs", "token_loss_mask"), _read)
