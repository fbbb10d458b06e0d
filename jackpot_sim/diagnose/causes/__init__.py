"""Causes of a mismatch, one rule each, named only where the evidence is more than chance.

`columns` tells faults of the log-prob columns, `sampler` those of temperature, truncation and raw log-probs, `weights`
those that show along steps and lags, `parts` those of a few sequences, first tokens and ids, and `everywhere` what is
left, by its size. `naming` tries them in turn. `python -m tests.confusion` shows how often each is right.

What tells two causes apart may be missing in a dump. Log-probs that are raw on both sides show in the entropy or the
top-k alone. Stale weights of mixed lags show by the versions, or else by sequences that agree among others that do not;
weights that are all equally old look like coarse numbers, and then both are named, each with less confidence. A sync
that failed before the first step of the dump looks like another model.
"""

from jackpot_sim.diagnose.causes.naming import named

__all__ = ["named"]
