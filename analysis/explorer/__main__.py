"""`python -m analysis.explorer`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("explore", f"{__package__}.cli"))
