"""Causes of a mismatch, one rule each, named only where the evidence is more than chance."""

from jackpot_sim.diagnose.causes.naming import named as named
