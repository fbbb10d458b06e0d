"""Tiny language models whose sequences can be enumerated, and rewards of sequences."""
