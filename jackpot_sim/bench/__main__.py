"""`python -m jackpot_sim.bench`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("bench", "jackpot_sim.bench.cli"))
