"""`python -m jackpot_sim.doctor`: see `--help`."""

import sys

from jackpot_sim.start import answer_interrupts


def main() -> int:
    """Runs the command on the arguments of the process; the exit code."""
    answer_interrupts("doctor")
    from jackpot_sim.doctor import start

    return start.main()


if __name__ == "__main__":
    sys.exit(main())
