"""Small causal language models: built or loaded, trained for a moment, and scored at every prefix."""
