"""The parts of `analysis` that figures use. It lies beside this package: in a checkout, and once installed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__ == "paper_figures":
    from analysis import asked, bootstrap, style, tables
    from analysis.bootstrap import Options
    from analysis.training import curves, records, statistics
else:
    from ..analysis import asked, bootstrap, style, tables
    from ..analysis.bootstrap import Options
    from ..analysis.training import curves, records, statistics

__all__ = ["Options", "asked", "bootstrap", "curves", "records", "statistics", "style", "tables"]
