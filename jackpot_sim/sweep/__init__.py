"""Studies: a grid of environments and estimators, run on any executor; a kill loses no finished cell."""
