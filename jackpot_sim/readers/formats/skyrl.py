"""SkyRL's `dumped_data/global_step_N_training_input.pkl`: a batch of rows, padded on the left.

Response-level rows cover the last columns of `sequences`, and `response_mask` marks the response's tokens in both.
Releases before the one with left padding put the response's padding on the right, which the mask tells too.
"""

from __future__ import annotations

from collections.abc import Iterator

from jackpot_sim.core.arrays import Floats
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.format import Record
from jackpot_sim.readers.formats.batches import rows, step_of
from jackpot_sim.readers.formats.producer import Producer, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence

_SIDES = ("rollout_logprobs", "action_log_probs")


def _split(record: Record) -> Iterator[Fields]:
    return rows(record, "sequences")


def _read(row: Fields) -> DumpedSequence | None:
    ids = row.ints("sequences")
    response = row.flags("response_mask")
    assert ids is not None
    if response is None or len(response) > len(ids):
        raise row.error("response_mask must mark the tokens of the response")
    shape, attention = response.shape, row.flags("attention_mask", shape=ids.shape)

    def column(name: str) -> Floats | None:
        found = row.floats(name, shape=shape)
        return None if found is None else found[response]

    trained, rewards = row.flags("loss_mask", shape=shape), column("rewards")
    prompt = None if attention is None else ids[attention][: int(attention.sum()) - int(response.sum())]
    step = step_of(row.file)
    return sequence(
        row,
        named(step, row.whole("row")),
        token=ids[len(ids) - len(response) :][response],
        prompt=prompt,
        mask=None if trained is None else trained[response],
        actor_log_probs=column("rollout_logprobs"),
        policy_log_probs=column("action_log_probs"),
        advantages=column("advantages"),
        reward=None if rewards is None else float(rewards.sum()),
        step=step,
    )


FORMAT = Producer(
    "skyrl",
    ("sequences", "response_mask", "rollout_logprobs or action_log_probs"),
    _read,
    _split,
    lambda content: {"sequences", "response_mask"} <= set(content) and any(name in content for name in _SIDES),
)
