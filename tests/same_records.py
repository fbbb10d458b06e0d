"""A command that shows whether a change of the code leaves every figure of four studies as it was, bit for bit.

    git worktree add ../before COMMIT && (cd ../before && python -m tests.same_records write /tmp/before)
    python -m tests.same_records write /tmp/after
    python -m tests.same_records compare /tmp/before /tmp/after

`write` runs the commands of the tree that it is started in: the default sweep, the sweep of small language models,
the example of real models with its sweep, and a short training run with a jointly trained actor. `compare` reads
every table of both folders. Columns that say how long a row took, or which code wrote it, do not count; a table or
a column that one side alone has is a difference. Exit codes: 0 all equal, 1 something differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

NOT_FIGURES = {"seconds", "weight_seconds", "version", "numpy", "python", "commit"}

TRAINING = (
    "--actor joint --correction jackpot --correction.target p_new --steps 6 --evaluation.every 3 "
    "--rollout.prompts 8 --update.minibatches 2 --policy.accuracy 0.1"
)


COMMANDS = (
    "jackpot_sim.sweep --quiet --out default",
    "jackpot_sim.sweep --quiet --env.kind small-lm --out small-lm",
    "jackpot_sim.environments.language_models.example models",
    "jackpot_sim.sweep --quiet --env.kind hf --env.policy models/policy --env.actor models/actor "
    "--env.prompts models/prompts.jsonl --out hf",
    f"jackpot_sim.training --quiet {TRAINING} --out training",
)
"""Command lines after `python -m`, run in the folder of the records: the paths of models are part of a cell's name."""


def write(root: Path) -> int:
    """Runs every command; one thread for each worker, so that sums are taken in one order."""
    root.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for command in COMMANDS:
        print(f"python -m {command}", flush=True)
        subprocess.run([sys.executable, "-m", *command.split()], check=True, cwd=root, env=environment)
    return 0


def compare(before: Path, after: Path) -> int:
    """Prints every table that differs, and how many there are."""
    tables = sorted({path.relative_to(root) for root in (before, after) for path in root.rglob("*.parquet")})
    differing = [difference for table in tables if (difference := _difference(before / table, after / table))]
    for difference in differing:
        print(difference)
    print(f"{len(tables) - len(differing)} of {len(tables)} tables are equal")
    return 1 if differing or not tables else 0


def _difference(before: Path, after: Path) -> str:
    for path in (before, after):
        if not path.is_file():
            return f"{path} is missing"
    old, new = (pd.read_parquet(path) for path in (before, after))
    if set(old) != set(new):
        return f"{after}: columns {sorted(set(old) ^ set(new))} are on one side only"
    if len(old) != len(new):
        return f"{after}: {len(old)} rows before, {len(new)} after"
    differing = [name for name in old if name not in NOT_FIGURES and not old[name].equals(new[name])]
    return f"{after}: {', '.join(differing)}" if differing else ""


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    match arguments:
        case ["write", root]:
            return write(Path(root))
        case ["compare", before, after]:
            return compare(Path(before), Path(after))
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
