"""`python -m jackpot_sim.sweep`: see `--help`."""

import sys

if __name__ == "__main__":
    try:
        from jackpot_sim.sweep.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while the imports were still running
        print("sweep: interrupted before it began", file=sys.stderr)
        sys.exit(130)
