"""`python -m jackpot_sim.bench`: see `--help`."""

import sys

from jackpot_sim.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
