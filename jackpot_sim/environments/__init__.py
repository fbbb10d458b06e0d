"""Where pairs of policies that do not match come from. Imports core only."""
