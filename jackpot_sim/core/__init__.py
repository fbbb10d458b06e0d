"""Pure maths on the Array API: divergences, OBRS, budgets, normalisers. Imports nothing else of the project."""
