"""Corrections of an actor-policy mismatch: the accept probability and the weight of each token."""
