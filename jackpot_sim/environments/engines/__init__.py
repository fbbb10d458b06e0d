"""Engines: whatever writes rollouts, and says how likely their tokens are."""
