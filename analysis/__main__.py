"""`python -m analysis`: see `--help`."""

import sys

from jackpot_sim.start import run

if __name__ == "__main__":
    sys.exit(run("analysis", f"{__package__}.cli"))
