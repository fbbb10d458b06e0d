"""Tables with uncertainty, from the records of a study by `jackpot_sim.sweep`."""
