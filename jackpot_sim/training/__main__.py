"""`python -m jackpot_sim.training`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("training", "jackpot_sim.training.cli"))
