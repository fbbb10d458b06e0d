"""Corrections of an actor-policy mismatch: what a token gets, as (accept probability, weight)."""
