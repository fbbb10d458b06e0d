"""`python -m jackpot_sim.record`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("record", "jackpot_sim.record.cli"))
