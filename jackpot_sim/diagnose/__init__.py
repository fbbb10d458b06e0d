"""Users' rollouts with both policies' log-probs: is the mismatch dangerous, why, and what to do about it."""
