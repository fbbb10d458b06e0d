"""The columns of the plain schema, this project's own: one row a token, or one row a sequence with lists."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The types of a value."""

    NAME = "integer or string"
    INTEGER = "integer"
    NUMBER = "number or null"
    FLAG = "true, false, 1 or 0"
    TOP_IDS = "list of k integers, or null"
    TOP_LOG_PROBS = "list of k numbers, or null"
    IDS = "list of integers"


class Column(NamedTuple):
    """A column of the plain schema."""

    name: str
    """Its name, in rows of tokens and of sequences."""
    kind: Kind
    """The type of one value; rows of sequences hold a list of them, but for what belongs to the sequence."""
    field: str
    """The field of DumpedSequence, and column of TokenTable, that it fills."""
    of_sequence: bool
    """True for what is the same for all tokens of a sequence: no list, and the same in all of its rows of tokens."""
    meaning: str
    """The meaning, as help prints it."""
    plural: str | None = None
    """The other name that rows of sequences may use."""
    one_for_all: bool = False
    """True where rows of sequences may hold one value instead of a list: it is then that of every token."""


SCHEMA = (
    Column("sequence", Kind.NAME, "name", True, "the sequence's id; rows of a sequence stand together"),
    Column("position", Kind.INTEGER, "position", False, "place in the completion, from 0, rising", "positions"),
    Column("token", Kind.INTEGER, "token", False, "token id", "tokens"),
    Column(
        *("actor_log_prob", Kind.NUMBER, "actor_log_probs", False),
        *("log-prob by the policy that wrote the token, nats", "actor_log_probs"),
    ),
    Column(
        *("policy_log_prob", Kind.NUMBER, "policy_log_probs", False),
        *("log-prob by the policy that is trained, nats", "policy_log_probs"),
    ),
    Column("mask", Kind.FLAG, "mask", False, "true on tokens that are trained on"),
    Column("advantage", Kind.NUMBER, "advantages", False, "advantage of the token", "advantages", one_for_all=True),
    Column("reward", Kind.NUMBER, "reward", True, "reward of the sequence"),
    Column("step", Kind.INTEGER, "step", True, "training step"),
    Column(
        *("weight_version", Kind.INTEGER, "weight_version", False),
        *("number of the weights that wrote the token", "weight_versions", True),
    ),
    Column("entropy", Kind.NUMBER, "entropy", False, "entropy of the policy's law, nats", "entropies"),
    Column("actor_topk_ids", Kind.TOP_IDS, "actor_topk", False, "the actor's likeliest token ids, likeliest first"),
    Column("actor_topk_log_probs", Kind.TOP_LOG_PROBS, "actor_topk", False, "their log-probs, nats"),
    Column("policy_topk_ids", Kind.TOP_IDS, "policy_topk", False, "the policy's likeliest token ids, likeliest first"),
    Column("policy_topk_log_probs", Kind.TOP_LOG_PROBS, "policy_topk", False, "their log-probs, nats"),
    Column("prompt", Kind.IDS, "prompt", True, "token ids of the prompt, in rows of sequences only"),
)
"""The columns, in the order of help.

Of these a row of a token must hold `sequence`, and one of the two log-probs; a row of a sequence one of the log-probs
as a list. A null, or NaN, stands for a number that is not known. Other columns are not read.
"""

BY_NAME = {name: column for column in SCHEMA for name in (column.name, column.plural) if name is not None}
"""The columns by both of their names."""
LOG_PROBS = ("actor_log_prob", "policy_log_prob")
OF_TOKENS = tuple(
    name
    for name, column in BY_NAME.items()
    if not column.of_sequence and column.kind not in (Kind.TOP_IDS, Kind.TOP_LOG_PROBS)
)
"""Both names of the columns that hold lists in rows of sequences alone."""


def described() -> list[tuple[str, str, str]]:
    """The schema as help and documents print it: name, type and meaning of each column."""
    return [(column.name, f"{column.kind}{_in_lists(column)}", column.meaning) for column in SCHEMA]


def _in_lists(column: Column) -> str:
    if column.of_sequence:
        return ", one of the sequence" if column.name != "sequence" else ""
    return f", one a token{' or one of the sequence' if column.one_for_all else ''}"
