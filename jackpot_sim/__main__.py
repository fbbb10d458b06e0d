"""`python -m jackpot_sim`: the commands that there are, and `python -m jackpot_sim COMMAND …`, which runs one."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence

from jackpot_sim.requirements import run

COMMANDS = {
    "sweep": ("jackpot_sim.sweep.cli", "measure estimators in a grid of mismatched policies and actors"),
    "analysis": ("analysis.cli", "make tables with uncertainty from the records of a sweep"),
    "diagnose": ("jackpot_sim.diagnose.cli", "judge your rollouts' mismatch: causes, corrections, advice"),
    "training": ("jackpot_sim.training.cli", "train a policy by GRPO on the rollouts of another actor"),
    "bench": ("jackpot_sim.bench.cli", "measure accuracy, speed and memory beside their targets"),
    "paper_figures": ("paper_figures.__main__", "draw all figures; python -m paper_figures.NAME draws one"),
    "example": ("jackpot_sim.environments.language_models.example", "make two small language models to try things on"),
}
"""Each command: the module of its `main`, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Lists the commands, or runs the one that is named with the arguments after it; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h"):
        print("python -m jackpot_sim NAME ... runs a command; NAME --help tells its options:\n")
        print("\n".join(f"  {name:14} {about}" for name, (_, about) in COMMANDS.items()))
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace("-", "_"), COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"jackpot_sim: there is no command {name!a}{hint} (there are {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    return run(name, COMMANDS[name][0], rest)


if __name__ == "__main__":
    sys.exit(main())
