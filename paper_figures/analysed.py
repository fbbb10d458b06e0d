"""What figures take from `analysis`, which lies beside this package: in a checkout, and once installed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__ == "paper_figures":
    from analysis import bootstrap, tables
    from analysis.bootstrap import Options
else:
    from ..analysis import bootstrap, tables
    from ..analysis.bootstrap import Options

__all__ = ["Options", "bootstrap", "tables"]
