"""`python -m analysis.report`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("report", "jackpot_sim.report.cli"))
