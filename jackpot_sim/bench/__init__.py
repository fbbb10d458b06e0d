"""Benchmarks of time and memory, measured side by side in one run: `python -m jackpot_sim.bench`."""
