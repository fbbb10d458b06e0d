"""The models of a run: those that it begins with, the one that writes its rollouts, and their texts in tokens."""
