"""`jackpot-sim`, or `python -m jackpot_sim`: the commands that there are, and `jackpot-sim COMMAND …`, which runs one.

Nothing is imported but what the command that is asked for needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jackpot_sim.start import answer_interrupts

COMMANDS = {
    "sweep": ("jackpot_sim.sweep.cli", "measure estimators in a grid of mismatched policies and actors"),
    "diagnose": ("jackpot_sim.diagnose.cli", "judge your rollouts' mismatch: causes, corrections, advice"),
    "train": ("jackpot_sim.training.cli", "train a policy by GRPO on the rollouts of another actor"),
    "record": ("jackpot_sim.record.cli", "keep rollouts of a server, or any dump, in the plain schema"),
    "report": ("jackpot_sim.report.cli", "show the tables of a run's folder again, whatever wrote it"),
    "analysis": ("analysis.cli", "make tables with uncertainty from the records of a sweep"),
    "explore": ("analysis.explorer.cli", "write a page to move lambda, clip and noise, and see answers"),
    "figures": ("paper_figures.__main__", "draw all figures, or the one that is named"),
    "bench": ("jackpot_sim.bench.cli", "measure accuracy, speed and memory beside their targets"),
    "example": ("jackpot_sim.environments.language_models.example", "make two small language models to try things on"),
    "doctor": ("jackpot_sim.doctor.cli", "say what is installed, tested, missing, and for what"),
    "completion": ("jackpot_sim.completion", "print the script that --install-completion installs"),
}
"""Each command: the module of its `main`, and what it does."""

OLD_NAMES = {"training": "train", "paper_figures": "figures"}
"""The names that commands had, which still run them."""

INSTALL = "--install-completion"

_USAGE = """\
jackpot-sim COMMAND ... runs a command; COMMAND --help tells its options:
"""
_EPILOGUE = f"""
  --version                    the version, its commit if known, Python's
  {INSTALL} [SHELL] let bash, zsh or fish complete all this
  --help, -h                   this list"""


def main(argv: Sequence[str] | None = None) -> int:
    """Lists the commands, or runs the one that is named with the arguments after it; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        answer_interrupts(arguments[0] if arguments else "jackpot-sim")
    if not arguments or arguments[0] in ("--help", "-h"):
        print(_USAGE)
        print("\n".join(f"  {name:14} {about}" for name, (_, about) in COMMANDS.items()))
        print(_EPILOGUE)
        return 0
    name, *rest = arguments
    if name == "--version":
        from jackpot_sim import version

        print(version.line())
        return 0
    if name == INSTALL:
        return _run("completion", ["--install", *rest])
    if (known := OLD_NAMES.get(name, name)) in COMMANDS:
        return _run(known, rest)
    import difflib

    near = difflib.get_close_matches(name.replace("-", "_"), [*COMMANDS, *OLD_NAMES], n=1)
    hint = f"; did you mean {OLD_NAMES.get(near[0], near[0])}?" if near else ""
    print(f"jackpot_sim: there is no command {name!a}{hint} (there are {', '.join(COMMANDS)})", file=sys.stderr)
    return 2


def _run(name: str, arguments: list[str]) -> int:
    try:
        if name == "doctor":  # which answers where packages of the core are missing, too
            from jackpot_sim.doctor.start import main as doctor

            return doctor(arguments)
        from jackpot_sim.requirements import run
    except ImportError as error:  # of packaging, by which versions are compared
        print(f"{name}: {error}: pip install packaging", file=sys.stderr)
        return 2
    return run(name, COMMANDS[name][0], arguments)


if __name__ == "__main__":
    sys.exit(main())
