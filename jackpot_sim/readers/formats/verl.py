"""verl's batches: `torch.save(dict(data.batch), FILE)`, a TensorDict, or a DataProto as `save_to_disk` pickles it.

Prompts are padded on the left and responses on the right. `response_mask` excludes the tokens of tools, which
`attention_mask` tells from padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jackpot_sim.core.arrays import Floats
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.format import Record
from jackpot_sim.readers.formats.batches import end, rows, step_of
from jackpot_sim.readers.formats.producer import Producer, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence

_SIDES = ("rollout_log_probs", "old_log_probs")


def _split(record: Record) -> Iterator[Fields]:
    return rows(record, "responses")


def _read(row: Fields) -> DumpedSequence | None:
    responses = row.ints("responses")
    assert responses is not None
    shape = responses.shape
    trained, attention = row.flags("response_mask", shape=shape), row.flags("attention_mask")
    if trained is None and attention is None:
        raise row.error("response_mask, or attention_mask, must tell the tokens of the response from padding")
    real = None if attention is None else attention[len(attention) - len(responses) :]
    part = slice(0, end(trained, real))

    def column(*names: str) -> Floats | None:
        found = row.floats(*names, shape=shape)
        return None if found is None else found[part]

    rewards = column("token_level_scores", "rm_scores", "token_level_rewards")
    meta = row.get("meta_info")
    step = Fields(meta, row.place).whole("global_steps") if isinstance(meta, Mapping) else None
    step = step_of(row.file) if step is None else step
    return sequence(
        row,
        named(step, row.whole("row")),
        token=responses[part],
        prompt=_prompt(row),
        mask=None if trained is None else trained[part],
        actor_log_probs=column("rollout_log_probs"),
        policy_log_probs=column("old_log_probs"),
        advantages=column("advantages"),
        entropy=column("entropys", "entropy"),
        reward=None if rewards is None else float(rewards.sum()),
        step=step,
    )


def _prompt(row: Fields) -> Foreign:
    prompt, attention = row.ints("prompts"), row.flags("attention_mask")
    if prompt is None or attention is None or len(attention) < len(prompt):
        return None
    return prompt[attention[: len(prompt)]]


FORMAT = Producer(
    "verl",
    ("responses", "response_mask", "rollout_log_probs or old_log_probs"),
    _read,
    _split,
    lambda content: "responses" in content and any(name in content for name in _SIDES),
)
