"""The command line of `jackpot-sim doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from jackpot_sim.commands import FLAG, answer, app_of
from jackpot_sim.doctor import report

app = app_of(
    "jackpot_sim.doctor",
    "Say what is installed, which versions were tested, which devices there are, and what is missing for what.",
    "A version is tested from the lower bound in the project's metadata up to the newest one that all tests passed "
    "with. Newer ones may work, and are warned of; older ones do not.\n\n"
    "Exit codes: 0 the core can be used; 2 it cannot, or bad input. What an extra lacks does not count.",
)


@app.default
def doctor(*, json: Annotated[bool, FLAG] = False, quick: Annotated[bool, FLAG] = False) -> int:
    """Look around.

    Args:
        json: Print it as JSON.
        quick: Import no package: whether each can be imported, and the devices, stay unknown.
    """
    return report.told(as_json=json, quick=quick)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report; the exit code."""
    return answer(app, "doctor", argv)
