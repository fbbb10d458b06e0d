"""The bundled study of each figure, run once by the figure itself, in a folder of its own."""

from __future__ import annotations

import io
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from matplotlib.figure import Figure

from paper_figures import figure2, noise_family, style, unification

MAINS = {"figure2": figure2.main, "unification": unification.main, "noise_family": noise_family.main}


class Drawn(NamedTuple):
    code: int
    out: str
    err: str
    records: Path
    files: Path


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out and drawn, with all that can go wrong then, but neither rendered nor written.

    For tests of what figures say: that each is written as PDF and PNG is tested where its own records are drawn.
    """

    def save(figure: Figure, folder: Path, name: str) -> list[Path]:
        figure.draw_without_rendering()
        return [folder / f"{name}.{kind}" for kind in ("pdf", "png")]

    monkeypatch.setattr(style, "save", save)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    """Each figure drawn from its own study, which runs here."""
    place, found = tmp_path_factory.mktemp("figures"), {}
    with chdir(place):
        for name, main in MAINS.items():
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                code = main(["--rerun"])
            found[name] = Drawn(code, out.getvalue(), err.getvalue(), place / "runs/figures" / name, place / "figures")
    return found
