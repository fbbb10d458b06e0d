"""What things cost, measured side by side in one run: `python -m jackpot_sim.bench`."""
