"""The distance of the simulation from the published numbers of [J]."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jackpot_sim.bench.timing import Finding
from jackpot_sim.beside import beside


def figure2() -> Iterator[Finding]:
    """The deviation from every published point of Figure 2, in units of the allowed one, in the study that draws it."""
    from jackpot_sim.studies.executors import SerialExecutor
    from jackpot_sim.sweep.run import run

    # The figures stand above this package; only this benchmark of them reaches up.
    figure, records = (importlib.import_module(beside(f"paper_figures.{name}")) for name in ("figure2", "records"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "figure2"
        run(records.study(figure.NAME), root, SerialExecutor())
        points = figure.deviations(records.load(figure.NAME, root))
    for point in points.to_dict("records"):
        what = f"figure 2, {point['figure']} at KL {point['kl_before']:g}: deviation / allowed"
        note = f"paper {point['paper']:g}, ours {point['ours']:.4g} ± {point['se']:.1g}"
        yield Finding(what, abs(point["deviation"]) / point["allowed"], at_most=1, note=note)
