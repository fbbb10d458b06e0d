"""A command that knocks at every public function that takes arrays, with arrays of wrong shapes and dtypes.

    python -m tests.doors [--tries N] [--seed S] [NAME...]

Sizes are random, equal ones among them (as many states as tokens, as many sequences as steps). The table counts the
knocks at each function that were refused in one sentence, or gave the right result all the same; faults are listed,
and the exit code is then 1. NAME picks functions by a part of their name.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from tests.doors.harness import Knock, Outcome, knocks
from tests.doors.registry import DOORS


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 with faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.doors", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a part of a function's name")
    parser.add_argument("--tries", type=int, default=10_000, help="the least number of knocks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    doors = [door for door in DOORS if not options.names or any(name in str(door) for name in options.names)]
    if not doors:
        parser.error(f"no function is called {' or '.join(options.names)}")
    generator, counts, faults = np.random.default_rng(options.seed), Counter[tuple[str, Outcome]](), dict[str, Knock]()
    while counts.total() < options.tries:
        for door in doors:
            letters = door.axes
            sizes = dict(zip(letters, generator.integers(1, 6, size=len(letters)).tolist(), strict=True))
            if generator.random() < 0.3:
                sizes = dict.fromkeys(letters, int(generator.integers(2, 5)))
            as_tensors = door.torch and (not door.numpy or generator.random() < 0.5)
            library = torch.as_tensor if as_tensors else np.asarray
            for knock in knocks(door, sizes, int(generator.integers(1 << 30)), library):
                counts[knock.door, knock.outcome] += 1
                if knock.is_fault:
                    faults.setdefault(f"{knock.door} {knock.argument} {knock.way.split(', ')[-1]}", knock)
    width = max(len(str(door)) for door in doors)
    print(f"{'function':{width}}  {'  '.join(f'{outcome:>16}' for outcome in Outcome)}")
    for door in doors:
        print(f"{door!s:{width}}  {'  '.join(f'{counts[str(door), outcome]:16,}' for outcome in Outcome)}")
    print(f"{counts.total():,} knocks at {len(doors)} functions, {len(faults)} kinds of faults")
    for knock in faults.values():
        print(f"  {knock}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
