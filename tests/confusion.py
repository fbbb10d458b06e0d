"""A command that plants known faults in dumps of small real language models and prints which cause is named first.

    python -m tests.confusion [--seeds N] [--first S] [--worlds W] [--family first|second] [--bare] [FAULT...]

Each row is a fault at one strength (`tests/diagnose/faults.py` says what each is), or a clean dump of one engine; each
column is the cause that is named first, and `-` is none. Numbers are shares of the dumps in percent. The dumps of a row
come from W worlds, each with a policy of its own taught from a seed of its own: S, S + 1, …; thresholds were chosen on
worlds 0 to 2, which S = 100 keeps apart. The engine of a world, beside the fault, computes in float32, bfloat16 or int8
weights, in turn. `--bare` takes away entropies, weight versions and top-k, which many frameworks do not write.
All of it takes about nine minutes of one busy core.

The last column is the mean confidence of the cause named first. Below the table stand the shares that are right at full
strength and on clean dumps, and how often causes of each confidence are right.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from jackpot_sim.diagnose.causes import named
from jackpot_sim.diagnose.results import Cause, CauseName
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.causes.dumps import evidence_of
from tests.diagnose.faults import FAULTS, Strength, bare, clean, faulty
from tests.diagnose.lab import Engine, Lab
from tests.diagnose.worlds import SECOND, Family, World

NONE = "-"
"""The column of dumps in which no cause is named."""
FAMILIES = {"first": Family(), "second": SECOND}
_BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)


@dataclass
class Row:
    """The dumps of one fault and strength.

    Attributes:
        truth: the cause planted; None in clean dumps.
        named: how often each cause was named first.
        confidence: of the cause named first, one for each dump that has one, with whether it is right.
    """

    truth: CauseName | None
    named: Counter[str] = field(default_factory=Counter)
    confidence: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, causes: Sequence[Cause]) -> None:
        """Counts a dump."""
        first = causes[0] if causes else None
        self.named[first.name if first else NONE] += 1
        if first:
            self.confidence.append((first.confidence, first.name == self.truth))

    @property
    def right(self) -> float:
        """The share of dumps in which what was planted is named first."""
        return self.named[self.truth or NONE] / self.named.total()


def rows(
    family: Family,
    seeds: int,
    first: int,
    worlds: int,
    faults: Sequence[str],
    is_bare: bool = False,
    strengths: Sequence[Strength] = tuple(Strength),
) -> dict[str, Row]:
    """The matrix: a row for each engine of clean dumps and for each strength of each fault."""
    out: dict[str, Row] = {}
    with torch_threads(1), torch.random.fork_rng(devices=[]):
        for number in range(min(worlds, seeds)):
            own = tuple(range(first + number, first + seeds, worlds))
            lab = Lab(World(family, first + number), own, list(Engine)[number % len(Engine)])
            for name, truth, tables in _dumps(lab, faults, strengths):
                row = out.setdefault(name, Row(truth))
                for table in tables:
                    row.add(named(evidence_of(bare(table) if is_bare else table)))
    return out


def _dumps(
    lab: Lab, faults: Sequence[str], strengths: Sequence[Strength]
) -> Iterator[tuple[str, CauseName | None, list[TokenTable]]]:
    for engine in Engine:
        yield f"clean {engine}", None, clean(lab, engine)
    for fault in faults:
        for strength in strengths:
            yield f"{fault} {strength}", FAULTS[fault][0], faulty(lab, fault, strength)


def printed(matrix: dict[str, Row]) -> str:
    """The table, with what follows from it."""
    columns = [*CauseName, NONE]
    lines = [f"{'':20}{'dumps':>6} " + " ".join(f"{each[:9]:>9}" for each in columns) + f" {'sure':>5}"]
    for name, row in matrix.items():
        dumps = row.named.total()
        cells = [f"{row.named[each] / dumps:9.0%}" if row.named[each] else f"{'.':>9}" for each in columns]
        sure = [confidence for confidence, _ in row.confidence]
        lines.append(
            f"{name:20}{dumps:6} " + " ".join(cells) + f" {sum(sure) / len(sure) if sure else float('nan'):5.2f}"
        )
    full = {name: row for name, row in matrix.items() if name.endswith(Strength.FULL)}
    for title, some in (
        ("right at full strength", full),
        ("right at all strengths", {name: row for name, row in matrix.items() if row.truth}),
        ("nothing named in clean dumps", {name: row for name, row in matrix.items() if row.truth is None}),
    ):
        if some:
            right = sum(row.named[row.truth or NONE] for row in some.values())
            dumps = sum(row.named.total() for row in some.values())
            least = min(some, key=lambda name: some[name].right)
            lines.append(f"{title}: {right / dumps:.1%} of {dumps}; least {some[least].right:.0%} ({least})")
    every = [each for row in matrix.values() for each in row.confidence]
    for low, high in pairwise(_BINS):
        here = [right for confidence, right in every if low <= confidence < high or (confidence == high == 1)]
        if here:
            lines.append(f"confidence {low:.1f} to {high:.1f}: {sum(here) / len(here):.1%} right of {len(here)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the matrix; 1 where a full fault is found, or a clean dump left alone, in less than 95 %."""
    parser = argparse.ArgumentParser(prog="python -m tests.confusion", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--family", choices=FAMILIES, default="first")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("faults", nargs="*", default=[])
    given = parser.parse_args(argv)
    began = time.perf_counter(), time.process_time()
    matrix = rows(
        FAMILIES[given.family], given.seeds, given.first, given.worlds, given.faults or list(FAULTS), given.bare
    )
    print(printed(matrix))
    print(f"{time.perf_counter() - began[0]:.0f} s, {time.process_time() - began[1]:.0f} s of one core")
    tried = [row for name, row in matrix.items() if row.truth is None or name.endswith(Strength.FULL)]
    return int(any(row.right < 0.95 for row in tried))


if __name__ == "__main__":
    raise SystemExit(main())
