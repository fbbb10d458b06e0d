"""Figures of the mismatch over a whole dump, in one pass: metrics, breakdowns, trends, the worst, a sample."""
