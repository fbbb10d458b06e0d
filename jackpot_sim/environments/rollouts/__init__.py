"""Real models, whose rollouts are drawn and scored."""
