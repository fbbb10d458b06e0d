"""The mismatch by one property of the tokens at a time.

Positions and lengths are cut at powers of two, entropies and probabilities at fixed numbers, so that slices are the
same for all dumps and bounded in number. Steps and weight versions have a slice each, and memory grows with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.metrics import FAR
from jackpot_sim.diagnose.results import Breakdown, Row

FIGURES = ("k1", "k3", "abs_log_ratio_mean", "far_share", "probability_gap", "confident_disagreement")
"""The figures of a slice, means over its tokens, as `metrics` describes them."""
PROBABILITIES = (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
"""The lower ends of slices by the actor's probability of the token."""
_LOG_PROBABILITIES = (-math.inf, *(math.log(each) for each in PROBABILITIES[1:]))
ENTROPIES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0)
"""The lower ends of slices by the entropy of the policy's law, nats."""

Sums: TypeAlias = Floats
"""Tokens, sequences and Σ of each figure, (slices, 2 + figures)."""
Key: TypeAlias = tuple[int, ...]


def _above(ends: tuple[float, ...], values: Floats) -> Ints:
    place = np.zeros(len(values), dtype=np.int8)
    for end in ends[1:]:
        place += values >= end
    return np.where(np.isnan(values), -1, place.astype(np.int64))


def _octave(values: Ints) -> Ints:
    """The number of binary digits: 0 → 0, 1 → 1, 2 and 3 → 2, 4 to 7 → 3."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _octave_name(place: int) -> str:
    first, last = 2**place // 2, 2**place - 1
    return str(first) if first >= last else f"{first}–{last}"


def _range_name(ends: tuple[float, ...], last: str) -> Callable[[int], str]:
    names = [f"{low:g}–{high:g}" for low, high in zip(ends, [*ends[1:], None], strict=True) if high is not None]
    return [*names, last].__getitem__


_FIXED: Mapping[str, tuple[Callable[[Batch], Ints | None], Callable[[int], str]]] = {
    "position": (lambda batch: _octave(batch.table.position), _octave_name),
    "length": (lambda batch: _octave(batch.table.lengths)[batch.table.owner], _octave_name),
    "entropy": (
        lambda batch: None if batch.table.entropy is None else _above(ENTROPIES, batch.table.entropy),
        _range_name(ENTROPIES, f"over {ENTROPIES[-1]:g}"),
    ),
    "probability": (
        lambda batch: _above(_LOG_PROBABILITIES, batch.actor_log_probs),
        _range_name(PROBABILITIES, f"{PROBABILITIES[-1]:g}–1"),
    ),
}
"""The slice of each token and the name of a slice, by the property; −1, or None of all, where the dump lacks it."""


class Breakdowns:
    """An accumulator of sums over slices."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[Key, Floats]] = {by: {} for by in (*_FIXED, "step", "version")}
        self._rewards: dict[int, Floats] = {}
        """Σ of the known rewards of each step's sequences, and their number."""

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        values, table = _values(batch), batch.table
        for by, (slices, _) in _FIXED.items():
            place = slices(batch)
            if place is not None:
                runs = _runs(batch, values, [place])
                sums = _summed(runs, runs.columns[0], table.sequences)
                self._collect(by, [(each,) for each in range(len(sums))], sums)
        step = None if table.step is None else table.step[table.owner]
        for by, columns in (("step", [step]), ("version", [table.weight_version, step])):
            known = [each for each in columns if each is not None]
            if columns[0] is not None:
                runs = _runs(batch, values, known)
                keys, place = _unique(runs.columns)
                self._collect(by, keys, _summed(runs, place, table.sequences))
        if table.step is not None and table.reward is not None:
            rewarded = ~np.isnan(table.reward)
            steps, at = np.unique(table.step[rewarded], return_inverse=True)
            rewards = np.stack([np.bincount(at, table.reward[rewarded]), np.bincount(at)], axis=-1)
            self._collect_rewards(dict(zip(steps.tolist(), rewards, strict=True)))

    def merge(self, later: Self) -> None:
        """Takes in the sums of the batches that come next."""
        for by, sums in later._sums.items():
            self._collect(by, list(sums), np.array(list(sums.values())))
        self._collect_rewards(later._rewards)

    def results(self) -> list[Breakdown]:
        """The breakdowns by the properties that the dump has, without empty slices."""
        versions = self._sums["version"]
        found = [Breakdown(by=by, rows=_rows(self._sums[by], name)) for by, (_, name) in _FIXED.items()]
        for by, sums in (
            ("step", self._sums["step"]),
            ("weight-version", _regrouped(versions, _version)),
            ("lag", _regrouped(versions, _lag(versions))),
        ):
            found.append(Breakdown(by=by, rows=_rows(sums, str)))
        found = [self._with_rewards(each) if each.by == "step" else each for each in found]
        return [each for each in found if each.rows]

    def _with_rewards(self, steps: Breakdown) -> Breakdown:
        """The breakdown by step with the mean reward of each step's sequences, where the dump has rewards."""
        if not self._rewards:
            return steps
        means = {str(step): float(total / number) for step, (total, number) in self._rewards.items()}
        rows = [
            each.model_copy(update={"figures": each.figures | {"reward": means.get(each.slice)}}) for each in steps.rows
        ]
        return steps.model_copy(update={"rows": rows})

    def _collect_rewards(self, sums: Mapping[int, Floats]) -> None:
        for step, each in sums.items():
            self._rewards[step] = self._rewards[step] + each if step in self._rewards else each

    def _collect(self, by: str, keys: list[Key], sums: Sums) -> None:
        mine = self._sums[by]
        for key, each in zip(keys, sums, strict=True):
            if each[0]:
                mine[key] = mine[key] + each if key in mine else each


def _values(batch: Batch) -> list[Floats]:
    far = (batch.size > FAR).astype(np.float64)
    return [-batch.log_ratio, batch.k3, batch.size, far, batch.probability_gap, batch.confident]


class _Runs(NamedTuple):
    """Tokens, or runs of neighbouring tokens that share their sequence and slice: (m,) each."""

    columns: list[Ints]
    """What says the slice."""
    tokens: Floats
    owner: Ints
    values: list[Floats]
    """Σ of each figure over the run."""


def _runs(batch: Batch, values: list[Floats], columns: list[Ints]) -> _Runs:
    """The runs where there are far fewer than tokens, and else the tokens: sums over a run cost next to nothing."""
    table = batch.table
    begins = np.ones(len(table), dtype=bool)
    begins[1:] = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        begins[1:] |= column[1:] != column[:-1]
    begins[table.starts[:-1]] = True
    (first,) = np.nonzero(begins)
    if 4 * len(first) > len(table):
        return _Runs(columns, np.ones(len(table)), table.owner, values)
    with overflow_to_inf():
        sums = [np.add.reduceat(each, first) for each in values]
    tokens = np.diff(np.append(first, len(table))).astype(np.float64)
    return _Runs([each[first] for each in columns], tokens, table.owner[first], sums)


def _summed(runs: _Runs, place: Ints, sequences: int) -> Sums:
    """The sums over slices from the slice of each run, (m,), −1 for none."""
    owner, values = runs.owner, [runs.tokens, *runs.values]
    if place.min() < 0:
        live = place >= 0
        place, owner, values = place[live], owner[live], [each[live] for each in values]
    count = int(place.max(initial=-1)) + 1
    there = np.zeros((count, sequences), dtype=bool)
    there[place, owner] = True
    with overflow_to_inf():
        tokens, *sums = (np.bincount(place, each, count) for each in values)
    return np.stack([tokens, there.sum(axis=1), *sums], axis=-1)


def _unique(columns: list[Ints]) -> tuple[list[Key], Ints]:
    """The tuples of integers that occur, in order, and the place of each row's among them, (N,)."""
    place = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, inner = np.unique(column, return_inverse=True)
        place = place * len(values) + inner
    _, first, place = np.unique(place, return_index=True, return_inverse=True)
    return [tuple(int(column[each]) for column in columns) for each in first], place


def _version(key: Key) -> Key | None:
    return key[:1]


def _lag(sums: Mapping[Key, Floats]) -> Callable[[Key], Key | None]:
    """The number of versions by which a token's weights are older than the newest in its step."""
    newest: dict[int, int] = {}
    for version, *step in sums:
        if step:
            newest[step[0]] = max(version, newest.get(step[0], version))

    def lag(key: Key) -> Key | None:
        return (newest[key[1]] - key[0],) if len(key) > 1 else None

    return lag


def _regrouped(sums: Mapping[Key, Floats], to: Callable[[Key], Key | None]) -> dict[Key, Floats]:
    """The sums by another key; those whose key is None are left out."""
    found: dict[Key, Floats] = {}
    for key, each in sums.items():
        new = to(key)
        if new is not None:
            found[new] = found[new] + each if new in found else each
    return found


def _rows(sums: Mapping[Key, Floats], name: Callable[[int], str]) -> list[Row]:
    return [_row(name(key[0]), *sums[key].tolist()) for key in sorted(sums)]


def _row(name: str, tokens: float, sequences: float, *figures: float) -> Row:
    means = {figure: value / tokens for figure, value in zip(FIGURES, figures, strict=True)}
    known = {figure: mean if np.isfinite(mean) else None for figure, mean in means.items()}
    return Row(slice=name, tokens=int(tokens), sequences=int(sequences), figures=known)
