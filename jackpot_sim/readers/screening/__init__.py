"""The checks of a dump before anything is averaged: what cannot count is left out, and counted."""

from jackpot_sim.readers.screening.screening import Screening

__all__ = ["Screening"]
