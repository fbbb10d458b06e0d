"""The lines between a small and a large mismatch, as others reported them: one home for diagnosis and studies."""

GOOD, BAD = 0.005, 0.01
"""The mean |p − q| of drawn tokens up to which verl calls a run good, and beyond which bad (its own metric)."""
HALF = 0.5
"""The effective share of the tokens under weights p/q below which exact weights at least double the variance."""
STABLE = 0.86
"""The 5th percentile of the overlap Σ min(p, q) of a token's laws from which training was reported stable (arXiv
2606.08446, appendix E: a mean of .968 crashed and one of .977 did not, so that the mean misleads)."""
