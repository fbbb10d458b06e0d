"""The dumps of slime and miles, which share their fields: a sample of the rollout, and rows of the trainer for it.

The rollout's side lies in one file, and the trainer's in another, or in one per rank. A rank of context parallelism
holds two chunks of a sequence, the first from its beginning and the second from its end, so that all ranks work the
same; ranks of tensor parallelism repeat each other, and only the last stage of a pipeline has the trainer's log-probs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.format import Record, Refuse
from jackpot_sim.readers.formats import topk
from jackpot_sim.readers.formats.chunks import assembled
from jackpot_sim.readers.formats.producer import named, sequence
from jackpot_sim.readers.sequence import DumpedSequence

LENGTH = ("response_length", "response_lengths")
SLICED = {
    "actor_log_probs": "rollout_log_probs",
    "policy_log_probs": "log_probs",
    "advantages": "advantages",
    "entropy": "entropy",
}
"""The columns of which a rank of context parallelism holds its chunks alone."""


@dataclass(frozen=True, eq=False)
class Row:
    """A sample as a rank of the trainer has it."""

    fields: Fields
    cp_rank: int = 0
    cp_size: int = 1
    padded: int | None = None
    """The length to which sequences are padded before they are cut into chunks; None: their own."""


@dataclass(eq=False)
class Sample:
    """A sample: as the rollout has it, and as each rank of the trainer has it."""

    rollout: int | None
    number: object
    sides: list[Fields] = field(default_factory=list)
    """The rollout's: several where one rollout was cut into samples that share a number."""
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Samples:
    """The format of a framework that writes such dumps.

    Attributes:
        name: the framework.
        keys: the keys by which a record is known.
        also: other sets of keys by which one is known.
        but: keys that it does not have.
    """

    name: str
    keys: tuple[str, ...]
    also: tuple[tuple[str, ...], ...] = ()
    but: tuple[str, ...] = ()

    @property
    def expects(self) -> str:
        """The keys by which a record is known."""
        return " or ".join(", ".join(keys) for keys in (self.keys, *self.also))

    def recognises(self, record: Record) -> bool:
        """True for the first record of a file of this format, by its keys alone."""
        content = record.content
        return (
            isinstance(content, Mapping)
            and any(all(key in content for key in keys) for keys in (self.keys, *self.also))
            and not any(key in content for key in self.but)
        )

    def together(self, path: Path) -> str:
        """The folder of the dump and the number of the rollout, where folder or name tell the file's part in a dump."""
        if path.parent.name in ("rollout_data", "train_data"):
            return str(path.parent.parent / path.stem.split("_")[0])
        return str(path.parent / path.stem.split("_")[0]) if re.fullmatch(r"\d+_\d+", path.stem) else str(path)

    def sequences(self, records: Iterable[Record], refuse: Refuse) -> Iterator[DumpedSequence]:
        """The sequences in the files of one rollout.

        Evaluations are passed over, and so are samples of the rollout that the trainer left out, where it has others.
        """
        samples: dict[object, Sample] = {}
        for record in records:
            if record.name.startswith("eval_"):
                continue
            try:
                _gather(record, samples)
            except DumpError as error:
                refuse(error)
        trained = any(sample.rows for sample in samples.values())
        for sample in samples.values():
            if trained and not sample.rows:
                continue
            try:
                found = list(_sequences(sample))
            except DumpError as error:
                refuse(error)
                continue
            yield from found


def _gather(record: Record, samples: dict[object, Sample]) -> None:
    """Adds what a file holds to the samples."""
    if not isinstance(record.content, Mapping):
        raise DumpError(f"{record.place}: expected a dictionary with samples, or with rollout_data")
    file = Fields(record.content, record.place, record.name)
    rollout = file.whole("rollout_id")
    for at, (fields, number) in enumerate(_samples(file)):
        key = (rollout, number) if number is not None else (record.place, at)
        sample = samples.setdefault(key, Sample(rollout, at if number is None else number))
        if fields.get("loss_masks", "total_lengths") is None:
            sample.sides.append(fields)
            continue
        bshd = file.get("qkv_format") == "bshd"
        sample.rows.append(
            Row(
                fields,
                file.whole("cp_rank") or 0,
                file.whole("cp_size") or 1,
                fields.whole("max_seq_lens") if bshd else None,
            )
        )


def _samples(file: Fields) -> Iterator[tuple[Fields, object]]:
    """The fields of each sample of a file, and its number in the rollout."""
    if (samples := file.get("samples")) is not None:
        rewards = file.get("raw_reward")
        for at, content in enumerate(_list(samples, file, "samples")):
            if not isinstance(content, Mapping):
                raise file.error(f"sample {at} must be a dictionary")
            place = content.get("rollout_position")
            extra = {"raw_reward": rewards[place]} if isinstance(place, int) and _reaches(rewards, place) else {}
            fields = Fields({**content, **extra}, f"{file.place}, sample {at}", file.file)
            yield fields, _number(fields.get("sample_index", "index"))
        return
    columns = Fields(file.needed("rollout_data"), file.place, file.file)
    tokens = _list(columns.needed("tokens"), columns, "tokens")
    numbers = columns.get("sample_indices")
    for at in range(len(tokens)):
        # A column of the whole batch, as raw_reward is, has another order than this rank's rows.
        row = {
            key: values[at]
            for key, values in columns.content.items()
            if key != "raw_reward" and _reaches(values, len(tokens) - 1) and len(values) == len(tokens)
        }
        yield Fields(row, f"{file.place}, row {at}", file.file), None if numbers is None else _number(numbers[at])


def _number(value: Foreign) -> object:
    """A number out of a number of any library; anything else as it is written."""
    return value if value is None else int(value) if hasattr(value, "__index__") else str(value)


def _reaches(values: Foreign, at: int) -> bool:
    return (
        hasattr(values, "__getitem__")
        and hasattr(values, "__len__")
        and not isinstance(values, str | Mapping)
        and len(values) > at
    )


def _list(values: Foreign, fields: Fields, name: str) -> Foreign:
    if not isinstance(values, list | tuple):
        raise fields.error(f"{name} must be a list with an entry for each sample")
    return values


def _sequences(sample: Sample) -> Iterator[DumpedSequence]:
    """The sequence of a sample; one for each repetition where ranks repeat each other."""
    if not sample.rows:
        yield from (found for side in sample.sides if (found := _sequence(sample, side, [])) is not None)
        return
    # The stages of a pipeline before the last one lack the trainer's log-probs.
    rows = [row for row in sample.rows if row.fields.get("log_probs") is not None] or sample.rows
    by_rank: dict[int, list[Row]] = {}
    for row in _ranked(rows):
        by_rank.setdefault(row.cp_rank, []).append(row)
    for copy in range(min(map(len, by_rank.values()))):
        chunks = [by_rank[rank][copy] for rank in sorted(by_rank)]
        if (found := _sequence(sample, _side(sample, chunks[0]), chunks)) is not None:
            yield found


def _side(sample: Sample, row: Row) -> Fields | None:
    """The rollout's side of a row of the trainer: the one with the same tokens."""
    tokens = row.fields.ints("tokens")
    return next((side for side in sample.sides if np.array_equal(tokens, side.ints("tokens"))), None)  # type: ignore[arg-type]


def _ranked(rows: list[Row]) -> list[Row]:
    """Rows with their ranks, which old dumps do not say: ranks that hold other chunks than those before them."""
    length = rows[0].fields.whole(*LENGTH)
    held = [row.fields.floats("rollout_log_probs", "log_probs") for row in rows]
    if any(row.cp_size > 1 for row in rows) or all(each is None or len(each) == length for each in held):
        return rows
    told = [b"" if each is None else each.tobytes() for each in held]
    distinct = list(dict.fromkeys(told))
    return [
        replace(row, cp_rank=distinct.index(each), cp_size=len(distinct)) for row, each in zip(rows, told, strict=True)
    ]


def _sequence(sample: Sample, side: Fields | None, rows: list[Row]) -> DumpedSequence | None:
    """The sequence out of the rows of all ranks of context parallelism, and out of the rollout's side."""
    told = [each for each in (side, *(row.fields for row in rows[:1])) if each is not None]
    content = {key: value for each in told for key, value in each.content.items() if value is not None}
    fields = Fields(content, told[-1].place)
    tokens, length = fields.ints("tokens"), fields.whole(*LENGTH)
    if tokens is None or length is None or not 0 <= length <= len(tokens):
        raise fields.error("tokens and response_length must tell the tokens of the response")
    mask = fields.flags("loss_masks", "loss_mask", shape=(length,))
    if fields.get("remove_sample"):
        mask = np.zeros(length, dtype=np.bool_)
    return sequence(
        fields,
        named(sample.rollout, sample.number),
        token=tokens[len(tokens) - length :],
        prompt=tokens[: len(tokens) - length],
        mask=mask,
        weight_version=_versions(fields, length, mask),
        reward=fields.number("raw_reward", "reward", "rewards"),
        step=sample.rollout,
        actor_topk=topk.of_fields(fields, "rollout_topk_token_ids", "rollout_topk_log_probs", length),
        **{name: _column(side, rows, source, len(tokens), length) for name, source in SLICED.items()},
    )


def _column(side: Fields | None, rows: list[Row], source: str, total: int, length: int) -> Floats | None:
    """A column of the response out of the ranks' chunks; where they have none, of the rollout's side."""
    chunks = {row.cp_rank: each for row in rows if (each := row.fields.floats(source)) is not None}
    if not chunks:
        return None if side is None else side.floats(source, shape=(length,))
    first = rows[0]
    if first.cp_size == 1:
        return first.fields.floats(source, shape=(length,))
    try:
        return assembled(chunks, total, length, first.cp_size, first.padded)
    except ValueError as error:
        raise first.fields.error(f"{source}: {error}") from error


def _versions(fields: Fields, length: int, mask: Flags | None) -> Ints | None:
    """The version of the weights at each token, where the dump tells it.

    There is one for each request to the server: for all tokens if they agree, or if there are as many as there are runs
    of tokens that are trained on, one for each run and for what follows it.
    """
    versions = fields.get("weight_versions")
    if not isinstance(versions, list | tuple) or not all(re.fullmatch(r"\d+", str(each)) for each in versions):
        return None
    numbers = np.array([int(each) for each in versions], dtype=np.int64)
    if not len(numbers):
        return None
    if np.all(numbers == numbers[0]):
        return np.full(length, numbers[0])
    live = np.ones(length, dtype=np.bool_) if mask is None else mask
    runs = np.cumsum(live & ~np.concatenate([[False], live[:-1]]))
    return numbers[np.maximum(runs - 1, 0)] if runs[-1] == len(numbers) else None
