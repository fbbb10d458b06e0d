"""TRL's batches: the dictionary that GRPO's `_generate_and_score_completions` returns, saved with torch.save.

Prompts are padded on the left and completions on the right; there is one advantage per sequence or one per token.
"""

from __future__ import annotations

from collections.abc import Iterator

from jackpot_sim.core.arrays import Floats
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.format import Record
from jackpot_sim.readers.formats.batches import end, rows, step_of
from jackpot_sim.readers.formats.producer import Producer, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence

_SIDES = ("sampling_per_token_logps", "old_per_token_logps")


def _split(record: Record) -> Iterator[Fields]:
    return rows(record, "completion_ids")


def _read(row: Fields) -> DumpedSequence | None:
    tokens = row.ints("completion_ids")
    assert tokens is not None
    shape = tokens.shape
    live = row.flags("completion_mask", shape=shape)
    if live is None:
        raise row.error("completion_mask is missing")
    told, tools = row.floats("sampling_per_token_logps", shape=shape), row.flags("tool_mask", shape=shape)
    # A truncated completion may be masked as a whole: the sampler's log-probs then tell its length.
    part = slice(0, end(live, None if told is None else told != 0))

    def column(name: str) -> Floats | None:
        found = row.floats(name, shape=shape)
        return None if found is None else found[part]

    advantages, step = row.per_token(len(tokens), "advantages"), step_of(row.file)
    prompt, asked = row.ints("prompt_ids"), row.flags("prompt_mask")
    return sequence(
        row,
        named(step, row.whole("row")),
        token=tokens[part],
        prompt=None if prompt is None or asked is None or asked.shape != prompt.shape else prompt[asked],
        mask=(live if tools is None else live & tools)[part],
        actor_log_probs=column("sampling_per_token_logps"),
        policy_log_probs=column("old_per_token_logps"),
        advantages=None if advantages is None else advantages[part],
        reward=row.number("rewards"),
        step=step,
    )


FORMAT = Producer(
    "trl",
    ("completion_ids", "completion_mask", "sampling_per_token_logps or old_per_token_logps"),
    _read,
    _split,
    lambda content: "completion_ids" in content and any(name in content for name in _SIDES),
)
