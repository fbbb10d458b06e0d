"""Weights, exact figures at visited states, and gradients of rollouts of which only the drawn tokens are scored."""
