"""Fuzz of public functions that take arrays: a wrong array is refused, or makes no difference."""
