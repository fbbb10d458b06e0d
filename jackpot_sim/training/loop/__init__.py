"""The training loop: one run from its first step to its last, with everything that a step does and measures."""
