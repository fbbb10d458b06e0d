"""`python -m jackpot_sim.training`: see `cli`."""

from __future__ import annotations

import sys

from jackpot_sim.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
