"""Bias, variance and MSE over sequences of small models: every sequence enumerated, or drawn."""
