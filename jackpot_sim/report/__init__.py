"""The tables of a run's folder, whichever command wrote it."""
