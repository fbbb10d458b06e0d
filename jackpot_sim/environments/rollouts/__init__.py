"""Real models, whose sequences are drawn."""
