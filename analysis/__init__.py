"""What a study says: tables with uncertainty, from the records that `jackpot_sim.sweep` leaves."""
