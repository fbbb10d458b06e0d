"""The command line of `jackpot-sim explore`."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jackpot_sim.commands import FLAG, answer, app_of
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically

from . import page

app = app_of(
    __package__,
    "Write a page on which λ, the clip, the noise and the vocabulary are moved, and every correction answers at once.",
    "The page computes everything itself and loads nothing: it works offline, and can be sent. "
    "Its address holds the settings.\n\n"
    "Exit codes: 0 written; 2 something asked for cannot be done (one sentence says what).",
)


@app.default
def explore(
    *, out: Path = Path("explorer.html"), open_: Annotated[bool, Parameter(name="--open"), FLAG] = False
) -> int:
    """Write the page.

    Args:
        out: The file to write.
        open_: Open it in the browser.
    """
    try:
        write_atomically(out, lambda path: path.write_text(page(), encoding="utf-8"))
    except OSError as error:
        raise unwritable(out, error) from error
    print(f"The explorer is in {out}: open it in a browser.")
    if open_ and not webbrowser.open(out.resolve().as_uri()):
        raise StudyError(f"no browser can be opened from here: open {out} yourself")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page, and turns every foreseeable failure into one sentence and exit code 2."""
    return answer(app, "explore", argv, failures=(StudyError,))
