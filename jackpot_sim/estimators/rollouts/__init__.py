"""Rollouts of which only the drawn tokens are scored: weights, exact figures at visited states, gradients."""
