"""`python -m jackpot_sim.sweep`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("sweep", "jackpot_sim.sweep.cli"))
