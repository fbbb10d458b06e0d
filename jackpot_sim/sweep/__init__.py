"""Studies: a grid of environments and estimators, run on any executor, recorded so that a kill loses nothing."""
