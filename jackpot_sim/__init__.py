"""Simulation and analysis of actor-policy mismatch in RL for language models."""

__version__ = "0.5.0"
