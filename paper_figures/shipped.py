"""The files that ship with the figures: configurations, published numbers, and the records of the figures' own studies.

Those of a numerical study are a folder, `measured/NAME`, with the manifest of its run and each table in one file. It
is made of a finished run, which `--rerun` leaves in runs/figures/NAME:

    python -m paper_figures.figure2 --rerun && python -m paper_figures.shipped figure2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jackpot_sim import commands
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import records


def bundled(*parts: str) -> Path:
    """The path of a file or a folder of this package."""
    return Path(str(resources.files(__package__).joinpath(*parts)))


def measured(name: str) -> Path:
    """The folder, or the file, of the records that ship under this name; it may be missing."""
    return bundled("measured", name)


def own(name: str) -> Path:
    """The folder in which the study of figure `name` runs."""
    return Path("runs") / "figures" / name


def main(argv: Sequence[str] | None = None) -> int:
    """Puts finished runs in the place of the records that ship; the exit code."""
    app = commands.app_of(f"{__package__}.shipped", "Put finished runs in the place of the records that ship.")

    @app.default
    def ship(*names: str) -> int:
        """Pack runs.

        Args:
            names: The figures whose studies have run in runs/figures.
        """
        if not names:
            raise StudyError("name the figures whose runs are to ship")
        for name in names:
            records.pack(own(name), measured(name))
            print(f"{own(name)} ships as {measured(name)}.")
        return 0

    return commands.answer(app, "shipped", argv, failures=(StudyError,))


if __name__ == "__main__":
    sys.exit(main())
