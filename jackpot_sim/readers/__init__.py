"""Dumps of rollouts that users have, read into one table of tokens, and checked before anything is averaged."""
