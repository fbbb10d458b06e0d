"""Causal language models through transformers: built or loaded, trained, sampled, and scored at every prefix."""
