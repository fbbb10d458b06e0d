"""Bias, variance and MSE at independent states of known laws: exact, sampled, along a path of thresholds."""
