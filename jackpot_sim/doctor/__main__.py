"""`python -m jackpot_sim.doctor`: see `--help`."""

import sys

from jackpot_sim.doctor.start import main

if __name__ == "__main__":
    sys.exit(main())
