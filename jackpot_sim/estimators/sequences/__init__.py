"""Bias, variance and MSE over sequences of small models, enumerated or drawn."""
