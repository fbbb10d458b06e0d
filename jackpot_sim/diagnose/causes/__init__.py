"""Causes of a mismatch, one rule each, named only where the evidence is more than chance."""
