"""The example dump: rollouts of a small language model's int8 weights, with the log-probs of both sides."""
