"""`python -m jackpot_sim.sweep`: see `--help`."""

import sys

from jackpot_sim.sweep.cli import main

if __name__ == "__main__":
    sys.exit(main())
