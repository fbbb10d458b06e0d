"""`python -m jackpot_sim.diagnose`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("diagnose", "jackpot_sim.diagnose.cli"))
